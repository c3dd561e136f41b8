import { type EventHead, userKey } from "../../core/event.js";
import { compareIds, type EventId } from "../../core/id.js";
import { matcherOf } from "../../core/matcher.js";
import { frontOf, isPattern } from "../../core/topics.js";
import { MAX_EVENTS } from "./block.js";
import { addressee, endOf, ID_BYTES, idKey, readId, writeId } from "./bytes.js";
import type { Table } from "./tables.js";
import type { WorkTurns } from "./work-turns.js";

/**
 * Where the events for an addressee and a topic are: which blocks, and at which places in them. The key is
 *
 *     0 | topic | 0 | block's id        for events for everyone
 *     1 | length: 2 bytes | user | topic | 0 | block's id
 *
 * and the value has the places in the block, 2 bytes each.
 */
export interface Place {
  readonly block: EventId;
  readonly index: number;
}

/** The front of the keys of all postings of an addressee for a topic. */
function postingPrefix(to: Buffer, topic: string): Buffer {
  return Buffer.concat([to, Buffer.from(topic), Buffer.of(0)]);
}

/** Longest key: a user of 128 characters and a topic of 255, of 4 bytes each at most, and the rest. */
const MAX_KEY = 2048;

const scratch = Buffer.alloc(MAX_KEY);

function postingKey(user: string | undefined, topic: string, block: EventId): Buffer {
  let at = 1;
  scratch[0] = user === undefined ? 0 : 1;
  if (user !== undefined) {
    const length = scratch.write(user, 3);
    scratch.writeUInt16BE(length, 1);
    at = 3 + length;
  }
  at += scratch.write(topic, at);
  scratch[at] = 0;
  return Buffer.from(scratch.subarray(0, writeId(scratch, block, at + 1)));
}

/** A user's or everyone's name for events of a topic; no topic has a NUL, so it means one of both. */
function postingName(user: string | undefined, topic: string): string {
  return user === undefined ? topic : `${topic}\0${user}`;
}

/** The keys of the postings that lead to an event. */
export function postingKeys({ topic, users }: Pick<EventHead, "topic" | "users">, block: EventId): Buffer[] {
  return users
    ? users.map((userId) => postingKey(userKey(userId), topic, block))
    : [postingKey(undefined, topic, block)];
}

/** The postings of one block. */
export class BlockPostings {
  private readonly postings = new Map<string, { readonly key: Buffer; readonly places: number[] }>();

  constructor(private readonly block: EventId) {}

  add({ topic, users }: Pick<EventHead, "topic" | "users">, index: number): void {
    if (!users) return this.addFor(undefined, topic, index);
    for (const userId of users) this.addFor(userKey(userId), topic, index);
  }

  /** Keys, and where in the block their events stand, in order. */
  values(): Iterable<{ readonly key: Buffer; readonly places: readonly number[] }> {
    return this.postings.values();
  }

  private addFor(user: string | undefined, topic: string, index: number): void {
    const name = postingName(user, topic);
    const known = this.postings.get(name);
    if (known) known.places.push(index);
    else this.postings.set(name, { key: postingKey(user, topic, this.block), places: [index] });
  }
}

/** A posting's value: where in its block the events stand. */
export function encodePlaces(places: readonly number[]): Buffer {
  const [only] = places;
  return places.length === 1 ? (ONE_PLACE[only as number] as Buffer) : placesOf(places);
}

function placesOf(places: readonly number[]): Buffer {
  const bytes = Buffer.allocUnsafe(places.length * 2);
  for (const [index, place] of places.entries()) bytes.writeUInt16BE(place, index * 2);
  return bytes;
}

export function decodePlaces(bytes: Buffer): number[] {
  return Array.from({ length: bytes.length >> 1 }, (_, index) => bytes.readUInt16BE(index * 2));
}

/** Most postings lead to one event. */
const ONE_PLACE = Array.from({ length: MAX_EVENTS }, (_, place) => placesOf([place]));

/** The front of a posting's key. */
export function frontOfPosting(key: Buffer): Buffer {
  return key.subarray(0, key.length - ID_BYTES);
}

/** What it takes to find the next key, and to read one, in units of about 10 ns. */
export const SEEK_WORK = 1000;
const KEY_WORK = 200;

/**
 * The fronts of the keys that hold what a reader subscribes to, of events for everyone and for its user.
 * @param most topics that are looked at for its patterns
 * @param tail bytes of a key after the front: none in tables with one row for each addressee and topic
 * @returns undefined when these are not enough
 */
export async function prefixesFor(
  table: Table,
  topics: readonly string[],
  user: string,
  most: number,
  turns: WorkTurns,
  tail = ID_BYTES,
): Promise<Buffer[] | undefined> {
  const matcher = matcherOf(topics);
  const fronts = frontsOf(topics.filter(isPattern));
  const prefixes: Buffer[] = [];
  let seeks = most;
  for (const to of [addressee(undefined), addressee(user)]) {
    turns.left -= SEEK_WORK;
    if (!hasAny(table, to)) continue;
    for (const topic of matcher.exact) prefixes.push(postingPrefix(to, topic));
    const walk = new TopicWalk(table, to, fronts, tail);
    for (let topic = walk.next(); topic !== undefined; topic = walk.next()) {
      if (--seeks <= 0) return undefined;
      turns.left -= SEEK_WORK;
      if (turns.over) await turns.rest();
      if (topic && !matcher.exact.has(topic) && matcher.matches(topic, turns)) prefixes.push(postingPrefix(to, topic));
    }
  }
  return prefixes;
}

/** Whether there are events for an addressee at all: most users have none of their own. */
function hasAny(table: Table, to: Buffer): boolean {
  return [...table.getKeys({ start: to, end: endOfAll(to), limit: 1 })].length > 0;
}

/** Just above all keys with this front: no topic has a byte 0xff, as UTF-8 has none. */
function endOfAll(front: Buffer): Buffer {
  return Buffer.concat([front, Buffer.of(0xff)]);
}

/**
 * The beginnings of topics that one of the patterns may match, in the order of the keys. A beginning that starts with
 * another one is left out.
 */
function frontsOf(patterns: readonly string[]): Buffer[] {
  const all = new Set(patterns.map(frontOf));
  const sorted = [...all].map((front) => Buffer.from(front)).sort((a, b) => a.compare(b));
  const fronts: Buffer[] = [];
  for (const front of sorted) {
    const last = fronts.at(-1);
    if (!last || !startsWith(front, last)) fronts.push(front);
  }
  return fronts;
}

function startsWith(bytes: Buffer, front: Buffer): boolean {
  return bytes.subarray(0, front.length).equals(front);
}

/** Steps through the topics of an addressee that begin with one of several fronts: a seek for each step. */
class TopicWalk {
  private start: Buffer | undefined;
  private index = 0;

  constructor(
    private readonly table: Table,
    private readonly to: Buffer,
    private readonly fronts: readonly Buffer[],
    private readonly tail: number,
  ) {
    this.start = this.startOf(0);
  }

  /** The next topic; empty when this step only led to the next front; undefined at the end. */
  next(): string | undefined {
    const { table, to, fronts, tail, start } = this;
    if (!start) return undefined;
    const [key] = table.getKeys({ start, end: endOfAll(to), limit: 1 });
    if (!key) return undefined;
    const name = key.subarray(to.length, key.length - tail - 1);
    let front = fronts[this.index];
    while (front && front.compare(name) < 0 && !startsWith(name, front)) front = fronts[++this.index];
    if (!front) return undefined;
    const isWithin = startsWith(name, front);
    this.start = isWithin ? endOf(key.subarray(0, key.length - tail)) : this.startOf(this.index);
    return isWithin ? name.toString() : "";
  }

  private startOf(index: number): Buffer | undefined {
    const front = this.fronts[index];
    return front && Buffer.concat([this.to, front]);
  }
}

/**
 * The first places, up to `limit`, under any of the prefixes, in the order of the log; of the blocks within a stretch.
 * @param isAhead whether the reader has had the place already
 */
export async function firstPlaces(
  table: Table,
  prefixes: readonly Buffer[],
  { from, until }: { readonly from: EventId; readonly until: EventId },
  limit: number,
  isAhead: (place: Place) => boolean,
  turns: WorkTurns,
): Promise<Place[]> {
  let places: Place[] = [];
  let farthest = until;
  const prune = (): void => {
    places = distinct(places.sort(comparePlaces)).slice(0, limit);
    farthest = (places.length === limit ? places.at(-1)?.block : undefined) ?? until;
  };
  for (const prefix of prefixes) {
    if (turns.over) await turns.rest();
    turns.left -= SEEK_WORK;
    const start = Buffer.concat([prefix, idKey(from)]);
    let taken = 0;
    for (const { key, value } of table.getRange({ start, end: endOf(prefix) })) {
      turns.left -= KEY_WORK;
      const block = readId(key, prefix.length);
      if (compareIds(block, farthest) > 0) break;
      for (const index of decodePlaces(value)) {
        const place = { block, index };
        if (isAhead(place)) continue;
        places.push(place);
        taken++;
      }
      if (taken >= limit) break;
    }
    if (places.length > 2 * limit) prune();
  }
  prune();
  return places;
}

function comparePlaces(a: Place, b: Place): number {
  return compareIds(a.block, b.block) || a.index - b.index;
}

/** An event for several users may be found by several of a reader's prefixes; it is sorted. */
function distinct(places: readonly Place[]): Place[] {
  return places.filter((place, index) => index === 0 || comparePlaces(place, places[index - 1] as Place) !== 0);
}
