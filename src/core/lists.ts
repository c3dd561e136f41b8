import { isPattern } from "./topics.js";

// Lists of names are never changed, so what is found out about a long one is kept with it. A short one is measured each
// time: of a million clients most have a topic or two.

/** Names from which on a list counts as long. */
const LONG = 32;

/** Bytes that a list takes for each of its names, besides the name. */
const SLOT = 8;

const known = new WeakMap<readonly string[], number>();

/** Characters of all names. */
export function charactersOf(names: readonly string[]): number {
  if (names.length < LONG) return sumOf(names);
  let characters = known.get(names);
  if (characters === undefined) known.set(names, (characters = sumOf(names)));
  return characters;
}

/** About how many bytes of memory a list takes with its names. */
export function bytesOf(names: readonly string[]): number {
  return names.length * SLOT + charactersOf(names);
}

/** As `bytesOf`, when another list is there anyway: names that are in both are in memory once. */
export function bytesBesides(names: readonly string[], others: readonly string[]): number {
  const shared = new Set(others);
  return names.length * SLOT + sumOf(names.filter((name) => !shared.has(name)));
}

/** The names as they are in another list, as far as that has them: equal names are one string in memory then. */
export function sharedWith(names: Iterable<string>, others: readonly string[]): string[] {
  const known = new Map(others.map((name) => [name, name]));
  return [...names].map((name) => known.get(name) ?? name);
}

/** Segments of all patterns among the names. */
export function segmentsOf(names: readonly string[]): number {
  let segments = 0;
  for (const name of names) {
    // Most topics have neither character, which is found out faster.
    const mayBePattern = name.includes("*") || name.endsWith(">");
    if (mayBePattern && isPattern(name)) segments += name.split(".").length;
  }
  return segments;
}

export function isSameList(names: readonly string[], others: readonly string[]): boolean {
  return names === others || (names.length === others.length && names.every((name, index) => name === others[index]));
}

/** The names that are to be kept; the same list when that is all of them. */
export function filtered(names: readonly string[], keep: (name: string) => boolean): readonly string[] {
  return names.every(keep) ? names : names.filter(keep);
}

function sumOf(names: readonly string[]): number {
  let characters = 0;
  for (const name of names) characters += name.length;
  return characters;
}
