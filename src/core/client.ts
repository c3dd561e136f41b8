import { RelayError } from "./errors.js";
import type { EventHead, UserId } from "./event.js";
import { firstKept, growthAt, type Subscriptions } from "./history.js";
import { compareIds, END, type EventId, laterOf, OWN, ZERO } from "./id.js";
import type { Moment } from "./moment.js";
import { type Narrowing, withReplay } from "./narrowing.js";
import { bytesOf, filtered, isSameList, segmentsOf, sharedWith } from "./lists.js";
import { matcherOf } from "./matcher.js";
import type { Permissions } from "./permissions.js";
import { claimed, type Sent, sentWithin, withAllSent } from "./sent.js";
import { isReserved } from "./topics.js";

/** Which client: a UUID (v4) as 32 hex digits. Receipts, entries and logs name clients by it. */
export type ClientId = string;

/** Whoever has it may connect as this client: a UUID (v4) as 32 hex digits. It stands in the client's URLs. */
export type Secret = string;

/** A client as the engine keeps it. Immutable: a change makes a new record. */
export interface ClientRecord {
  readonly id: ClientId;
  /** The id of the entry that made the client as it is. */
  readonly version: EventId;
  /** Absent: the id is the secret, too. */
  readonly secret?: Secret | undefined;
  readonly userId: UserId;
  /** Oldest first, never empty; the last is what holds now. Earlier ones are kept as long as the cursor is before their end. */
  readonly subscriptions: readonly Subscriptions[];
  /** The topics that a frame `join` named: where `chat` publishes to. All of them are subscribed to. */
  readonly rooms: readonly string[];
  /** What the client may do; what is absent is as the relay's default says. */
  readonly allow?: Partial<Permissions> | undefined;
  /** The name of the API key that it was registered with: it goes when the last key of that name goes. */
  readonly key?: string | undefined;
  /** By the clock on the wall, Unix milliseconds: when the client ends, with its connection; absent: never. */
  readonly until?: number | undefined;
  /** Seconds for which the client is kept without a connection; 0: forgotten when its connection ends. */
  readonly ttl: number;
  /** By the engine's clock: when it is forgotten; absent while it has a connection. */
  readonly expiresAt?: number | undefined;
  /** The last event that the client is known to have. */
  readonly cursor: EventId;
  /** The highest id that the client has ever confirmed; unlike the cursor, going back does not move it. */
  readonly confirmed: EventId;
  /** What it was sent and has confirmed, oldest first. What became of each event for it follows from this. */
  readonly received: readonly Sent[];
  /** What it was sent on connections that have ended, and has not confirmed. */
  readonly sent: readonly Sent[];
  /** Oldest first. */
  readonly narrowed: readonly Narrowing[];
  /** The relay that holds it: the one where it registered or connected last. */
  readonly node: string;
}

/** The `node` of a client that was restored and that no relay holds yet. No relay has this name. */
export const NOBODY = "";

export function secretOf({ id, secret }: Pick<ClientRecord, "id" | "secret">): Secret {
  return secret ?? id;
}

/** The record as its entry made it, as far as it says `OWN`. */
export function settled(record: ClientRecord): ClientRecord {
  const { cursor, confirmed, subscriptions, narrowed } = record;
  const isSettled = ![cursor, confirmed].some(isOwn) && !subscriptions.some(hasOwn) && !narrowed.some(hasOwn);
  return isSettled ? record : withVersion(record, record.version);
}

/** The record as the entry with this id made it. */
export function withVersion(record: ClientRecord, id: EventId): ClientRecord {
  const { cursor, confirmed, subscriptions, narrowed } = record;
  return {
    ...record,
    version: id,
    cursor: isOwn(cursor) ? id : cursor,
    confirmed: isOwn(confirmed) ? id : confirmed,
    subscriptions: subscriptions.some(hasOwn) ? subscriptions.map((entry) => withId(entry, id)) : subscriptions,
    narrowed: narrowed.some(hasOwn) ? narrowed.map((narrowing) => withId(narrowing, id)) : narrowed,
  };
}

/** Places in the log, of which the entry's own may be some. */
const PLACES = ["from", "since", "after", "through", "at"] as const;
type Places = Partial<Record<(typeof PLACES)[number], EventId>>;

function hasOwn(places: Places): boolean {
  return PLACES.some((name) => places[name] !== undefined && isOwn(places[name]));
}

function withId<T extends Places>(places: T, id: EventId): T {
  const changed: { -readonly [Name in keyof Places]: Places[Name] } = {};
  for (const name of PLACES) if (places[name] && isOwn(places[name])) changed[name] = id;
  return { ...places, ...changed };
}

function isOwn({ ms, seq }: EventId): boolean {
  return ms === OWN.ms && seq === OWN.seq;
}

const MAX_TOPICS = 1000;

/** Segments of all patterns of a client: what matches them takes up to 170 bytes of memory for each. */
const MAX_SEGMENTS = 10_000;

/** About how many bytes of memory a stretch takes that a client has received. */
const SENT_BYTES = 160;

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
  // Nothing to write down, and nothing to wait for.
  if (isSameList(names, before)) return inRooms === rooms ? record : { ...record, rooms: inRooms };
  const changed = {
    ...record,
    rooms: inRooms,
    subscriptions: [...record.subscriptions, { from: at, topics: names }],
  };
  const pruned = withCursor(changed, record.cursor);
  const first = firstKept(pruned.subscriptions);
  if (first === 0) return pruned;
  const { from } = pruned.subscriptions[0] as Subscriptions;
  return { ...pruned, subscriptions: [{ from, topics: [], isLost: true }, ...pruned.subscriptions.slice(first)] };
}

/** The record of a client that is owed nothing under some of its earlier subscriptions. */
export function withoutUnowed(record: ClientRecord, unowed: ReadonlySet<Subscriptions>): ClientRecord {
  if (unowed.size === 0) return record;
  const subscriptions: Subscriptions[] = [];
  for (const entry of record.subscriptions) {
    const before = subscriptions.at(-1);
    // One that is empty stands for all that follow it and are empty too.
    if (!unowed.has(entry)) subscriptions.push(entry);
    else if (!before || before.isLost || before.topics.length > 0) subscriptions.push({ ...entry, topics: [] });
  }
  return { ...record, subscriptions };
}

/** Where the subscriptions are known again that hold after `position`; undefined: they are known there. */
export function lostUntil(
  { subscriptions }: Pick<ClientRecord, "subscriptions">,
  position: EventId,
): EventId | undefined {
  const index = indexAt(subscriptions, position);
  return subscriptions[index]?.isLost ? subscriptions[index + 1]?.from : undefined;
}

/** Where the last of the client's history ends that is lost; undefined: none is. */
export function lostEnd({ subscriptions }: Pick<ClientRecord, "subscriptions">): EventId | undefined {
  const index = subscriptions.findLastIndex(({ isLost }) => isLost);
  return index < 0 ? undefined : subscriptions[index + 1]?.from;
}

/** The index of the subscriptions that hold for what comes after `position`. */
export function indexAt(subscriptions: readonly Subscriptions[], position: EventId): number {
  return Math.max(
    0,
    subscriptions.findLastIndex(({ from }) => compareIds(from, position) <= 0),
  );
}

/** About how many bytes of memory the lists of a client take. Looks at the names of a long list only the first time. */
export function weightOf({ subscriptions, rooms, allow, narrowed, received, sent }: ClientRecord): number {
  let bytes = bytesOf((subscriptions[0] as Subscriptions).topics) + bytesOf(rooms);
  for (let index = 1; index < subscriptions.length; index++) bytes += growthAt(subscriptions, index);
  for (const names of [allow?.subscribe, allow?.publish]) bytes += names ? bytesOf(names) : 0;
  for (const { topics } of narrowed) bytes += bytesOf(topics);
  // Nearly every client has two or three.
  return bytes + Math.max(0, received.length + sent.length - 3) * SENT_BYTES;
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

/** Whether the client is still to be sent an event that matched it, when nothing drops the event. */
export function isOwed(
  { subscriptions, cursor }: Pick<ClientRecord, "subscriptions" | "cursor">,
  { id, topic }: Pick<EventHead, "id" | "topic">,
): boolean {
  if (compareIds(id, cursor) <= 0) return false;
  const entry = subscriptions.findLast(({ from }) => compareIds(from, id) < 0) ?? subscriptions[0];
  if (!entry || entry.isLost) return false;
  return !entry.since || compareIds(id, entry.since) > 0 || matcherOf(entry.topics).matches(topic);
}

/** The record with another cursor, and without the subscriptions that ended before it. */
export function withCursor(record: ClientRecord, cursor: EventId): ClientRecord {
  const current = record.subscriptions.findLastIndex(({ from }) => compareIds(from, cursor) <= 0);
  if (current <= 0 && compareIds(cursor, record.cursor) === 0) return record;
  return { ...record, cursor, subscriptions: record.subscriptions.slice(Math.max(0, current)) };
}

/** How far a client is known to be. */
export type Progress = Pick<ClientRecord, "cursor" | "confirmed" | "received" | "sent">;

/** The record of a client that is known to be further; it is not moved back. */
export function withProgress(record: ClientRecord, { cursor, confirmed, received, sent }: Progress): ClientRecord {
  const further = compareIds(cursor, record.cursor);
  const isKnown = further < 0 || (further === 0 && received === record.received && sent === record.sent);
  if (isKnown && compareIds(confirmed, record.confirmed) <= 0) return record;
  const moved = further > 0 ? withCursor(record, cursor) : record;
  return { ...moved, confirmed: laterOf(record.confirmed, confirmed), received, sent };
}

/** The record with the progress, when that is further: whoever made the record may have known less of how far the client is. */
export function withFurther(record: ClientRecord, progress: Progress): ClientRecord {
  return compareIds(progress.cursor, record.cursor) > 0 ? withProgress(record, progress) : record;
}

/** The record of a client that says that it has everything up to and with `id`. @param now the moment of now */
export function withClaim(record: ClientRecord, id: EventId, now: Moment): ClientRecord {
  const { cursor, confirmed, received, sent } = record;
  const more = claimed(sent, { after: cursor, through: id }, now);
  if (more.length === 0) return record;
  const left = sentWithin(sent, { after: id, through: END });
  return { ...record, confirmed: laterOf(confirmed, id), received: withAllSent(received, more), sent: left };
}

/**
 * The record of a client that goes on from `position`, which may be before the cursor: a replay is read with the
 * subscriptions of now, besides those of then, to which something may still be owed. Is that too much to be kept, it stays
 * where it was, which its record shows.
 * @param at the id of the entry with which it goes back
 */
export function withPosition(record: ClientRecord, position: EventId, at: EventId): ClientRecord {
  if (compareIds(position, record.cursor) >= 0) return withCursor(record, position);
  const { from, topics: now } = record.subscriptions.at(-1) as Subscriptions;
  const isAlone = record.subscriptions.length === 1;
  if (isAlone && compareIds(from, position) <= 0) return { ...record, cursor: position };
  const replay = { from: ZERO, topics: now };
  if (isAlone) return { ...withReplay(record, from, at), cursor: position, subscriptions: [replay] };
  const owed = record.subscriptions.map((entry, index) => {
    const topics = entry.isLost ? entry.topics : withAll(entry.topics, now);
    const begin = index === 0 ? record.cursor : entry.from;
    return topics === entry.topics && begin === entry.from ? entry : { ...entry, from: begin, topics };
  });
  // Who goes back again and again has these in the first place already.
  if (owed[0]?.topics.length === now.length && !owed[0].isLost) owed.shift();
  const subscriptions = [replay, ...owed];
  if (firstKept(subscriptions) > 0) return record;
  return { ...withReplay(record, record.cursor, at), cursor: position, subscriptions };
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
): Pick<Subscriptions, "topics" | "since"> & { readonly until: EventId | undefined } {
  const { subscriptions } = record;
  const index = indexAt(subscriptions, position);
  const { topics, since } = subscriptions[index] as Subscriptions;
  return { topics, since, until: subscriptions[index + 1]?.from };
}

/**
 * Milliseconds until the client goes; Infinity while it has a connection and no end.
 * @param now of the engine's clock
 */
export function leftOf({ expiresAt, until }: Pick<ClientRecord, "expiresAt" | "until">, now: number): number {
  return Math.min((expiresAt ?? Infinity) - now, (until ?? Infinity) - Date.now());
}
