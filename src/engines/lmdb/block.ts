import type { ClientId } from "../../core/client.js";
import type { Event, EventHead, UserId } from "../../core/event.js";
import { compareIds, type EventId } from "../../core/id.js";
import { quote } from "../../core/quote.js";
import { ID_BYTES, readId, writeId } from "./bytes.js";

/**
 * Events of one commit that stand one after the other in the log, as one value:
 *
 *     count: 2 bytes | (id: 12 bytes, end: 4 bytes) × count | records
 *
 * A record is JSON, UTF-8: `[topic, users, ttl, key, attributes, audience, time]`, null for what the event does not have, 0
 * for an audience of nobody, and a time only when it is not that of the id; a line feed; and the message as JSON.
 */
export const MAX_EVENTS = 128;

/** Bytes of records in a block, but for a single larger one: what is read to get at one event. */
export const MAX_BYTES = 32 * 1024;

/** Postings that lead to a block, but for a single event with more users: what is dropped at a time. */
export const MAX_ROWS = 1024;

const COUNT_BYTES = 2;
const PLACE_BYTES = ID_BYTES + 4;
const LINE_FEED = 0x0a;

/** Whom an event matched: their ids; or where a longer list of them is kept: `<milliseconds>-<sequence>`. */
export type Audience = readonly ClientId[] | string;

type Head = [
  topic: string,
  users: readonly UserId[] | null,
  ttl: number | null,
  key: string | null,
  attributes: string | null,
  audience: Audience | 0,
  time?: number,
];

/** An event's record. Put together by hand, as that takes a fraction of what `JSON.stringify` takes for the whole. */
export function recordOf(event: Event, audience: Audience): string {
  const { id, time, topic, users, ttl, key, attributes, message } = event;
  const names = users ? jsonList(users) : "null";
  const matched = typeof audience === "string" ? quote(audience) : audience.length === 0 ? "0" : jsonList(audience);
  const published = time === id.ms ? "" : `,${time}`;
  return `[${quote(topic)},${names},${ttl ?? null},${jsonOf(key)},${jsonOf(attributes)},${matched}${published}]\n${message}`;
}

function jsonOf(value: string | number | undefined): string {
  return typeof value === "string" ? quote(value) : value === undefined ? "null" : `${value}`;
}

function jsonList(values: readonly (string | number)[]): string {
  return values.length === 1 ? `[${jsonOf(values[0])}]` : `[${values.map(jsonOf).join()}]`;
}

export function encodeBlock(ids: readonly EventId[], records: readonly string[]): Buffer {
  const text = records.join("");
  const size = Buffer.byteLength(text);
  const isAscii = size === text.length;
  const table = COUNT_BYTES + ids.length * PLACE_BYTES;
  // Not from the pool: it is kept until it is written, and would keep its neighbours.
  const bytes = Buffer.allocUnsafeSlow(table + size);
  bytes.writeUInt16BE(ids.length, 0);
  bytes.write(text, table);
  let end = table;
  for (const [index, record] of records.entries()) {
    end += isAscii ? record.length : Buffer.byteLength(record);
    bytes.writeUInt32BE(end, writeId(bytes, ids[index] as EventId, COUNT_BYTES + index * PLACE_BYTES));
  }
  return bytes;
}

/** A block as it was read. @throws {SyntaxError | RangeError} the bytes are none */
export class Block {
  readonly count: number;

  constructor(private readonly bytes: Buffer) {
    this.count = bytes.readUInt16BE(0);
  }

  get size(): number {
    return this.bytes.length;
  }

  idAt(index: number): EventId {
    return readId(this.bytes, COUNT_BYTES + index * PLACE_BYTES);
  }

  /** The index of the first event that comes after `id`; `count` when there is none. */
  after(id: EventId): number {
    let [low, high] = [0, this.count];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compareIds(this.idAt(middle), id) > 0) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Where an event stands; undefined when it is not in here. */
  indexOf(id: EventId): number | undefined {
    const index = this.after(id) - 1;
    return index >= 0 && compareIds(this.idAt(index), id) === 0 ? index : undefined;
  }

  eventAt(index: number): Event {
    const [start, end] = this.place(index);
    const text = this.bytes.toString("utf8", start, end);
    const line = text.indexOf("\n");
    const [topic, users, ttl, key, attributes, , time] = JSON.parse(text.slice(0, line)) as Head;
    const id = this.idAt(index);
    return {
      id,
      time: time ?? id.ms,
      topic,
      message: text.slice(line + 1),
      ...(users && { users }),
      ...(ttl !== null && { ttl }),
      ...(key !== null && { key }),
      ...(attributes !== null && { attributes }),
    };
  }

  /** Bytes of an event but for its message: what it takes to read its head. */
  headSizeAt(index: number): number {
    const [start, end] = this.place(index);
    return Math.min(end, this.bytes.indexOf(LINE_FEED, start)) - start;
  }

  /** All of an event but its message, which is not even looked at; and whom it matched. */
  headAt(index: number): EventHead & { audience: Audience } {
    const [start] = this.place(index);
    const id = this.idAt(index);
    const [topic, users, ttl, key, , audience, time] = JSON.parse(
      this.bytes.toString("utf8", start, start + this.headSizeAt(index)),
    ) as Head;
    return {
      id,
      time: time ?? id.ms,
      topic,
      ...(users && { users }),
      ...(ttl !== null && { ttl }),
      ...(key !== null && { key }),
      audience: audience === 0 ? [] : audience,
    };
  }

  private place(index: number): [start: number, end: number] {
    const endAt = COUNT_BYTES + index * PLACE_BYTES + ID_BYTES;
    const start = index === 0 ? COUNT_BYTES + this.count * PLACE_BYTES : this.bytes.readUInt32BE(endAt - PLACE_BYTES);
    return [start, this.bytes.readUInt32BE(endAt)];
  }
}
