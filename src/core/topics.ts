/**
 * Topics are dot-separated segments. A subscription is a topic or a pattern: a segment `*` stands for one
 * segment, a last segment `>` for one or more. Wildcards do not reach into the reserved topics (`$…`).
 */

export const MAX_TOPIC_LENGTH = 255;

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

/** What is wrong with `topic` as the topic of an event, or undefined. */
export function topicFault(topic: string): string | undefined {
  const fault = nameFault(topic);
  if (fault) return fault;
  // Most topics have neither character, which is found out faster.
  if (!/[*>]/.test(topic)) return undefined;
  const wild = topic.split(".").some((segment) => segment === WILDCARD || segment === REST);
  return wild ? "is a pattern: patterns are for subscribing only" : undefined;
}

/** What is wrong with `subscription`, or undefined. */
export function subscriptionFault(subscription: string): string | undefined {
  const fault = nameFault(subscription);
  if (fault) return fault;
  if (subscription.split(".").slice(0, -1).includes(REST)) return "has `>` before its last segment";
  return undefined;
}

function nameFault(name: string): string | undefined {
  if (name.length === 0) return "is empty";
  if (name.length > MAX_TOPIC_LENGTH) return `is longer than ${MAX_TOPIC_LENGTH} characters`;
  if (/\p{Cc}/u.test(name)) return "has a control character";
  if (!name.isWellFormed()) return "is not well-formed Unicode";
  if (isReserved(name)) return "is reserved: it starts with `$`";
  return undefined;
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
