import { compareIds, earlierOf, END, type EventId, laterOf, ZERO } from "./id.js";

/** A place in the log and a time: what had been published by then, and which `ttl` had ended. */
export interface Moment {
  /** The last id that had been given out. */
  readonly id: EventId;
  /** By the engine's clock. Ids may be ahead of it. */
  readonly at: number;
}

/** The moment at which each event is published: before anything can drop it. */
export const LIVE: Moment = Object.freeze({ id: ZERO, at: 0 });

/** After everything. */
export const NEVER: Moment = Object.freeze({ id: END, at: END.ms });

/** From when on an event is not sent any more to a client that it matched; empty: nothing drops it. */
export interface Drop {
  /** From this id on: it was replaced or taken away. */
  readonly by?: EventId | undefined;
  /** From this time on: its `ttl` is over. */
  readonly at?: number | undefined;
}

export function isDroppedAt(drop: Drop, { id, at }: Moment): boolean {
  return (drop.by !== undefined && compareIds(drop.by, id) <= 0) || (drop.at !== undefined && drop.at <= at);
}

export function earlierMoment(a: Moment, b: Moment): Moment {
  return isSame(a, b) ? a : { id: earlierOf(a.id, b.id), at: Math.min(a.at, b.at) };
}

export function laterMoment(a: Moment, b: Moment): Moment {
  return isSame(a, b) ? a : { id: laterOf(a.id, b.id), at: Math.max(a.at, b.at) };
}

export function isSame(a: Moment, b: Moment): boolean {
  return a.at === b.at && compareIds(a.id, b.id) === 0;
}
