import { type ClientRecord, indexAt, lostUntil } from "./client.js";
import type { Bounds, Engine, Query } from "./engine.js";
import { type Event, isDroppable, userKey } from "./event.js";
import { compareIds, earlierOf, type EventId, laterOf, ZERO } from "./id.js";
import type { Moment } from "./moment.js";
import { Tail } from "./tail.js";

/** Where a client wants to go on: after an event, so many milliseconds ago, at the log's start, or at its head. */
export type Since = { readonly id: EventId } | { readonly ago: number } | "start" | "now";

export interface Reading {
  readonly events: readonly Event[];
  /** The reader has now all that it asked for up to and with this id. */
  readonly through: EventId;
  /** An event that was replaced up to this id is not among these. */
  readonly asOf: EventId;
}

/** Entries of a client's history below the floor that are too many to be looked at. */
const MANY = 8;

/** Where a reader can go on, and whether something that was meant for it is lost before that. */
export interface Reach {
  readonly position: EventId;
  readonly gap: boolean;
}

/** The log as this relay has followed it, and as readers see it: one order, whether an event is in the tail or further back. */
export class Log {
  /** The last entry that was followed. */
  head: EventId = ZERO;
  /** The log has nothing at or before this id any more. */
  floor: EventId = ZERO;
  private origin: EventId = ZERO;
  private tail = new Tail(ZERO);
  /** The last event with a `ttl` or a `key`. Nothing but trimming keeps later events from the clients that they match. */
  private droppable: EventId = ZERO;

  constructor(private readonly engine: Pick<Engine, "now" | "read">) {}

  /** To be called before anything else. */
  begin({ origin, head, floor }: Bounds): void {
    this.origin = origin;
    this.floor = floor;
    this.head = head;
    this.tail = new Tail(head);
    this.droppable = head;
  }

  get moment(): Moment {
    return { id: this.head, at: this.engine.now() };
  }

  /** Between which moments something was read that is about to be sent. @param asOf of the reading */
  readAt(asOf: EventId): { readonly earliest: Moment; readonly latest: Moment } {
    const { moment } = this;
    const order = compareIds(asOf, moment.id);
    // The engine may have read what this relay has not followed yet.
    const [earliest, latest] = order < 0 ? [asOf, moment.id] : [moment.id, asOf];
    if (order === 0) return { earliest: moment, latest: moment };
    return { earliest: { ...moment, id: earliest }, latest: { ...moment, id: latest } };
  }

  /** To be called with each event, in order. @param replaces the event whose place it takes */
  note(event: Event, replaces: EventId | undefined): void {
    if (isDroppable(event)) this.droppable = event.id;
    if (replaces) this.tail.replace(replaces);
    if (event.ttl !== 0) this.tail.append(event);
  }

  trimmed(floor: EventId): void {
    this.floor = laterOf(this.floor, floor);
    this.tail.dropThrough(floor);
  }

  /** Whether events after `position` may have been dropped before they are read: replaced, or past their `ttl`. */
  mayDropAfter(position: EventId): boolean {
    return compareIds(this.droppable, position) > 0;
  }

  /** Whether a client may have lost something that came after `position`: then `reach` tells. */
  isBehind(record: ClientRecord, position: EventId): boolean {
    return compareIds(position, this.floor) < 0 || lostUntil(record, position) !== undefined;
  }

  /** Where a client can go on that stands at `position`. */
  async reach(record: ClientRecord, position: EventId): Promise<Reach> {
    const { floor } = this;
    const { subscriptions, userId } = record;
    const known = lostUntil(record, position);
    const reached = laterOf(known ?? position, floor);
    if (known) return { position: reached, gap: true };
    // Looking at each of them costs too much. The oldest is kept only because something was owed under it.
    const many = subscriptions[indexAt(subscriptions, position) + MANY];
    if (many && compareIds(many.from, floor) < 0) return { position: reached, gap: true };
    for (const [index, { from, topics }] of subscriptions.entries()) {
      const after = laterOf(position, from);
      const until = earlierOf(floor, subscriptions[index + 1]?.from ?? floor);
      if (compareIds(after, until) >= 0) continue;
      const { gap } = await this.engine.read({ after, until, topics, user: userKey(userId), limit: 0 });
      if (gap) return { position: reached, gap };
    }
    return { position: reached, gap: false };
  }

  /** Reads on after `query.after`. At once when the tail has it: then nothing can come in between. */
  read(query: Query): Reading | Promise<Reading> {
    const { floor } = this.tail;
    if (compareIds(query.after, floor) < 0) return this.readEngine(query, floor);
    const { events, through = query.until ?? this.head } = this.tail.read(query);
    return { events, through, asOf: this.head };
  }

  /** The cursor that `since` means now; undefined: it is an id that this log has not given out, so one that is lost has. */
  locate(since: Since): EventId | undefined {
    const { head, origin } = this;
    if (since === "now") return head;
    if (since === "start") return origin;
    if ("id" in since) return compareIds(since.id, head) > 0 ? undefined : since.id;
    return laterOf({ ms: this.engine.now() - since.ago - 1, seq: Number.MAX_SAFE_INTEGER }, origin);
  }

  /** @param end of what is to be read there: the rest is in the tail */
  private async readEngine(query: Query, end: EventId): Promise<Reading> {
    const until = query.until && compareIds(query.until, end) < 0 ? query.until : end;
    const { events, through = until, asOf, floor, gap } = await this.engine.read({ ...query, until });
    if (!gap) return { events, through, asOf };
    // Something that was asked for is gone, of which this relay has not been told yet. Whoever reads looks at the floor again.
    this.trimmed(floor);
    return { events: [], through: query.after, asOf };
  }
}
