import type { Engine } from "./engine.js";
import type { Event } from "./event.js";
import { compareIds, type EventId, laterOf } from "./id.js";
import type { Query, StoreReading } from "./window.js";

/** Where a client wants to go on: after an event, so many milliseconds ago, at the log's start, or at its head. */
export type Since = { readonly id: EventId } | { readonly ago: number } | "start" | "now";

export interface Reading {
  readonly events: readonly Event[];
  /** The reader has now all that it asked for up to and with this id. */
  readonly through: EventId;
}

/** The log as readers see it: one order, whether an event is in the window or in the engine's store. */
export class Log {
  constructor(private readonly engine: Engine) {}

  get head(): EventId {
    return this.engine.head;
  }

  /** Whether something that came after `position` is no longer there. */
  isGap(position: EventId): boolean {
    return compareIds(position, this.engine.floor) < 0;
  }

  /** What is left to read for a reader at `position`. */
  reach(position: EventId): EventId {
    return laterOf(position, this.engine.floor);
  }

  /** Reads on after `query.after`. At once when the window has it: then nothing can come in between. */
  read(query: Query): Reading | Promise<Reading> {
    const { window, read } = this.engine;
    const { floor } = window;
    if (!read || compareIds(query.after, floor) >= 0) {
      return reading(query, window.read(query), this.head);
    }
    const until = query.until && compareIds(query.until, floor) < 0 ? query.until : floor;
    const below = { ...query, until };
    return read.call(this.engine, below).then((found) => reading(below, found, floor));
  }

  /** The place in the log that `since` means now, and whether something after it is lost. */
  locate(since: Since): { position: EventId; gap: boolean } {
    const { head, floor, origin } = this.engine;
    if (since === "now") return { position: head, gap: false };
    if (since === "start") return { position: floor, gap: compareIds(origin, floor) < 0 };
    if ("id" in since) {
      // An id that this log has not given out: it was given out by one that is lost.
      if (compareIds(since.id, head) > 0) return { position: head, gap: true };
      return { position: this.reach(since.id), gap: this.isGap(since.id) };
    }
    const before = { ms: Date.now() - since.ago - 1, seq: Number.MAX_SAFE_INTEGER };
    const position = laterOf(before, origin);
    return { position: this.reach(position), gap: this.isGap(position) };
  }
}

function reading({ until }: Query, { events, through }: StoreReading, end: EventId): Reading {
  return { events, through: through ?? until ?? end };
}
