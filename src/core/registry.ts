import { type ClientId, type ClientRecord, endOf, topicsOf } from "./client.js";
import type { Disconnect } from "./notice.js";
import { Reader } from "./reader.js";
import { SubscriptionIndex } from "./subscriptions.js";
import { type Event, userKey } from "./event.js";
import { Wheel } from "./wheel.js";

/** The readers of an event: all that it matches, and those of them that have a connection. */
export interface Matched {
  readonly readers: readonly Reader[];
  readonly connected: readonly Reader[];
}

/** Milliseconds for which a client whose time is up may still be counted. */
const EXPIRY_GRANULARITY = 50;

const NOBODY: Matched = { readers: [], connected: [] };

/** The clients that this relay holds, found by id, by user and by what they subscribe to. */
export class Registry {
  private readonly readers = new Map<ClientId, Reader>();
  private readonly users = new Map<string, Set<Reader>>();
  private readonly subscriptions = new SubscriptionIndex();
  private readonly expiries: Wheel<ClientId>;
  private open = 0;

  /** @param expired called with a client whose time is up */
  constructor(expired: (id: ClientId) => void) {
    this.expiries = new Wheel(EXPIRY_GRANULARITY, expired);
  }

  get size(): number {
    return this.readers.size;
  }

  /** How many connections are open. */
  get connections(): number {
    return this.open;
  }

  get(id: ClientId): Reader | undefined {
    return this.readers.get(id);
  }

  /** How many clients of a user are held here. */
  countOf(user: string): number {
    return this.users.get(user)?.size ?? 0;
  }

  all(): Iterable<Reader> {
    return this.readers.values();
  }

  *connected(): Generator<Reader> {
    for (const reader of this.readers.values()) if (reader.connection) yield reader;
  }

  /** Takes a client in, or takes over a change of one. */
  hold(record: ClientRecord): void {
    const reader = this.readers.get(record.id);
    const before = new Set(reader ? reader.topics : []);
    const after = new Set(topicsOf(record));
    const held = reader ?? this.add(record);
    reader?.adopt(record);
    this.subscriptions.remove(held, without(before, after));
    this.subscriptions.add(held, without(after, before));
    this.schedule(record.id, endOf(record));
  }

  /** Sees to it that the client is forgotten in time. @param end Unix milliseconds; undefined: it is not */
  schedule(id: ClientId, end: number | undefined): void {
    if (end === undefined) this.expiries.delete(id);
    else this.expiries.add(id, end - Date.now());
  }

  /** Lets a client go. */
  drop(reader: Reader): void {
    const { id } = reader;
    this.detach(reader);
    this.readers.delete(id);
    this.expiries.delete(id);
    this.subscriptions.remove(reader, reader.topics);
    const readers = this.users.get(reader.user);
    readers?.delete(reader);
    if (readers?.size === 0) this.users.delete(reader.user);
  }

  attach(reader: Reader, connection: NonNullable<Reader["connection"]>): void {
    if (!reader.connection) this.open++;
    reader.connection = connection;
    this.subscriptions.touch(reader);
  }

  detach(reader: Reader): void {
    if (!reader.connection) return;
    this.open--;
    reader.connection = undefined;
    this.subscriptions.touch(reader);
  }

  /** Takes a client's connection from it and ends it. */
  release(reader: Reader, disconnect: Disconnect): void {
    const { connection } = reader;
    if (!connection) return;
    this.detach(reader);
    connection.close(disconnect);
  }

  match(event: Event): Matched {
    const { users, topic } = event;
    if (!users) return this.subscriptions.audience(topic);
    const readers: Reader[] = [];
    for (const userId of users) {
      for (const reader of this.users.get(userKey(userId)) ?? []) {
        if (reader.subscribesTo(topic)) readers.push(reader);
      }
    }
    return readers.length === 0 ? NOBODY : { readers, connected: readers.filter((reader) => reader.connection) };
  }

  stop(): void {
    this.expiries.stop();
  }

  private add(record: ClientRecord): Reader {
    const reader = new Reader(record);
    this.readers.set(record.id, reader);
    const readers = this.users.get(reader.user);
    if (readers) readers.add(reader);
    else this.users.set(reader.user, new Set([reader]));
    return reader;
  }
}

function without(topics: ReadonlySet<string>, others: ReadonlySet<string>): string[] {
  return [...topics].filter((topic) => !others.has(topic));
}
