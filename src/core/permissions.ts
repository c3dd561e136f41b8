import { RelayError } from "./errors.js";
import { matcherOf } from "./matcher.js";

/**
 * What a client may do: topics and patterns that it may subscribe and publish to. `>` is everything, and the only way to
 * `$broadcast` besides its name.
 */
export interface Permissions {
  readonly subscribe: readonly string[];
  readonly publish: readonly string[];
}

/** What permissions are about. */
type Operation = keyof Permissions;

const EVERYTHING = ">";

export const ALLOW_ALL: Permissions = { subscribe: [EVERYTHING], publish: [EVERYTHING] };

export const ALLOW_SUBSCRIBE: Permissions = { subscribe: [EVERYTHING], publish: [] };

/** How many topics an error names. */
const MAX_NAMED = 10;

/**
 * Tells what the patterns cover: a topic that one of them matches, or a pattern all of whose topics one of them
 * matches. Linear in the length of the name and of the patterns.
 */
export function coverOf(patterns: readonly string[]): (name: string) => boolean {
  if (patterns.includes(EVERYTHING)) return () => true;
  const matcher = matcherOf(patterns);
  return (name) => matcher.matches(name);
}

/** All or nothing: one name that is not allowed refuses the others too. @throws {RelayError} forbidden: which it is */
export function checkAllowed(permissions: Permissions, operation: Operation, names: readonly string[]): void {
  const covers = coverOf(permissions[operation]);
  const refused = names.filter((name) => !covers(name));
  if (refused.length === 0) return;
  const more = refused.length > MAX_NAMED ? ` and ${refused.length - MAX_NAMED} more` : "";
  const list = refused.slice(0, MAX_NAMED).map((name) => JSON.stringify(name));
  throw new RelayError("forbidden", `this client may not ${operation} to ${list.join(", ")}${more}: nothing was done`);
}
