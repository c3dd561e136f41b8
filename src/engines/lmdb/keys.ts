import type { Clock } from "../../core/clock.js";
import type { Counts, Once } from "../../core/engine.js";
import type { EventId } from "../../core/id.js";
import type { Pieces } from "../../core/turns.js";
import {
  bytesOf,
  digestOf,
  KEY_ROOM,
  type KeyStore,
  type KnownKey,
  keyDigest,
  openPacked,
  packedKey,
  refuseFull,
} from "../local/keys.js";
import { packedLength } from "../local/packed-key.js";
import type { Commits } from "./commits.js";
import type { Group, NewKey } from "./group.js";
import type { Changes, Tables } from "./tables.js";

/** Bytes in keys of rows: of an owner, of a time, of a key's digest. */
const OWNER = 8;
const TIME = 6;
const DIGEST = 16;

/** Rows that are dropped with one commit besides twice as many as it brings: a few milliseconds. */
const BUDGET = 500;

/** Rows that are read at a time. */
const PIECE = 16;

/** What is known of an owner in memory. */
interface Room {
  readonly owner: string;
  /** What the keys of its rows begin with. */
  readonly prefix: Buffer;
  /** Bytes that its keys count with on disk; in groups that are not there yet. */
  stored: number;
  waiting: number;
  /** No row ends before this, by the engine's clock. */
  nextEnd: number;
}

/**
 * The idempotency keys on disk. In memory are those that are not there yet, in the groups that wait or are under way, and how
 * much each owner has.
 */
export class LmdbKeys implements KeyStore {
  private readonly rooms = new Map<string, Room>();
  /** What the owners have when the commit under way is on disk. */
  private readonly next = new Map<Room, number>();
  private due = false;

  /** @param roomBytes for each owner */
  constructor(
    private readonly tables: Tables,
    private readonly commits: Commits,
    private readonly clock: Clock,
    private readonly roomBytes = KEY_ROOM,
  ) {
    for (const { value } of tables.owners.getRange({})) {
      const { owner, bytes } = readOwner(value);
      this.rooms.set(owner, { ...newRoom(owner), stored: bytes, nextEnd: 0 });
    }
  }

  find(once: Once): KnownKey | undefined {
    const digest = keyDigest(once);
    const key = this.commits.key(digest) ?? this.stored(once.owner, digest);
    return key && endOf(key.key) > this.clock.now() ? openPacked(key.value, once) : undefined;
  }

  checkRoom(owner: string): void {
    const room = this.rooms.get(owner);
    const excess = room ? room.stored + room.waiting + bytesOf(0) - this.roomBytes : 0;
    if (room && excess > 0) refuseFull(excess, this.rowsOf(room), this.clock.now());
  }

  add(once: Once, ids: readonly EventId[], reply?: readonly Counts[]): void {
    const value = packedKey(once, ids, reply);
    this.put(once, value, true, bytesOf(value.length));
  }

  settle(once: Once, ids: readonly EventId[], reply: readonly Counts[]): void {
    // It may have been dropped already.
    if (once.until <= this.clock.now()) return;
    this.put(once, packedKey(once, ids, reply), false, packedLength(reply));
  }

  saved(once: Once): Promise<void> {
    return this.commits.savedKey(keyDigest(once));
  }

  /** What has ended is dropped with the next commits. */
  trim(now: number): boolean {
    for (const { nextEnd } of this.rooms.values()) this.due ||= nextEnd <= now;
    if (this.due) this.commits.wake();
    return false;
  }

  /** Whether there is something to drop. */
  get isDue(): boolean {
    return this.due;
  }

  /** Adds to `changes` what has ended, so much at a time, and then what the group brings. */
  *write(changes: Changes, group: Group): Pieces {
    this.next.clear();
    yield* this.drop(changes, group, this.clock.now(), BUDGET + group.keys.size * 2);
    for (const key of group.keys.values()) {
      changes.put(this.tables.replies, key.key, key.value);
      if (key.isNew)
        changes.put(this.tables.ends, key.key.subarray(OWNER + TIME), key.key.subarray(OWNER, OWNER + TIME));
      yield;
    }
    for (const [owner, bytes] of group.keyBytes) {
      const room = this.rooms.get(owner) as Room;
      this.next.set(room, (this.next.get(room) ?? room.stored) + bytes);
    }
    for (const [{ owner, prefix }, bytes] of this.next) {
      if (bytes > 0) changes.put(this.tables.owners, prefix, ownerRow(owner, bytes));
      else changes.remove(this.tables.owners, prefix);
    }
  }

  /** To be called when what was written last is on disk. */
  committed(group: Group): void {
    for (const [owner, bytes] of group.keyBytes) (this.rooms.get(owner) as Room).waiting -= bytes;
    for (const [room, bytes] of this.next) {
      room.stored = bytes;
      if (room.stored === 0 && room.waiting === 0) this.rooms.delete(room.owner);
    }
    this.next.clear();
  }

  /** To be called when what was written last is not on disk. */
  failed(): void {
    for (const room of this.next.keys()) room.nextEnd = 0;
  }

  private put(once: Once, value: Buffer, isNew: boolean, bytes: number): void {
    const { owner, until } = once;
    const room = this.rooms.get(owner) ?? newRoom(owner);
    this.rooms.set(owner, room);
    room.waiting += bytes;
    room.nextEnd = Math.min(room.nextEnd, until);
    const digest = keyDigest(once);
    const key = Buffer.concat([room.prefix, timeBytes(until), Buffer.from(digest, "hex")]);
    this.commits.pending.putKey(digest, { owner, key, value, isNew }, bytes);
    this.commits.wake();
  }

  private stored(owner: string, digest: string): Pick<NewKey, "key" | "value"> | undefined {
    const room = this.rooms.get(owner);
    const name = Buffer.from(digest, "hex");
    const end = room && this.tables.ends.get(name);
    if (!end) return undefined;
    const key = Buffer.concat([room.prefix, end, name]);
    const value = this.tables.replies.get(key);
    return value && { key, value };
  }

  private *drop(changes: Changes, group: Group, now: number, budget: number): Pieces {
    let left = budget;
    this.due = false;
    for (const room of this.rooms.values()) {
      if (room.nextEnd > now) continue;
      let kept = false;
      for (const { key, length } of this.rowsOf(room)) {
        room.nextEnd = endOf(key);
        if (room.nextEnd > now) break;
        // The group writes it again: it is dropped after that.
        if (group.keys.has(key.toString("hex", OWNER + TIME))) {
          kept = true;
          continue;
        }
        if (left-- <= 0) {
          this.due = true;
          return;
        }
        this.remove(changes, key);
        this.next.set(room, (this.next.get(room) ?? room.stored) - bytesOf(length));
        yield;
      }
      if (kept) room.nextEnd = now + 1;
      if (kept || room.nextEnd > now) continue;
      // None is left on disk. Those that are not there yet are looked at later.
      this.next.set(room, 0);
      room.nextEnd = now + 1;
    }
  }

  private remove(changes: Changes, key: Buffer): void {
    const { replies, ends } = this.tables;
    changes.remove(replies, key);
    const digest = key.subarray(OWNER + TIME);
    // The same key may have come again when it had ended.
    if (ends.get(digest)?.equals(key.subarray(OWNER, OWNER + TIME))) changes.remove(ends, digest);
  }

  /** The rows of an owner, those that end first at the front. */
  private *rowsOf({ prefix }: Room): Generator<{ key: Buffer; until: number; length: number }> {
    const end = Buffer.concat([prefix, Buffer.alloc(TIME + DIGEST + 1, 0xff)]);
    for (let start = prefix; ;) {
      const rows = [...this.tables.replies.getRange({ start, end, limit: PIECE, exclusiveStart: start !== prefix })];
      for (const { key, value } of rows) yield { key, until: endOf(key), length: value.length };
      const last = rows.at(-1);
      if (rows.length < PIECE || !last) return;
      start = last.key;
    }
  }
}

function newRoom(owner: string): Room {
  const prefix = Buffer.from(digestOf(owner), "hex").subarray(0, OWNER);
  return { owner, prefix, stored: 0, waiting: 0, nextEnd: Infinity };
}

function timeBytes(time: number): Buffer {
  const bytes = Buffer.allocUnsafe(TIME);
  bytes.writeUIntBE(time, 0, TIME);
  return bytes;
}

/** When the key of a row ends. */
function endOf(key: Buffer): number {
  return key.readUIntBE(OWNER, TIME);
}

function ownerRow(owner: string, bytes: number): Buffer {
  return Buffer.concat([timeBytes(bytes), Buffer.from(owner)]);
}

function readOwner(value: Buffer): { owner: string; bytes: number } {
  return { bytes: value.readUIntBE(0, TIME), owner: value.toString("utf8", TIME) };
}
