/**
 * Topics are dot-separated segments. A subscription is a topic or a pattern: a segment `*` stands for one
 * segment, a last segment `>` for one or more. Wildcards do not reach into the reserved topics (`$…`).
 */

/** A segment of a pattern that stands for any one segment. */
export const WILDCARD = "*";

/** The last segment of a pattern that goes on. */
export const REST = ">";

const RESERVED = "$";

/** The topic that all connections of `/ws` have. */
export const BROADCAST = "$broadcast";

/** Wildcards do not reach into these. */
export function isReserved(topic: string): boolean {
  return topic.startsWith(RESERVED);
}

/** Whether a segment of a pattern stands for all the rest. */
export function isRest(segments: readonly string[], index: number): boolean {
  return segments[index] === REST && index === segments.length - 1;
}

/** Where the first wildcard is: a whole segment. */
const FIRST_WILDCARD = /(?<=^|\.)(?:\*(?:\.|$)|>$)/;

export function isPattern(subscription: string): boolean {
  return FIRST_WILDCARD.test(subscription);
}

/** What all topics begin with that a pattern matches. */
export function frontOf(pattern: string): string {
  return pattern.slice(0, pattern.search(FIRST_WILDCARD));
}

/** Whether the subscription matches the topic; linear in their length. */
export function matchesTopic(subscription: string, topic: string): boolean {
  if (subscription === topic) return true;
  if (!isPattern(subscription) || isReserved(topic)) return false;
  const pattern = subscription.split(".");
  const segments = topic.split(".");
  const last = pattern.length - 1;
  const open = pattern[last] === REST;
  if (open ? segments.length < pattern.length : segments.length !== pattern.length) return false;
  const fixed = open ? pattern.slice(0, last) : pattern;
  return fixed.every((segment, index) => segment === WILDCARD || segment === segments[index]);
}
