import { type EventHead, isExpired, replacementKey } from "../../core/event.js";
import { compareIds, type EventId, formatId, laterOf } from "../../core/id.js";
import type { Pieces } from "../../core/turns.js";
import type { Retention } from "../local/window.js";
import { Block } from "./block.js";
import { endOf, idKey, readId } from "./bytes.js";
import { AUDIENCE_LIFE } from "./audiences.js";
import type { Group } from "./group.js";
import { replaceableKey } from "./log-reader.js";
import { BlockPostings } from "./postings.js";
import { bytesOf, type Changes, LOG_TABLES, RECEIPT_TABLES, rowsOf, type Table, type Tables } from "./tables.js";
import type { TrimmedTopics } from "./trimmed.js";

/**
 * The part of `retention.bytes` that the log may fill: pages are not always full, and what LMDB itself keeps takes some.
 */
const FILL = 0.76;

/** LMDB can not use pages again that it freed in the last transactions: the room that these need, in transactions. */
const TRANSACTIONS = 3;

/** The part of `retention.bytes` that receipts may take: beyond, the oldest go before any event does. */
const RECEIPTS = 1 / 8;

/** The part of `retention.bytes` that is filled in any case, however large the transactions are. */
const LEAST_FILL = 0.25;

/** Blocks that are read at a time. */
const BLOCKS = 16;

/** Rows of receipts that are dropped at a time when they take too much. */
const TOO_MANY = 16;

/** What a block and a posting take besides their bytes, roughly. */
const OVERHEAD = 64;

/** Drops the old end of the log, so much at a time as the caller allows. */
export class Trimmer {
  /** Bytes that a transaction writes: the largest of late. */
  private transaction = 0;

  constructor(
    private readonly tables: Tables,
    private readonly retention: Retention,
    /** Nothing at or before it is there any more, for readers. */
    public floor: EventId,
    /** Events above the floor. */
    public count: number,
    private readonly trimmed: TrimmedTopics,
    /** Called when receipts took too much, and lists went that newer ones may refer to. */
    private readonly removed: () => void,
  ) {}

  /** Whether there is something to drop. */
  isDue(now: number): boolean {
    if (this.count === 0) return false;
    if (this.count > this.retention.count || this.excess() > 0) return true;
    try {
      const oldest = this.oldest();
      return oldest !== undefined && this.isTooMuch(oldest, now);
    } catch {
      // See `trim` for what is done about it.
      return true;
    }
  }

  /**
   * Moves the floor over what the retention does not allow, and adds to `changes` what removes that from the tables.
   * @param changes what is written with it
   * @param budget how many rows, about
   * @param replacements that `changes` brings
   * @returns whether there is more to drop
   */
  *trim(changes: Changes, now: number, budget: number, { renewed, replaced }: Replacements): Pieces<boolean> {
    this.transaction = Math.max(changes.bytes, this.transaction * 0.99);
    let left = budget;
    let excess = this.excess();
    this.trimmed.begin(changes, this.floor);
    for (const { key, value } of rowsOf(this.tables.log, BLOCKS)) {
      if (left <= 0) break;
      yield;
      try {
        const block = new Block(value);
        let index = block.after(this.floor);
        for (; index < block.count && left > 0; index++, left--) {
          const id = block.idAt(index);
          if (excess <= 0 && !this.isTooMuch(id, now)) break;
          this.floor = id;
          this.count--;
        }
        if (index < block.count) break;
        const removed = this.removeBlock(changes, key, block, { now, renewed, replaced });
        excess -= removed.bytes;
        left -= removed.rows;
      } catch {
        // The disk did not keep what was written. Readers that come by fail; this must not.
        changes.remove(this.tables.log, key);
        this.forgetAll();
      }
    }
    this.removeThroughFloor(changes, budget);
    return left <= 0;
  }

  private isTooMuch(oldest: EventId, now: number): boolean {
    return this.count > this.retention.count || oldest.ms <= now - this.retention.age;
  }

  /** Bytes over the limit. */
  private excess(): number {
    const { bytes } = this.retention;
    const receipts = Math.min(bytesOf(this.tables, RECEIPT_TABLES), bytes * RECEIPTS);
    const limit = Math.max(bytes * FILL - receipts - this.transaction * TRANSACTIONS, bytes * LEAST_FILL);
    return bytesOf(this.tables, LOG_TABLES) - limit;
  }

  /** The first event after the floor. */
  private oldest(): EventId | undefined {
    for (const { value } of this.tables.log.getRange({ limit: 2 })) {
      const block = new Block(value);
      const index = block.after(this.floor);
      if (index < block.count) return block.idAt(index);
    }
    return undefined;
  }

  /** Removes a block, and notes which readers could still have had its events. @returns what that frees, about */
  private removeBlock(changes: Changes, key: Buffer, block: Block, at: Removal): { bytes: number; rows: number } {
    const postings = new BlockPostings(block.idAt(0));
    const missed: boolean[] = [];
    for (let index = 0; index < block.count; index++) {
      const head = block.headAt(index);
      postings.add(head, index);
      missed.push(this.removeReplaceable(changes, head, at) && !isExpired(head, at.now));
    }
    let bytes = block.size + OVERHEAD;
    let rows = 0;
    for (const posting of postings.values()) {
      const last = posting.places.findLast((place) => missed[place]);
      if (last !== undefined) this.trimmed.note(changes, posting.key, block.idAt(last));
      changes.remove(this.tables.postings, posting.key);
      bytes += posting.key.length + OVERHEAD;
      rows++;
    }
    changes.remove(this.tables.log, key);
    return { bytes, rows };
  }

  /** Removes the row by which later events find the one that they replace. @returns whether none has replaced it */
  private removeReplaceable(changes: Changes, head: EventHead, { renewed, replaced }: Removal): boolean {
    const replacement = replacementKey(head);
    if (replacement === undefined) return true;
    const key = idKey(head.id);
    if (replaced.has(formatId(head.id)) || this.tables.replaced.get(key)) {
      changes.remove(this.tables.replaced, key);
      return false;
    }
    const digest = replaceableKey(replacement);
    if (renewed.has(digest.toString("latin1"))) return false;
    const newest = this.tables.replaceable.get(digest);
    if (newest && compareIds(readId(newest), head.id) !== 0) return false;
    if (newest) changes.remove(this.tables.replaceable, digest);
    return true;
  }

  /** A block could not be read: nobody knows for whom its events were. They come before the last block on disk. */
  private forgetAll(): void {
    const [last] = this.tables.log.getKeys({ reverse: true, limit: 1 });
    this.trimmed.forget(last ? laterOf(this.floor, readId(last)) : this.floor);
  }

  /** What belongs to events that are gone. */
  private removeThroughFloor(changes: Changes, budget: number): void {
    const { ms, seq } = this.floor;
    remove(changes, this.tables.missed, { end: endOf(idKey(this.floor)), limit: budget });
    const unused = idKey({ ms: Math.max(0, ms - AUDIENCE_LIFE), seq });
    remove(changes, this.tables.audiences, { end: unused, limit: budget });
    if (bytesOf(this.tables, RECEIPT_TABLES) <= this.retention.bytes * RECEIPTS) return;
    for (const name of RECEIPT_TABLES) remove(changes, this.tables[name], { limit: TOO_MANY });
    this.removed();
  }
}

/** What a commit brings that takes the places of events. */
export interface Replacements {
  /** Digests that the commit has newer events for. */
  readonly renewed: ReadonlySet<string>;
  /** Ids of events that were replaced. */
  readonly replaced: Pick<Group["replaced"], "has">;
}

/** With which commit, and when, a block is removed. */
interface Removal extends Replacements {
  /** Of the engine's clock. */
  readonly now: number;
}

/** The oldest rows. */
function remove(changes: Changes, table: Table, range: { readonly end?: Buffer; readonly limit: number }): void {
  for (const key of table.getKeys(range)) changes.remove(table, key);
}
