import type { Pieces } from "../../core/turns.js";

/** How a list came from another one: some of its items are gone, and others came at its end. */
export interface Difference<T> {
  /** Indexes in the list before. */
  readonly removed: readonly number[];
  readonly added: readonly T[];
}

/** Items that a difference may have. */
const MAX_ITEMS = 256;

/** A difference is worth it while it has at most this part of the list's items. */
const MAX_PART = 1 / 4;

/** Items that are compared in one piece. */
const PIECE = 4096;

/** @returns undefined when the lists are too different, or in another order */
export function* differenceOf<T>(before: readonly T[], after: readonly T[]): Pieces<Difference<T> | undefined> {
  const most = Math.min(MAX_ITEMS, Math.floor(after.length * MAX_PART));
  const removed: number[] = [];
  let same = 0;
  for (let index = 0; index < before.length; index++) {
    if (before[index] === after[same]) same++;
    else if (removed.push(index) > most) return undefined;
    if (index % PIECE === PIECE - 1) yield;
  }
  return removed.length + after.length - same > most ? undefined : { removed, added: after.slice(same) };
}
