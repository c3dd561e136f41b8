import { RelayError } from "./errors.js";
import type { EventHead, UserId } from "./event.js";
import { firstKept, growthAt, type Subscriptions } from "./history.js";
import { compareIds, type EventId, laterOf, ZERO } from "./id.js";
import { bytesOf, charactersOf, filtered, segmentsOf, sharedWith } from "./lists.js";
import { coverOf, type Permissions } from "./permissions.js";
import { isReserved } from "./topics.js";

/** One registration's key: a UUID (v4) as 32 hex digits. Whoever has it may connect as this client: a secret. */
export type ClientId = string;

/** Of the log: what comes after `after`, up to and with `through`. */
export interface Stretch {
  readonly after: EventId;
  readonly through: EventId;
}

/** What of a stretch passed a client by. */
export interface Loss extends Stretch {
  /** It was all but what these topics and patterns match: the others were taken from it, and do not come back. */
  readonly except?: readonly string[];
}

/** A client as the engine keeps it. Immutable: a change makes a new record. */
export interface ClientRecord {
  readonly id: ClientId;
  readonly userId: UserId;
  /** Oldest first, never empty; the last is what holds now. Earlier ones are kept as long as the cursor is before their end. */
  readonly subscriptions: readonly Subscriptions[];
  /** Topics joined by `join`: where `chat` publishes to. All of them are subscribed to. */
  readonly rooms: readonly string[];
  /** What the client may do; what is absent is as the relay's default says. */
  readonly allow?: Partial<Permissions> | undefined;
  /** The name of the API key that it was registered with: it goes when the last key of that name goes. */
  readonly key?: string | undefined;
  /** Unix milliseconds at which the client ends, with its connection; absent: never. */
  readonly until?: number | undefined;
  /** Seconds for which the client is kept without a connection; 0: forgotten when its connection ends. */
  readonly ttl: number;
  /** Unix milliseconds at which it is forgotten; absent while it has a connection. */
  readonly expiresAt?: number | undefined;
  /** The last event that the client is known to have. */
  readonly cursor: EventId;
  /** The highest id that the client has ever confirmed; unlike the cursor, going back does not move it. */
  readonly confirmed: EventId;
  /** What passed the client by, oldest first, for receipts. */
  readonly lost: readonly Loss[];
  /** Something that was meant for it is lost, and it has not been told yet. */
  readonly gap: boolean;
  /** The relay that holds it: the one where it registered or connected last. */
  readonly node: string;
}

/** The `node` of a client that was restored and that no relay holds yet. No relay has this name. */
export const NOBODY = "";

export const MAX_TOPICS = 1000;

/** Segments of all patterns of a client: what matches them takes up to 170 bytes of memory for each. */
const MAX_SEGMENTS = 10_000;

/** How many separate stretches that passed a client by are remembered for receipts, and characters of their exceptions. */
const MAX_LOST = { stretches: 16, characters: 256 * 1024 };

/** What a client subscribes to now. */
export function topicsOf(record: ClientRecord): readonly string[] {
  return (record.subscriptions.at(-1) as Subscriptions).topics;
}

/** What to do with a client's topics; applied in the order of these fields. */
export interface TopicsChange {
  /** Replaces all. */
  readonly set?: readonly string[] | undefined;
  readonly remove?: readonly string[] | undefined;
  readonly add?: readonly string[] | undefined;
  /** A room: a topic to subscribe to and to chat in. */
  readonly join?: string;
  readonly leave?: string;
}

/** The topics that a client has a say in: only the relay itself hands out reserved ones, and no change takes them away. */
export function ownTopics(record: ClientRecord): string[] {
  return topicsOf(record).filter((topic) => !isReserved(topic));
}

/**
 * The record with other topics from `at` on.
 * @throws {RelayError} bad_request: as `checkTopics`
 */
export function withTopics(record: ClientRecord, change: TopicsChange, at: EventId): ClientRecord {
  const before = topicsOf(record);
  const topics = new Set(change.set ? [...before.filter(isReserved), ...change.set] : before);
  for (const topic of [...(change.remove ?? []), change.leave ?? []].flat()) {
    if (!isReserved(topic)) topics.delete(topic);
  }
  for (const topic of [...(change.add ?? []), change.join ?? []].flat()) topics.add(topic);
  const names = change.set || change.add ? sharedWith(topics, before) : [...topics];
  checkTopics(names, before);
  const { rooms } = record;
  const joined = change.join === undefined || rooms.includes(change.join) ? rooms : [...rooms, change.join];
  const inRooms = filtered(joined, (room) => topics.has(room));
  const isSame = names.length === before.length && names.every((name, index) => name === before[index]);
  // Nothing to write down, and nothing to wait for.
  if (isSame) return inRooms === rooms ? record : { ...record, rooms: inRooms };
  const changed = {
    ...record,
    rooms: inRooms,
    subscriptions: [...record.subscriptions, { from: at, topics: names }],
  };
  const pruned = withCursor(changed, record.cursor);
  const first = pruned.subscriptions[firstKept(pruned.subscriptions)] as Subscriptions;
  if (first === pruned.subscriptions[0]) return pruned;
  const loss = { after: record.cursor, through: first.from };
  return { ...withCursor(withLoss(pruned, loss), first.from), gap: true };
}

/** About how many bytes of memory the lists of a client take. Looks at the names of a long list only the first time. */
export function weightOf({ subscriptions, rooms, allow, lost }: ClientRecord): number {
  let bytes = bytesOf((subscriptions[0] as Subscriptions).topics) + bytesOf(rooms);
  for (let index = 1; index < subscriptions.length; index++) bytes += growthAt(subscriptions, index);
  for (const names of [allow?.subscribe, allow?.publish]) bytes += names ? bytesOf(names) : 0;
  for (const { except } of lost) bytes += except ? bytesOf(except) : 0;
  return bytes;
}

/**
 * @param before topics that the client has already: should they be beyond the limit of segments, it may keep them
 * @throws {RelayError} bad_request: more than `MAX_TOPICS`, or patterns of more than `MAX_SEGMENTS` segments
 */
export function checkTopics(topics: readonly string[], before: readonly string[] = []): void {
  const own = topics.filter((topic) => !isReserved(topic));
  if (own.length > MAX_TOPICS) throw tooMany(`${MAX_TOPICS} topics: this would be ${own.length}`);
  const segments = segmentsOf(own);
  if (segments <= MAX_SEGMENTS || segments <= segmentsOf(before)) return;
  throw tooMany(`${MAX_SEGMENTS} segments in all its patterns: this would be ${segments}`);
}

function tooMany(what: string): RelayError {
  return new RelayError("bad_request", `a client has at most ${what}`, { limit: "topics_per_client" });
}

/**
 * The record of a client that may from `at` on do only this: it loses the subscriptions that go further, also where it
 * is behind.
 * @param covers whether it may subscribe to a topic or pattern
 * @param sent up to where it was sent everything
 */
export function withAllow(
  record: ClientRecord,
  allow: Partial<Permissions>,
  covers: (name: string) => boolean,
  at: EventId,
  sent: EventId,
): ClientRecord {
  if (record.subscriptions.every(({ topics }) => topics.every(covers))) return { ...record, allow };
  let narrowed: ClientRecord = { ...record, allow, rooms: filtered(record.rooms, covers) };
  const subscriptions = record.subscriptions.map((entry, index) => {
    const { from, topics } = entry;
    const kept = filtered(topics, covers);
    if (kept === topics) return entry;
    const [after, through] = [laterOf(sent, from), record.subscriptions[index + 1]?.from ?? at];
    if (compareIds(after, through) < 0) narrowed = withLoss(narrowed, { after, through, except: kept });
    return { from, topics: kept };
  });
  return { ...narrowed, subscriptions };
}

/** The record with another cursor, and without the subscriptions that ended before it. */
export function withCursor(record: ClientRecord, cursor: EventId): ClientRecord {
  const current = record.subscriptions.findLastIndex(({ from }) => compareIds(from, cursor) <= 0);
  return { ...record, cursor, subscriptions: record.subscriptions.slice(Math.max(0, current)) };
}

/** How far a client is known to be. */
export type Progress = Pick<ClientRecord, "cursor" | "confirmed">;

/** The record of a client that is known to be further; it is not moved back. */
export function withProgress(record: ClientRecord, { cursor, confirmed }: Progress): ClientRecord {
  const further = compareIds(cursor, record.cursor) > 0;
  if (!further && compareIds(confirmed, record.confirmed) <= 0) return record;
  const moved = further ? withCursor(record, cursor) : record;
  return { ...moved, confirmed: laterOf(record.confirmed, confirmed) };
}

/** The record of a client that something passes by. */
export function withLoss(record: ClientRecord, loss: Loss): ClientRecord {
  const lost = [...record.lost, loss];
  // Rather call something lost that was not than confirmed what was lost.
  if (lost.length > MAX_LOST.stretches) {
    const [first, second] = lost as [Loss, Loss];
    const isFinal = first.except ?? second.except;
    lost.splice(0, 2, { after: first.after, through: second.through, ...(isFinal && { except: [] }) });
  }
  let characters = 0;
  for (let index = lost.length - 1; index >= 0; index--) {
    const each = lost[index] as Loss;
    characters += each.except ? charactersOf(each.except) : 0;
    if (each.except && characters > MAX_LOST.characters) lost[index] = { ...each, except: [] };
  }
  return { ...record, lost };
}

/** Whether an event passed the client by. */
export function isLost({ lost }: Pick<ClientRecord, "lost">, { id, topic }: Pick<EventHead, "id" | "topic">): boolean {
  return lost.some(({ after, through, except }) => {
    const isWithin = compareIds(after, id) < 0 && compareIds(id, through) <= 0;
    return isWithin && !(except && coverOf(except)(topic));
  });
}

/**
 * The record of a client that goes on from `position`, which may be before the cursor: a replay is read with the
 * subscriptions of now, besides those of then, to which something may still be owed. Is that too much to be kept, the
 * others are dropped and said as a gap.
 * @param has up to where the client says that it has everything; absent: it says nothing
 */
export function withPosition(record: ClientRecord, position: EventId, has: EventId | undefined): ClientRecord {
  const told = has ? { ...record, confirmed: laterOf(record.confirmed, has) } : record;
  const had = has ? laterOf(record.cursor, has) : record.cursor;
  if (compareIds(position, had) > 0) return withCursor(withLoss(told, { after: had, through: position }), position);
  if (compareIds(position, record.cursor) >= 0) return withCursor(told, position);
  // What it goes back over is not lost to it any more, unless it may not have it.
  const lost = record.lost.filter(({ through, except }) => except || compareIds(through, position) <= 0);
  const back = { ...told, lost };
  if (record.subscriptions.length === 1) return withCursor(back, position);
  const now = topicsOf(record);
  const owed = record.subscriptions.map((entry, index) => {
    const from = index === 0 ? record.cursor : entry.from;
    const topics = withAll(entry.topics, now);
    return topics === entry.topics && from === entry.from ? entry : { from, topics };
  });
  // Who goes back again and again has these in the first place already.
  if (owed[0]?.topics.length === now.length) owed.shift();
  const replay = { from: ZERO, topics: now };
  const subscriptions = [replay, ...owed];
  if (firstKept(subscriptions) === 0) return { ...back, cursor: position, subscriptions };
  const { from } = record.subscriptions.at(-1) as Subscriptions;
  const rest = withLoss(back, { after: had, through: from, except: now });
  return { ...rest, cursor: position, subscriptions: [replay], gap: true };
}

/** The names, and others; the same list when it has them all. */
function withAll(names: readonly string[], others: readonly string[]): readonly string[] {
  const all = new Set(names);
  for (const name of others) all.add(name);
  return all.size === names.length ? names : [...all];
}

/** The subscriptions that hold for what comes after `position`, and where they end, if they do. */
export function stretchAfter(
  record: ClientRecord,
  position: EventId,
): { topics: readonly string[]; until: EventId | undefined } {
  const { subscriptions } = record;
  const index = Math.max(
    0,
    subscriptions.findLastIndex(({ from }) => compareIds(from, position) <= 0),
  );
  return { topics: (subscriptions[index] as Subscriptions).topics, until: subscriptions[index + 1]?.from };
}

/** Unix milliseconds at which the client goes; undefined while it has a connection and no end. */
export function endOf({ expiresAt, until }: Pick<ClientRecord, "expiresAt" | "until">): number | undefined {
  return expiresAt === undefined || until === undefined ? (expiresAt ?? until) : Math.min(expiresAt, until);
}

export function isForgotten(record: ClientRecord, now: number): boolean {
  const end = endOf(record);
  return end !== undefined && end <= now;
}
