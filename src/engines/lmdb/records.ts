import { type ClientId, type ClientRecord, NOBODY, type Progress, type Stretch } from "../../core/client.js";
import type { UserId } from "../../core/event.js";
import { compareIds, type EventId } from "../../core/id.js";
import { idPair } from "./bytes.js";
import type { Ref } from "./lists.js";

// Values in JSON, as what they hold may grow with versions. An id is `{"ms", "seq"}`.

/** What is known of a client when it is gone. */
export interface Tombstone extends Pick<ClientRecord, "userId" | "confirmed" | "lost"> {
  /** When it went. */
  readonly at: EventId;
}

/** The table of the log's state has one row. */
export interface LogState {
  readonly origin: EventId;
  /** The last id that was given out to something that is kept. */
  readonly head: EventId;
  readonly floor: EventId;
  /** Events above the floor. */
  readonly count: number;
}

export function encode(value: Tombstone | LogState): Buffer {
  return Buffer.from(JSON.stringify(value));
}

/** @throws {SyntaxError} not what `encode` made */
export function decode(bytes: Buffer): unknown {
  return JSON.parse(bytes.toString());
}

/** The fields that most clients do not have. */
interface More extends Partial<Pick<ClientRecord, "gap" | "key" | "until">> {
  readonly rooms?: Ref;
  readonly lost?: readonly (Stretch & { readonly except?: Ref | undefined })[];
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
  subscriptions: [ms: number, seq: number, topics: Ref][],
  more?: More,
];

/**
 * A client's row. The id is the row's key, cursor and confirmations have a table of their own, and the relay that holds the
 * client is gone when the row is read.
 * @param ref how the row refers to a list
 */
export function encodeClient(record: ClientRecord, ref: (names: readonly string[]) => Ref): Buffer {
  const { userId, ttl, expiresAt, subscriptions, rooms, lost, gap, allow, key, until } = record;
  const row: Row = [
    userId,
    ttl,
    expiresAt ?? null,
    subscriptions.map(({ from, topics }) => [from.ms, from.seq, ref(topics)]),
  ];
  const isPlain = rooms.length === 0 && lost.length === 0 && !gap && !allow && key === undefined && until === undefined;
  if (!isPlain) {
    const losses = lost.map((loss) => ({ ...loss, except: loss.except && ref(loss.except) }));
    row.push({ rooms: ref(rooms), lost: losses, gap, allow: allow && withLists(allow, ref), key, until });
  }
  return Buffer.from(JSON.stringify(row));
}

function withLists<A, B>({ subscribe, publish }: Lists<A>, change: (list: A) => B): Lists<B> {
  return {
    ...(subscribe !== undefined && { subscribe: change(subscribe) }),
    ...(publish !== undefined && { publish: change(publish) }),
  };
}

export function encodeProgress({ cursor, confirmed }: ClientRecord): Buffer {
  return idPair(cursor, confirmed);
}

/**
 * @param listOf the list that is referred to
 * @throws {SyntaxError | TypeError} not what `encodeClient` made; and as `listOf`
 */
export function decodeClient(
  id: ClientId,
  client: string,
  { cursor, confirmed }: Progress,
  listOf: (ref: Ref) => readonly string[],
): ClientRecord {
  const row = JSON.parse(client) as Row | FirstRow;
  const [userId, ttl, expiresAt, subscriptions, more = NOTHING] = Array.isArray(row) ? row : upgraded(row);
  // All records have their fields in this order, and equal ids are one object: there may be a million clients.
  return {
    id,
    userId,
    subscriptions: subscriptions.map(([ms, seq, topics]) => ({
      from: sharedId({ ms, seq }, cursor),
      topics: listOf(topics),
    })),
    rooms: more.rooms ? listOf(more.rooms) : NONE,
    allow: more.allow && withLists(more.allow, listOf),
    key: more.key,
    until: more.until,
    ttl,
    expiresAt: expiresAt ?? undefined,
    cursor,
    confirmed,
    lost:
      more.lost?.map(({ except, ...stretch }) => (except ? { ...stretch, except: listOf(except) } : stretch)) ?? NONE,
    gap: more.gap ?? false,
    node: NOBODY,
  };
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
