import { replacementKey } from "../../core/event.js";
import { compareIds, type EventId } from "../../core/id.js";
import type { Retention } from "../../core/window.js";
import { Block } from "./block.js";
import { endOf, ID_BYTES, idKey, readId } from "./bytes.js";
import { AUDIENCE_LIFE } from "./audiences.js";
import { replaceableKey } from "./log-reader.js";
import { keysOfBlock } from "./postings.js";
import { type Changes, logBytes, type Table, type Tables } from "./tables.js";

/**
 * The part of `retention.bytes` that the log may fill: pages are not always full, and what LMDB itself keeps takes some.
 */
const FILL = 0.8;

/** LMDB can not use pages again that it freed in the last transactions: the room that these need, in transactions. */
const TRANSACTIONS = 3;

/** The part of `retention.bytes` that is filled in any case, however large the transactions are. */
const LEAST_FILL = 0.25;

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
  ) {}

  /** Whether there is something to drop. */
  isDue(now: number): boolean {
    if (this.count === 0) return false;
    if (this.count > this.retention.count || this.excess() > 0) return true;
    const oldest = this.oldest();
    return oldest !== undefined && this.isTooMuch(oldest, now);
  }

  /**
   * Moves the floor over what the retention does not allow, and adds to `changes` what removes that from the tables.
   * @param changes what is written with it
   * @param budget how many events, about
   * @returns whether there is more to drop
   */
  trim(changes: Changes, now: number, budget: number): boolean {
    this.transaction = Math.max(changes.bytes, this.transaction * 0.99);
    let left = budget;
    let excess = this.excess();
    for (const { key, value } of this.tables.log.getRange({})) {
      if (left <= 0) break;
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
        excess -= this.removeBlock(changes, key, block);
      } catch {
        // The disk did not keep what was written. Readers that come by fail; this must not.
        changes.remove(this.tables.log, key);
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
    const limit = Math.max(bytes * FILL - this.transaction * TRANSACTIONS, bytes * LEAST_FILL);
    return logBytes(this.tables) - limit;
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

  /** @returns about how many bytes that frees */
  private removeBlock(changes: Changes, key: Buffer, block: Block): number {
    const postings = keysOfBlock(block);
    for (const posting of postings) changes.remove(this.tables.postings, posting);
    for (let index = 0; index < block.count; index++) {
      const head = block.headAt(index);
      const replacement = replacementKey(head);
      if (replacement === undefined) continue;
      const newest = this.tables.replaceable.get(replaceableKey(replacement));
      if (newest && compareIds(readId(newest), head.id) === 0) {
        changes.remove(this.tables.replaceable, replaceableKey(replacement));
      }
    }
    changes.remove(this.tables.log, key);
    return postings.reduce((sum, posting) => sum + posting.length + OVERHEAD, block.size + OVERHEAD);
  }

  /** What belongs to events that are gone. */
  private removeThroughFloor(changes: Changes, budget: number): void {
    const { ms, seq } = this.floor;
    remove(changes, this.tables.missed, endOf(idKey(this.floor)), budget);
    remove(changes, this.tables.audiences, idKey({ ms: Math.max(0, ms - AUDIENCE_LIFE), seq }), budget);
  }
}

function remove(changes: Changes, table: Table, end: Buffer, limit: number): void {
  for (const key of table.getKeys({ end, limit })) if (key.length >= ID_BYTES) changes.remove(table, key);
}
