import type { Pieces } from "../../core/turns.js";

/** How a list came from another one: some of its items are gone, and others came at its end. */
export interface Difference<T> {
  /** Indexes in the list before. */
  readonly removed: readonly number[];
  readonly added: readonly T[];
}

/** Items that are compared in one piece. */
const PIECE = 4096;

/**
 * How to make one list of another. It is short when the lists are much the same, in the same order.
 * @param most items that it may have
 * @param isSame whether two items are the same
 * @returns undefined when it would have more
 */
export function* differenceOf<T>(
  before: readonly T[],
  after: readonly T[],
  most: number,
  isSame = (a: T | undefined, b: T | undefined): boolean => a === b,
): Pieces<Difference<T> | undefined> {
  const removed: number[] = [];
  let same = 0;
  for (let index = 0; index < before.length; index++) {
    if (isSame(before[index], after[same])) same++;
    else if (removed.push(index) > most) return undefined;
    if (index % PIECE === PIECE - 1) yield;
  }
  return removed.length + after.length - same > most ? undefined : { removed, added: after.slice(same) };
}

/** The list that a difference makes. */
export function applied<T>(before: readonly T[], { removed, added }: Difference<T>): T[] {
  const gone = new Set(removed);
  return [...before.filter((_, index) => !gone.has(index)), ...added];
}
