import { type ClientId, type ClientRecord, NOBODY, type Progress } from "../../core/client.js";
import type { UserId } from "../../core/event.js";
import { compareIds, type EventId, ZERO } from "../../core/id.js";
import type { Subscriptions } from "../../core/history.js";
import type { Narrowing } from "../../core/narrowing.js";
import { isSame, LIVE, type Moment } from "../../core/moment.js";
import { ID_BYTES, readId, readTime, TIME_BYTES, writeId, writeTime } from "./bytes.js";
import { type EarlierMore, type KeptProgress, narrowedBefore, withEarlier } from "./earlier-rows.js";
import type { Ref } from "./lists.js";
import type { Uptime, UptimeState } from "./uptime.js";

// Values in JSON, as what they hold may grow with versions. An id is `{"ms", "seq"}`.

/** What is known of a client when it is gone. */
export interface Tombstone extends Pick<ClientRecord, "userId" | "received" | "narrowed"> {
  /** When it went. */
  readonly at: EventId;
}

/** Which trimmed events are known: see `TrimmedTopics`. */
export interface TrimmedState {
  /** Nothing is known of what was trimmed up to this id. */
  readonly unknown: EventId;
  /** No row of the older table has an id above this one. */
  readonly turned: EventId;
  /** The number of the table that new rows go to. */
  readonly recent: 0 | 1;
}

/** The table of the log's state has one row. */
export interface LogState extends UptimeState {
  readonly origin: EventId;
  /** The last id that was given out to something that is kept. */
  readonly head: EventId;
  readonly floor: EventId;
  /** Events above the floor. */
  readonly count: number;
  /** Absent: an earlier version wrote it last, which did not note what it trimmed. */
  readonly trimmed?: TrimmedState;
}

export function encode(value: Tombstone | LogState): Buffer {
  return Buffer.from(JSON.stringify(value));
}

/** @throws {SyntaxError} not what `encode` made */
export function decode(bytes: Buffer): unknown {
  return JSON.parse(bytes.toString());
}

/** The fields that most clients do not have. */
interface More extends EarlierMore, Partial<Pick<ClientRecord, "secret" | "key" | "until">> {
  readonly rooms?: Ref;
  readonly narrowed?: readonly (Omit<Narrowing, "topics"> & { readonly topics: Ref })[];
  readonly allow?: Lists<Ref> | undefined;
}

/** What a client may do. */
interface Lists<List> {
  readonly subscribe?: List;
  readonly publish?: List;
}

type Row = [
  userId: UserId,
  ttl: number,
  expiresAt: number | null,
  subscriptions: [ms: number, seq: number, topics: Ref, more?: Pick<Subscriptions, "since" | "isLost">][],
  more?: More,
];

/**
 * A client's row. The id is the row's key, cursor and confirmations have a table of their own, and the relay that holds the
 * client is gone when the row is read.
 * @param ref how the row refers to a list
 */
export function encodeClient(record: ClientRecord, ref: (names: readonly string[]) => Ref, uptime: Uptime): Buffer {
  const { secret, userId, ttl, expiresAt, subscriptions, rooms, narrowed, allow, key, until } = record;
  const row: Row = [
    userId,
    ttl,
    expiresAt === undefined ? null : uptime.stored(expiresAt),
    subscriptions.map(({ from, topics, ...more }) => {
      const { ms, seq } = from;
      return more.since || more.isLost ? [ms, seq, ref(topics), more] : [ms, seq, ref(topics)];
    }),
  ];
  const isPlain = [secret, allow, key, until].every((each) => each === undefined);
  if (!isPlain || rooms.length > 0 || narrowed.length > 0) {
    const narrowings = narrowed.map((narrowing) => ({ ...narrowing, topics: ref(narrowing.topics) }));
    row.push({ rooms: ref(rooms), narrowed: narrowings, allow: allow && withLists(allow, ref), secret, key, until });
  }
  return Buffer.from(JSON.stringify(row));
}

function withLists<A, B>({ subscribe, publish }: Lists<A>, change: (list: A) => B): Lists<B> {
  return {
    ...(subscribe !== undefined && { subscribe: change(subscribe) }),
    ...(publish !== undefined && { publish: change(publish) }),
  };
}

/** Cursor and highest confirmed id; how many stretches it has received, and was sent besides; and of each two ids and two moments. */
export function encodeProgress({ cursor, confirmed, received, sent }: Progress): Buffer {
  const bytes = Buffer.allocUnsafe(PROGRESS_HEAD + (received.length + sent.length) * STRETCH_BYTES);
  let at = writeId(bytes, confirmed, writeId(bytes, cursor, 0));
  at = bytes.writeUInt8(sent.length, bytes.writeUInt8(received.length, at));
  for (const { after, through, earliest, latest } of [...received, ...sent]) {
    at = writeMoment(bytes, latest, writeMoment(bytes, earliest, writeId(bytes, through, writeId(bytes, after, at))));
  }
  return bytes;
}

const PROGRESS_HEAD = 2 * ID_BYTES + 2;
const MOMENT_BYTES = ID_BYTES + TIME_BYTES;
const STRETCH_BYTES = 2 * ID_BYTES + 2 * MOMENT_BYTES;

export function decodeProgress(bytes: Buffer): KeptProgress {
  const cursor = readId(bytes);
  // Most ids are equal to one before. One object for all of these saves memory: there may be a million clients.
  const confirmed = sharedId(readId(bytes, ID_BYTES), cursor);
  if (bytes.length < PROGRESS_HEAD) return { cursor, confirmed };
  let last = confirmed;
  const counts = { received: bytes.readUInt8(2 * ID_BYTES), sent: bytes.readUInt8(2 * ID_BYTES + 1) };
  const all = Array.from({ length: counts.received + counts.sent }, (_, index) => {
    const at = PROGRESS_HEAD + index * STRETCH_BYTES;
    const [after, through] = [sharedId(readId(bytes, at), last), sharedId(readId(bytes, at + ID_BYTES), cursor)];
    const earliest = readMoment(bytes, at + 2 * ID_BYTES, LIVE);
    last = through;
    return { after, through, earliest, latest: readMoment(bytes, at + 2 * ID_BYTES + MOMENT_BYTES, earliest) };
  });
  const sent = counts.sent === 0 ? NONE : all.splice(counts.received);
  return { cursor, confirmed, received: all.length === 0 ? NONE : all, sent };
}

/**
 * @param listOf the list that is referred to
 * @throws {SyntaxError | TypeError} not what `encodeClient` made; and as `listOf`
 */
export function decodeClient(
  id: ClientId,
  client: string,
  progress: KeptProgress,
  listOf: (ref: Ref) => readonly string[],
  uptime: Uptime,
): ClientRecord {
  const row = JSON.parse(client) as Row | FirstRow;
  const [userId, ttl, expiresAt, subscriptions, more = NOTHING] = Array.isArray(row) ? row : upgraded(row);
  const { cursor, confirmed, received = NONE, sent = NONE } = progress;
  // All records have their fields in this order, and equal ids are one object: there may be a million clients.
  const record: ClientRecord = {
    id,
    // Whoever knew an earlier one went with the process.
    version: ZERO,
    secret: more.secret,
    userId,
    subscriptions: subscriptions.map(([ms, seq, topics, also]) => ({
      from: sharedId({ ms, seq }, cursor),
      topics: listOf(topics),
      ...also,
    })),
    rooms: more.rooms ? listOf(more.rooms) : NONE,
    allow: more.allow && withLists(more.allow, listOf),
    key: more.key,
    until: more.until,
    ttl,
    expiresAt: expiresAt === null ? undefined : uptime.restored(expiresAt, ttl),
    cursor,
    confirmed,
    received,
    sent,
    narrowed:
      more.narrowed?.map((narrowing) => ({ ...narrowing, topics: listOf(narrowing.topics) })) ??
      narrowedBefore(more, listOf),
    node: NOBODY,
  };
  return progress.received ? record : withEarlier(record, more, uptime.upgraded);
}

/** @param other the moment that it mostly is */
function readMoment(bytes: Buffer, at: number, other: Moment): Moment {
  const moment = { id: readId(bytes, at), at: readTime(bytes, at + ID_BYTES) };
  return isSame(moment, other) ? other : moment;
}

function writeMoment(bytes: Buffer, { id, at: time }: Moment, at: number): number {
  return writeTime(bytes, time, writeId(bytes, id, at));
}

const NOTHING: More = {};
const NONE: readonly never[] = [];

function sharedId(id: EventId, other: EventId): EventId {
  return compareIds(id, other) === 0 ? other : id;
}

/** As version 1 of the directory has it: the fields of a client by their names. */
interface FirstRow extends Required<Pick<ClientRecord, "userId" | "ttl" | "subscriptions">>, More {
  readonly expiresAt?: number;
}

function upgraded({ userId, ttl, expiresAt, subscriptions, ...more }: FirstRow): Row {
  return [userId, ttl, expiresAt ?? null, subscriptions.map(({ from, topics }) => [from.ms, from.seq, topics]), more];
}
