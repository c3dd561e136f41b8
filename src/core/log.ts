import { type ClientRecord, indexAt, lostUntil } from "./client.js";
import type { Engine } from "./engine.js";
import { type Event, isDroppable, userKey } from "./event.js";
import { compareIds, earlierOf, type EventId, laterOf } from "./id.js";
import type { Moment } from "./moment.js";
import type { Query, StoreReading } from "./window.js";

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

/** The log as readers see it: one order, whether an event is in the window or in the engine's store. */
export class Log {
  /** The last event with a `ttl` or a `key`. Nothing but trimming keeps later events from the clients that they match. */
  private droppable: EventId;

  constructor(private readonly engine: Engine) {
    this.droppable = engine.head;
  }

  get head(): EventId {
    return this.engine.head;
  }

  get floor(): EventId {
    return this.engine.floor;
  }

  get moment(): Moment {
    return { id: this.engine.head, at: this.engine.now() };
  }

  /** Between which moments something was read that is about to be sent. @param asOf of the reading */
  readAt(asOf: EventId): { readonly earliest: Moment; readonly latest: Moment } {
    const { moment } = this;
    return { earliest: compareIds(asOf, moment.id) < 0 ? { ...moment, id: asOf } : moment, latest: moment };
  }

  /** To be called with each event, in order. */
  note(event: Event): void {
    if (isDroppable(event)) this.droppable = event.id;
  }

  /** Whether events after `position` may have been dropped before they are read: replaced, or past their `ttl`. */
  mayDropAfter(position: EventId): boolean {
    return compareIds(this.droppable, position) > 0;
  }

  /** Whether a client may have lost something that came after `position`: then `reach` tells. */
  isBehind(record: ClientRecord, position: EventId): boolean {
    return compareIds(position, this.engine.floor) < 0 || lostUntil(record, position) !== undefined;
  }

  /** Where a client can go on that stands at `position`. */
  async reach(record: ClientRecord, position: EventId): Promise<Reach> {
    const { floor } = this.engine;
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
      const gap = await this.engine.trimmed({ after, until, topics, user: userKey(userId) });
      if (gap) return { position: reached, gap };
    }
    return { position: reached, gap: false };
  }

  /** Reads on after `query.after`. At once when the window has it: then nothing can come in between. */
  read(query: Query): Reading | Promise<Reading> {
    const { window, read } = this.engine;
    const { floor } = window;
    if (!read || compareIds(query.after, floor) >= 0) {
      return reading(query, window.read(query), this.head, this.head);
    }
    const until = query.until && compareIds(query.until, floor) < 0 ? query.until : floor;
    const below = { ...query, until };
    return read.call(this.engine, below).then((found) => reading(below, found, floor, found.asOf));
  }

  /** The cursor that `since` means now; undefined: it is an id that this log has not given out, so one that is lost has. */
  locate(since: Since): EventId | undefined {
    const { head, origin } = this.engine;
    if (since === "now") return head;
    if (since === "start") return origin;
    if ("id" in since) return compareIds(since.id, head) > 0 ? undefined : since.id;
    return laterOf({ ms: this.engine.now() - since.ago - 1, seq: Number.MAX_SAFE_INTEGER }, origin);
  }
}

function reading({ until }: Query, { events, through }: StoreReading, end: EventId, asOf: EventId): Reading {
  return { events, through: through ?? until ?? end, asOf };
}
