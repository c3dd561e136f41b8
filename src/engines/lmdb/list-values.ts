import { hash } from "node:crypto";
import type { ClientRecord } from "../../core/client.js";

/** Bytes of a list, about as it is in JSON, from which on it has a row of its own. */
const LONG = 256;

/** A list as its difference from one that is in full: see `difference.ts`. */
type FromBase = readonly [base: number, removed: readonly number[], added: readonly string[]];

/** A list in full, or its difference from one that is. */
type Value = readonly string[] | FromBase;

/** All lists of a client that have rows of their own. */
export function longListsOf({ subscriptions, rooms, narrowed, allow }: ClientRecord): (readonly string[])[] {
  const long: (readonly string[])[] = [];
  const look = (names: readonly string[] | undefined): void => {
    if (names && isLong(names)) long.push(names);
  };
  for (const { topics } of subscriptions) look(topics);
  look(rooms);
  for (const { topics } of narrowed) look(topics);
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

export function encodeList(value: Value): Buffer {
  return Buffer.from(JSON.stringify(value));
}

/** @throws {SyntaxError} not what `encodeList` made */
export function decodeList(bytes: Buffer): Value {
  return JSON.parse(bytes.toString()) as Value;
}

export function isDifference(value: Value): value is FromBase {
  return typeof value[0] === "number";
}

export function digestOf(bytes: Buffer): string {
  return hash("sha256", bytes, "binary");
}
