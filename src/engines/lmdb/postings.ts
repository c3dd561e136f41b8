import { type EventHead, userKey } from "../../core/event.js";
import { compareIds, type EventId } from "../../core/id.js";
import { isPattern, matchesTopic } from "../../core/topics.js";
import { type Block, MAX_EVENTS } from "./block.js";
import { addressee, endOf, ID_BYTES, idKey, readId, writeId } from "./bytes.js";
import type { Table } from "./tables.js";

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

  *entries(): Generator<[key: Buffer, places: Buffer]> {
    for (const { key, places } of this.postings.values()) {
      yield [key, places.length === 1 ? (ONE_PLACE[places[0] as number] as Buffer) : encodePlaces(places)];
    }
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
  const bytes = Buffer.allocUnsafe(places.length * 2);
  for (const [index, place] of places.entries()) bytes.writeUInt16BE(place, index * 2);
  return bytes;
}

export function decodePlaces(bytes: Buffer): number[] {
  return Array.from({ length: bytes.length >> 1 }, (_, index) => bytes.readUInt16BE(index * 2));
}

/** Most postings lead to one event. */
const ONE_PLACE = Array.from({ length: MAX_EVENTS }, (_, place) => encodePlaces([place]));

/** The keys of all postings that lead to a block. */
export function keysOfBlock(block: Block): Buffer[] {
  const postings = new BlockPostings(block.idAt(0));
  for (let index = 0; index < block.count; index++) postings.add(block.headAt(index), index);
  return [...postings.entries()].map(([key]) => key);
}

/** How many topics a reader's patterns may lead to before it is dearer to follow them than to read everything. */
const MAX_TOPICS = 1024;

/**
 * The fronts of the keys that hold what a reader subscribes to, of events for everyone and for its user.
 * @returns undefined when its patterns match more topics than are worth following
 */
export function prefixesFor(table: Table, topics: readonly string[], user: string): Buffer[] | undefined {
  const prefixes = new Map<string, Buffer>();
  const seeks = { left: MAX_TOPICS };
  for (const to of [addressee(undefined), addressee(user)]) {
    for (const subscription of topics) {
      const found = isPattern(subscription) ? topicsLike(table, to, subscription, seeks) : [subscription];
      if (!found) return undefined;
      for (const topic of found) {
        const prefix = postingPrefix(to, topic);
        prefixes.set(prefix.toString("latin1"), prefix);
      }
    }
  }
  return [...prefixes.values()];
}

/** The topics with postings for an addressee that the pattern matches: a seek for each that begins like it. */
function topicsLike(table: Table, to: Buffer, pattern: string, seeks: { left: number }): string[] | undefined {
  const segments = pattern.split(".");
  const fixed = segments.slice(
    0,
    segments.findIndex((segment) => segment === "*" || segment === ">"),
  );
  const front = Buffer.concat([to, Buffer.from(fixed.map((segment) => `${segment}.`).join(""))]);
  // A topic has no byte 0xff, as UTF-8 has none.
  const end = Buffer.concat([front, Buffer.of(0xff)]);
  const found: string[] = [];
  let start: Buffer = front;
  for (; seeks.left > 0; seeks.left--) {
    const [key] = table.getKeys({ start, end, limit: 1 });
    if (!key) return found;
    const topic = key.toString("utf8", to.length, key.length - ID_BYTES - 1);
    if (matchesTopic(pattern, topic)) found.push(topic);
    start = endOf(postingPrefix(to, topic));
  }
  return undefined;
}

/**
 * The first places, up to `limit`, under any of the prefixes, in the order of the log; from block `from` on.
 * @param isAhead whether the reader has had the place already
 */
export function firstPlaces(
  table: Table,
  prefixes: readonly Buffer[],
  from: EventId,
  limit: number,
  isAhead: (place: Place) => boolean,
): Place[] {
  let places: Place[] = [];
  let farthest: EventId | undefined;
  const prune = (): void => {
    places = distinct(places.sort(comparePlaces)).slice(0, limit);
    farthest = places.length === limit ? places.at(-1)?.block : undefined;
  };
  for (const prefix of prefixes) {
    const start = Buffer.concat([prefix, idKey(from)]);
    let taken = 0;
    for (const { key, value } of table.getRange({ start, end: endOf(prefix) })) {
      const block = readId(key, prefix.length);
      if (farthest && compareIds(block, farthest) > 0) break;
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
