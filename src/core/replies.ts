import type { Counts, Delivery, DeliveryState } from "./engine.js";
import { type EventId, formatId } from "./id.js";
import type { Receipt } from "./receipts.js";

/** What a publisher learns at once of one event. */
export interface PublishReply extends Counts {
  readonly id: string;
  readonly duplicate?: true;
}

/** The replies whose counts the engine has kept. */
export function repliesOf(ids: readonly EventId[], counts: readonly Counts[]): PublishReply[] {
  return counts.map((each, index) => ({ id: formatId(ids[index] as EventId), ...each }));
}

/**
 * What the publisher of an event is told.
 * @param receipt what this relay knows; undefined: nothing
 * @param elsewhere what the other relays know; undefined: not all of them have answered
 */
export function replyOf(
  id: EventId,
  receipt: Receipt | undefined,
  elsewhere: readonly (readonly Delivery[])[] | undefined,
): PublishReply {
  if (!elsewhere || !receipt) return { id: formatId(id) };
  let { matched, sent } = { matched: receipt.audience.clients.length, sent: receipt.sent };
  let waiting = receipt.head.ttl === 0 || receipt.replacedBy ? 0 : matched - sent;
  let isKnown = true;
  for (const deliveries of elsewhere) {
    matched += deliveries.length;
    // A client that has moved meanwhile: whether it was sent the event, the relay does not know to which it moved.
    isKnown &&= count(deliveries, "unknown") === 0;
    sent += count(deliveries, "sent", "confirmed");
    waiting += count(deliveries, "waiting");
  }
  return { id: formatId(id), matched, ...(isKnown && { sent, waiting }) };
}

const NONE: readonly [] = [];

/** What each of the other relays said of one of the events. */
export function atIndex(
  answers: readonly (readonly (readonly Delivery[])[])[] | undefined,
  index: number,
): readonly (readonly Delivery[])[] | undefined {
  return answers && (answers.length === 0 ? NONE : answers.map((deliveries) => deliveries[index] ?? []));
}

export function count(deliveries: readonly Delivery[], ...states: readonly DeliveryState[]): number {
  return deliveries.filter(({ state }) => states.includes(state)).length;
}

export function duplicates(replies: readonly PublishReply[]): PublishReply[] {
  return replies.map((reply) => ({ ...reply, duplicate: true }));
}

/** One delivery per client: the furthest that any relay knows of, as a client may have moved from one to another. */
export function merge(parts: readonly (readonly Delivery[])[]): Delivery[] {
  const rank: Record<DeliveryState, number> = { expired: 0, unknown: 1, waiting: 2, sent: 3, confirmed: 4 };
  const merged = new Map<string, Delivery>();
  for (const delivery of parts.flat()) {
    const known = merged.get(delivery.client);
    if (!known || rank[known.state] < rank[delivery.state]) merged.set(delivery.client, delivery);
  }
  return [...merged.values()];
}
