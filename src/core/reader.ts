import { type ClientId, type ClientRecord, stretchAfter, topicsOf, withProgress } from "./client.js";
import type { Move } from "./engine.js";
import { type Event, type UserId, userKey } from "./event.js";
import { compareIds, type EventId, laterOf } from "./id.js";
import type { Disconnect } from "./notice.js";
import { type Matcher, matcherOf } from "./matcher.js";
import { type Sent, withAllSent } from "./sent.js";

/** How far the client is, as engines are told. */
export function moveOf({ id, kept, cursor, confirmed, received, sent }: Reader): Move {
  return { client: id, version: kept.version, cursor, confirmed, received, sent };
}

/** What a reader knows of its connection. */
export interface ReaderConnection {
  /** Whether what it sends still has a chance to arrive. */
  readonly open: boolean;
  /** Hands over an event that was just published. @returns whether it took it */
  deliver(event: Event, before: EventId): boolean;
  /** What it was sent and has not confirmed. */
  readonly sent: readonly Sent[];
  /** Moves the cursor to the head when the client has all that was meant for it. */
  settle(): void;
  /** Someone waits for the confirmation of what was sent last. */
  hurry(): void;
  close(disconnect: Disconnect): void;
}

/** How many stretches are remembered that connections had sent when they ended. */
const MAX_SENT = 4;

/** A client that this relay holds: how far it has read the log, with a connection or without. */
export class Reader {
  readonly id: ClientId;
  readonly userId: UserId;
  /** `userKey` of the user. */
  readonly user: string;
  connection: ReaderConnection | undefined;
  /** Removed or forgotten. */
  gone = false;
  /** Another relay holds the client, and knows more of it. */
  moved = false;
  /** The last event that the client is known to have. */
  cursor: EventId;
  /** The cursor that the engine was told last. */
  noted: EventId;
  /** The highest id that the client has ever confirmed; unlike the cursor, going back does not move it. */
  confirmed: EventId;
  /** What it was sent and has confirmed. */
  received: readonly Sent[];
  /** What it was sent on connections that have ended, and has not confirmed. */
  sent: readonly Sent[];
  /** As it was kept last: the cursor may have moved on since. */
  kept: ClientRecord;
  private matcher: Matcher | undefined;
  /** Absent as long as nobody has waited: most readers never see that. */
  private awaited: Set<{ readonly id: EventId; readonly done: () => void }> | undefined;

  constructor(record: ClientRecord) {
    this.kept = record;
    this.id = record.id;
    this.userId = record.userId;
    this.user = userKey(record.userId);
    this.cursor = record.cursor;
    this.noted = record.cursor;
    this.confirmed = record.confirmed;
    this.received = record.received;
    this.sent = record.sent;
  }

  get record(): ClientRecord {
    return withProgress(this.kept, this);
  }

  get narrowed(): ClientRecord["narrowed"] {
    return this.kept.narrowed;
  }

  /** What it is still to be sent follows from this; undefined: it is removed or forgotten. */
  get place(): Pick<ClientRecord, "subscriptions" | "cursor"> | undefined {
    return this.gone ? undefined : { subscriptions: this.kept.subscriptions, cursor: this.cursor };
  }

  /** Topics and patterns that it subscribes to now. */
  get topics(): readonly string[] {
    return topicsOf(this.kept);
  }

  /** Whether one of its subscriptions matches the topic. */
  subscribesTo(topic: string): boolean {
    this.matcher ??= matcherOf(this.topics);
    return this.matcher.matches(topic);
  }

  /** Takes over a changed record. */
  adopt(record: ClientRecord): void {
    this.kept = record;
    this.cursor = record.cursor;
    this.noted = record.cursor;
    this.received = record.received;
    this.sent = record.sent;
    this.matcher = undefined;
    this.noteConfirmed(record.confirmed);
  }

  /**
   * The client has everything up to and with `id`.
   * @param sent what it was sent up to there
   * @returns whether that was new
   */
  confirm(id: EventId, sent: readonly Sent[]): boolean {
    const moved = compareIds(id, this.cursor) > 0;
    this.pass(id, sent);
    this.noteConfirmed(id);
    return moved;
  }

  /** Moves the cursor over what the client has confirmed, or what was not meant for it. @param sent as of `confirm` */
  pass(id: EventId, sent: readonly Sent[]): void {
    this.cursor = laterOf(id, this.cursor);
    this.received = withAllSent(this.received, sent);
  }

  /** A connection has ended that has sent this, and the client has not confirmed it. */
  keepSent(sent: readonly Sent[]): void {
    // Stretches that a later connection has confirmed stay, too. An event may have been dropped before that connection could
    // send it, and the client may say by `since` that it has it.
    if (sent.length > 0) this.sent = withAllSent(this.sent, sent).slice(-MAX_SENT);
  }

  /** The client was removed or forgotten: nobody waits for it any more. */
  remove(): void {
    this.gone = true;
    for (const { done } of this.awaited ?? []) done();
  }

  /** Calls `done` once the client has confirmed `id`, or is gone. @returns how to give up waiting */
  awaitConfirmed(id: EventId, done: () => void): () => void {
    const wait = { id, done };
    const awaited = (this.awaited ??= new Set());
    awaited.add(wait);
    this.connection?.hurry();
    return () => void awaited.delete(wait);
  }

  /** What comes next in the log for this client, as far as the same subscriptions hold. */
  stretch(position: EventId): ReturnType<typeof stretchAfter> & { readonly user: string } {
    return { ...stretchAfter(this.kept, position), user: this.user };
  }

  private noteConfirmed(id: EventId): void {
    this.confirmed = laterOf(this.confirmed, id);
    for (const wait of this.awaited ?? []) if (compareIds(wait.id, id) <= 0) wait.done();
  }
}
