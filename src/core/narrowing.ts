import type { ClientRecord } from "./client.js";
import type { EventHead } from "./event.js";
import { compareIds, type EventId, laterOf } from "./id.js";
import { charactersOf, filtered } from "./lists.js";
import { matcherOf } from "./matcher.js";
import { LIVE, NEVER } from "./moment.js";
import type { Permissions } from "./permissions.js";
import type { Sent, Stretch } from "./sent.js";

/** Subscriptions that were taken from a client with a permission: what they had matched in a stretch is not delivered any more. */
export interface Narrowing extends Stretch {
  readonly at: EventId;
  /** The subscriptions of that stretch that the client kept. */
  readonly topics: readonly string[];
}

/** How much of what was taken from a client is remembered for receipts: stretches, and characters of what it kept. */
const MAX_NARROWED = { stretches: 64, characters: 256 * 1024 };

/**
 * The record of a client that may from `at` on do only this: it loses the subscriptions that go further, also where it
 * is behind.
 * @param covers whether it may subscribe to a topic or pattern
 */
export function withAllow(
  record: ClientRecord,
  allow: Partial<Permissions>,
  covers: (name: string) => boolean,
  at: EventId,
): ClientRecord {
  if (record.subscriptions.every(({ topics }) => topics.every(covers))) return { ...record, allow };
  const narrowed = [...record.narrowed];
  const subscriptions = record.subscriptions.map((entry, index) => {
    const topics = filtered(entry.topics, covers);
    if (topics === entry.topics) return entry;
    narrowed.push({ after: entry.from, through: record.subscriptions[index + 1]?.from ?? at, at, topics });
    return { ...entry, topics };
  });
  const changed = { ...record, allow, rooms: filtered(record.rooms, covers), subscriptions, narrowed };
  return withoutOldest(changed);
}

/** The record without what was taken first, as far as that is too much to be kept. */
function withoutOldest(record: ClientRecord): ClientRecord {
  const { narrowed } = record;
  const characters = narrowed.reduce((sum, { topics }) => sum + charactersOf(topics), 0);
  const [oldest] = narrowed;
  const isTooMuch = narrowed.length > MAX_NARROWED.stretches || characters > MAX_NARROWED.characters;
  if (!oldest || !isTooMuch) return record;
  const { at } = oldest;
  return withoutOldest({
    ...record,
    narrowed: narrowed.slice(1),
    // Of what was published before and read after it, some may not have been sent.
    received: record.received.flatMap((stretch) => withoutKnowledge(stretch, at)),
    subscriptions: record.subscriptions.map((entry) =>
      compareIds(entry.from, at) < 0 ? { ...entry, since: laterOf(entry.since ?? at, at) } : entry,
    ),
  });
}

function withoutKnowledge(stretch: Sent, at: EventId): Sent[] {
  if (compareIds(stretch.after, at) >= 0 || compareIds(stretch.latest.id, at) < 0) return [stretch];
  const unknown = { ...stretch, earliest: LIVE, latest: NEVER };
  if (compareIds(stretch.through, at) <= 0) return [unknown];
  return [
    { ...unknown, through: at },
    { ...stretch, after: at },
  ];
}

/** When an event that had matched a client was taken from it; undefined: it was not. */
export function takenAt(
  narrowed: readonly Narrowing[],
  { id, topic }: Pick<EventHead, "id" | "topic">,
): EventId | undefined {
  return narrowed.find(({ after, through, topics }) => {
    const isWithin = compareIds(after, id) < 0 && compareIds(id, through) <= 0;
    return isWithin && !matcherOf(topics).matches(topic);
  })?.at;
}
