import type { ClientId, ClientRecord } from "../../core/client.js";
import type { Audience } from "../../core/engine.js";
import type { Event } from "../../core/event.js";
import { type EventId, formatId } from "../../core/id.js";
import type { Tombstone } from "./records.js";

export interface NewEvent {
  readonly event: Event;
  /** Whom it matched on each relay. */
  readonly audiences: readonly Audience[];
}

/** An event, and what has taken its place. */
export interface Replaced {
  readonly event: Event;
  readonly by: EventId;
  /** Whether that is kept itself. */
  readonly isKept: boolean;
}

/** An idempotency key as a row. */
export interface NewKey {
  readonly owner: string;
  readonly key: Buffer;
  readonly value: Buffer;
  /** It was not known before; otherwise only its reply has come. */
  readonly isNew: boolean;
}

/** Each user of an event has its own place in the log: about as much work to write as so many characters. */
const USER_SIZE = 128;

/** What one commit makes safe: everything that came while the one before was under way. */
export class Group {
  readonly events: NewEvent[] = [];
  /** Events that were replaced, by their ids, and the ids of those that took their places. */
  readonly replaced = new Map<string, Replaced>();
  /** Clients as they are now. */
  readonly clients = new Map<ClientId, ClientRecord>();
  readonly gone = new Map<ClientId, Tombstone>();
  /** Clients of which only the progress has changed. */
  readonly moved = new Map<ClientId, ClientRecord>();
  /** Idempotency keys, by their digests. */
  readonly keys = new Map<string, NewKey>();
  /** Bytes that they add to what each owner's keys count with. */
  readonly keyBytes = new Map<string, number>();
  /** Commit this group even if it is empty: a readiness check waits for it. */
  isProbe = false;
  /** Characters of messages, and what stands for users. */
  size = 0;
  /** The last id in here. */
  head: EventId | undefined;
  readonly saved: Promise<void>;
  resolve: () => void = () => undefined;
  reject: (error: Error) => void = () => undefined;

  constructor() {
    this.saved = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    // Much of it has nobody who waits for it.
    this.saved.catch(() => undefined);
  }

  get isEmpty(): boolean {
    const { events, replaced, clients, gone, moved, keys } = this;
    const sets = [replaced, clients, gone, moved, keys];
    return !this.isProbe && events.length === 0 && sets.every(({ size }) => size === 0);
  }

  addEvent(event: Event, audiences: readonly Audience[], replaces: Event | undefined): void {
    this.events.push({ event, audiences });
    this.size += event.message.length + (event.users?.length ?? 0) * USER_SIZE;
    if (replaces) this.replace(replaces, event.id, true);
  }

  /** @param isKept whether what takes its place is kept */
  replace(event: Event, by: EventId, isKept: boolean): void {
    const id = formatId(event.id);
    if (!this.replaced.has(id)) this.replaced.set(id, { event, by, isKept });
  }

  /** Takes over all that a later group has. */
  add(later: Group): void {
    for (const event of later.events) this.events.push(event);
    for (const { event, by, isKept } of later.replaced.values()) this.replace(event, by, isKept);
    for (const record of later.clients.values()) this.putClient(record);
    for (const [id, tombstone] of later.gone) this.removeClient(id, tombstone);
    for (const record of later.moved.values()) this.moveClient(record);
    for (const [digest, key] of later.keys) this.putKey(digest, key, 0);
    for (const [owner, bytes] of later.keyBytes) this.addKeyBytes(owner, bytes);
    this.head = later.head ?? this.head;
  }

  /** @param bytes that it adds to what the owner's keys count with */
  putKey(digest: string, key: NewKey, bytes: number): void {
    const isNew = key.isNew || (this.keys.get(digest)?.isNew ?? false);
    this.keys.set(digest, isNew === key.isNew ? key : { ...key, isNew });
    this.addKeyBytes(key.owner, bytes);
  }

  private addKeyBytes(owner: string, bytes: number): void {
    this.keyBytes.set(owner, (this.keyBytes.get(owner) ?? 0) + bytes);
  }

  putClient(record: ClientRecord): void {
    this.moved.delete(record.id);
    this.clients.set(record.id, record);
  }

  moveClient(record: ClientRecord): void {
    if (this.clients.has(record.id)) this.putClient(record);
    else this.moved.set(record.id, record);
  }

  removeClient(id: ClientId, tombstone: Tombstone): void {
    this.moved.delete(id);
    this.clients.delete(id);
    this.gone.set(id, tombstone);
  }
}
