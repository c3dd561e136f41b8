import type { EventId } from "./id.js";
import { bytesBesides } from "./lists.js";

/** What a client was subscribed to, from one place in the log on. */
export interface Subscriptions {
  readonly from: EventId;
  /** Topics and patterns, none twice. */
  readonly topics: readonly string[];
  /** Before this id, a permission may have taken topics from the client. Which topics is forgotten. */
  readonly since?: EventId;
  /** What it was subscribed to is not known any more: more changes came after it than are kept. `topics` is empty. */
  readonly isLost?: true;
}

/**
 * How many topic changes may wait for a client to catch up, and bytes of memory that they may take besides the oldest
 * list; beyond, the oldest is dropped. What was owed under it is lost, and said as a gap.
 */
const MAX_HISTORY = { changes: 256, bytes: 1024 * 1024 };

/** The index of the oldest subscriptions that are within the bounds of the history. */
export function firstKept(subscriptions: readonly Subscriptions[]): number {
  let bytes = 0;
  for (let index = subscriptions.length - 1; index > 0; index--) {
    bytes += growthAt(subscriptions, index);
    if (bytes > MAX_HISTORY.bytes || subscriptions.length - index >= MAX_HISTORY.changes) return index;
  }
  return 0;
}

/** By the entry before: as that goes first, none is kept for it. */
const growths = new WeakMap<Subscriptions, { readonly entry: Subscriptions; readonly bytes: number }>();

/** Bytes that subscriptions take besides those before them. Found out once, as each change adds up all of them. */
export function growthAt(subscriptions: readonly Subscriptions[], index: number): number {
  const [before, entry] = subscriptions.slice(index - 1, index + 1) as [Subscriptions, Subscriptions];
  let growth = growths.get(before);
  if (growth?.entry !== entry) {
    growth = { entry, bytes: bytesBesides(entry.topics, before.topics) };
    growths.set(before, growth);
  }
  return growth.bytes;
}
