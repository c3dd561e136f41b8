import type { Clock } from "../../core/clock.js";
import { Deque } from "../../core/deque.js";
import type { Counts, Once } from "../../core/engine.js";
import type { EventId } from "../../core/id.js";
import {
  bytesOf,
  KEY_ROOM,
  type KeyStore,
  type KnownKey,
  keyDigest,
  openPacked,
  packedKey,
  refuseFull,
} from "./keys.js";

/** Keys that are dropped at a time: a few milliseconds. */
const BUDGET = 1000;

/** Characters of a time, and bytes of it in an entry. */
const TIME = 6;

/** The keys of one owner. Strings of one byte a character take the least memory. */
class Room {
  /** By digest: when the key ends, and what is known of it. */
  readonly entries = new Map<string, string>();
  /** When each key ends, and its digest; in the order in which they came, as all live equally long. */
  readonly oldest = new Deque<string>();
  bytes = 0;

  put(digest: string, entry: string): void {
    this.drop(digest);
    this.entries.set(digest, entry);
    this.bytes += bytesOf(entry.length - TIME);
  }

  drop(digest: string): void {
    const entry = this.entries.get(digest);
    if (entry === undefined) return;
    this.entries.delete(digest);
    this.bytes -= bytesOf(entry.length - TIME);
  }

  /** The keys that are there, those that end first at the front. */
  *ends(): Generator<{ until: number; length: number }> {
    for (let index = 0; index < this.oldest.length; index++) {
      const place = this.oldest.at(index) as string;
      const entry = this.entryAt(place);
      if (entry !== undefined) yield { until: timeOf(place), length: entry.length - TIME };
    }
  }

  /** Undefined when the key came again after it had ended: then it has a later place. */
  entryAt(place: string): string | undefined {
    const entry = this.entries.get(place.slice(TIME));
    return entry?.startsWith(place.slice(0, TIME)) ? entry : undefined;
  }
}

/** The idempotency keys of the memory engine. */
export class MemoryKeys implements KeyStore {
  private readonly rooms = new Map<string, Room>();

  /** @param room bytes for each owner */
  constructor(
    private readonly clock: Clock,
    private readonly room = KEY_ROOM,
  ) {}

  find(once: Once): KnownKey | undefined {
    const entry = this.rooms.get(once.owner)?.entries.get(nameOf(once));
    if (entry === undefined || timeOf(entry) <= this.clock.now()) return undefined;
    return openPacked(Buffer.from(entry, "latin1").subarray(TIME), once);
  }

  checkRoom(owner: string): void {
    const room = this.rooms.get(owner);
    const excess = room ? room.bytes + bytesOf(0) - this.room : 0;
    if (room && excess > 0) refuseFull(excess, room.ends(), this.clock.now());
  }

  add(once: Once, ids: readonly EventId[], reply?: readonly Counts[]): void {
    const room = this.rooms.get(once.owner) ?? new Room();
    this.rooms.set(once.owner, room);
    const digest = nameOf(once);
    room.put(digest, timed(once.until, packedKey(once, ids, reply)));
    room.oldest.push(timed(once.until, Buffer.from(digest, "latin1")));
  }

  settle(once: Once, ids: readonly EventId[], reply: readonly Counts[]): void {
    // Another request may have it by now.
    if (once.until <= this.clock.now()) return;
    const room = this.rooms.get(once.owner);
    const digest = nameOf(once);
    if (room?.entries.has(digest)) room.put(digest, timed(once.until, packedKey(once, ids, reply)));
  }

  async saved(): Promise<void> {}

  trim(now: number): boolean {
    let left = BUDGET;
    for (const [owner, room] of this.rooms) {
      for (let first = room.oldest.at(0); first !== undefined && timeOf(first) <= now; first = room.oldest.at(0)) {
        if (left-- === 0) return true;
        if (room.entryAt(first) !== undefined) room.drop(first.slice(TIME));
        room.oldest.shift();
      }
      if (room.oldest.length === 0) this.rooms.delete(owner);
    }
    return false;
  }
}

function nameOf(once: Once): string {
  return Buffer.from(keyDigest(once), "hex").toString("latin1");
}

/** Time and text as one string: V8 would keep a sum as its two parts and their pair. */
function timed(time: number, text: Buffer): string {
  const bytes = Buffer.allocUnsafe(TIME + text.length);
  bytes.writeUIntBE(time, 0, TIME);
  text.copy(bytes, TIME);
  return bytes.toString("latin1");
}

/** The time that a text begins with. */
function timeOf(text: string): number {
  return Buffer.from(text.slice(0, TIME), "latin1").readUIntBE(0, TIME);
}
