import { hash } from "node:crypto";
import type { ClientRecord } from "../../core/client.js";

/** Bytes of a list, about as it is in JSON, from which on it has a row of its own. */
const LONG = 256;

/** How to make a list of another: without the names at these places, and with others at its end. */
type Difference = readonly [removed: readonly number[], added: readonly string[]];

/** A list in full, or its difference from one that is. */
type Value = readonly string[] | readonly [base: number, ...Difference];

/** All lists of a client that have rows of their own. */
export function longListsOf({ subscriptions, rooms, lost, allow }: ClientRecord): (readonly string[])[] {
  const long: (readonly string[])[] = [];
  const look = (names: readonly string[] | undefined): void => {
    if (names && isLong(names)) long.push(names);
  };
  for (const { topics } of subscriptions) look(topics);
  look(rooms);
  for (const { except } of lost) look(except);
  look(allow?.subscribe);
  look(allow?.publish);
  return long;
}

function isLong(names: readonly string[]): boolean {
  let left = LONG;
  // Each has quotation marks and a comma.
  for (const { length } of names) if ((left -= length + 3) < 0) return true;
  return false;
}

/** How to make one list of another. Whatever they are, it makes that list; it is short when they are much the same. */
export function differenceOf(from: readonly string[], to: readonly string[]): Difference {
  const removed: number[] = [];
  let same = 0;
  for (const [index, name] of from.entries()) {
    if (to[same] === name) same++;
    else removed.push(index);
  }
  return [removed, to.slice(same)];
}

export function applied(from: readonly string[], [removed, added]: Difference): readonly string[] {
  const without = new Set(removed);
  return [...from.filter((_, index) => !without.has(index)), ...added];
}

export function encodeList(value: Value): Buffer {
  return Buffer.from(JSON.stringify(value));
}

/** @throws {SyntaxError} not what `encodeList` made */
export function decodeList(bytes: Buffer): Value {
  return JSON.parse(bytes.toString()) as Value;
}

export function isDifference(value: Value): value is readonly [base: number, ...Difference] {
  return typeof value[0] === "number";
}

export function digestOf(bytes: Buffer): string {
  return hash("sha256", bytes, "binary");
}
