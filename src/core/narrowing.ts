import type { ClientRecord } from "./client.js";
import type { EventHead } from "./event.js";
import type { Subscriptions } from "./history.js";
import { compareIds, type EventId, laterOf, ZERO } from "./id.js";
import { charactersOf, filtered, isSameList } from "./lists.js";
import { matcherOf } from "./matcher.js";
import { LIVE, NEVER } from "./moment.js";
import type { Permissions } from "./permissions.js";
import type { Sent, Stretch } from "./sent.js";

/**
 * Subscriptions that a client does not have any more for a stretch of the log: they were taken from it with a permission, or
 * it reads the stretch again with those of now. What they had matched there is not sent any more.
 */
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

/**
 * The record of a client that reads again what was published before `through`, with the subscriptions that it has now.
 * What was taken from it there before may be sent again, and is not known any more.
 */
export function withReplay(record: ClientRecord, through: EventId, at: EventId): ClientRecord {
  const { topics } = record.subscriptions.at(-1) as Subscriptions;
  const last = record.narrowed.at(-1);
  // As when it goes back again and again.
  const isWithin = last?.after.ms === ZERO.ms && compareIds(through, last.through) <= 0;
  if (isWithin && isSameList(topics, last.topics)) return record;
  let { received, sent } = record;
  const narrowed = record.narrowed.flatMap((narrowing) => {
    if (compareIds(narrowing.after, through) >= 0) return narrowing;
    received = received.flatMap((stretch) => withoutKnowledge(stretch, narrowing.at, through));
    sent = sent.flatMap((stretch) => withoutKnowledge(stretch, narrowing.at, through));
    return compareIds(narrowing.through, through) <= 0 ? [] : { ...narrowing, after: through };
  });
  return withoutOldest({ ...record, received, sent, narrowed: [...narrowed, { after: ZERO, through, at, topics }] });
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
    received: record.received.flatMap((stretch) => withoutKnowledge(stretch, at, at)),
    sent: record.sent.flatMap((stretch) => withoutKnowledge(stretch, at, at)),
    subscriptions: record.subscriptions.map((entry) =>
      compareIds(entry.from, at) < 0 ? { ...entry, since: laterOf(entry.since ?? at, at) } : entry,
    ),
  });
}

/** The stretch, of which nothing is known up to `through` if it was read after `at`. */
function withoutKnowledge(stretch: Sent, at: EventId, through: EventId): Sent[] {
  if (compareIds(stretch.after, through) >= 0 || compareIds(stretch.latest.id, at) < 0) return [stretch];
  const unknown = { ...stretch, earliest: LIVE, latest: NEVER };
  if (compareIds(stretch.through, through) <= 0) return [unknown];
  return [
    { ...unknown, through },
    { ...stretch, after: through },
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
