import { createHash } from "node:crypto";
import type { StoreReading } from "../../core/engine.js";
import { isFor, type Event, type EventHead, replacementKey } from "../../core/event.js";
import { compareIds, type EventId, laterOf } from "../../core/id.js";
import { matcherOf } from "../../core/topics.js";
import type { Query } from "../../core/window.js";
import { Block } from "./block.js";
import { idKey, readId } from "./bytes.js";
import { firstPlaces, prefixesFor } from "./postings.js";
import type { Tables } from "./tables.js";

/** Characters of messages after which a read ends: more would hardly fit what may wait for a connection. */
const MAX_READ = 1024 * 1024;

/** Events that are looked at in one turn when everything has to be read: some milliseconds. */
const SCAN = 1000;

/** Reads the log as it is on disk. */
export class LogReader {
  /** No event on disk comes after this id: moves with the commits, before anyone may ask for what they brought. */
  last: EventId;

  constructor(
    private readonly tables: Tables,
    private readonly floor: () => EventId,
    head: EventId,
  ) {
    const block = this.blockAt(head);
    this.last = block ? block.idAt(block.count - 1) : floor();
  }

  /** The first events that the query asks for. */
  async read(query: Query): Promise<StoreReading> {
    const after = laterOf(query.after, this.floor());
    if (compareIds(this.last, after) <= 0) return { events: [] };
    const prefixes = prefixesFor(this.tables.postings, query.topics, query.user);
    if (!prefixes) return this.scan({ ...query, after });
    // As in the window: many short reads for many topics were dear.
    const limit = Math.max(query.limit, Math.floor(prefixes.length / 8));
    const first = this.blockAt(after);
    const from = first ? first.idAt(0) : after;
    const had = first ? first.after(after) : 0;
    const places = firstPlaces(this.tables.postings, prefixes, from, limit, ({ block, index }) => {
      return index < had && compareIds(block, from) === 0;
    });
    const events: Event[] = [];
    let size = 0;
    let block: Block | undefined;
    let blockId: EventId | undefined;
    for (const place of places) {
      if (!blockId || compareIds(place.block, blockId) !== 0) block = this.passingBlock((blockId = place.block));
      // Not there: trimmed meanwhile, and said as a gap.
      if (!block) continue;
      if (query.until && compareIds(block.idAt(place.index), query.until) > 0) break;
      const event = block.eventAt(place.index);
      if (!isFor(event, query.user)) continue;
      events.push(event);
      size += event.message.length;
      if (size >= MAX_READ) return { events, through: event.id };
    }
    return { events };
  }

  /** An event that is kept; undefined when it is not. */
  find(id: EventId): { block: Block; index: number } | undefined {
    const block = this.blockAt(id);
    const index = block?.indexOf(id);
    return block && index !== undefined ? { block, index } : undefined;
  }

  /** The id of the newest event with a replacement key. */
  newest(replacement: string): EventId | undefined {
    const id = this.tables.replaceable.get(replaceableKey(replacement));
    return id && readId(id);
  }

  /** The block that an id falls into: the last one that starts at or before it. */
  private blockAt(id: EventId): Block | undefined {
    const [key] = this.tables.log.getKeys({ start: idKey(id), reverse: true, limit: 1 });
    const bytes = key && this.tables.log.get(key);
    return bytes && new Block(bytes);
  }

  /** A block that is good until anything else is read. */
  private passingBlock(id: EventId): Block | undefined {
    const bytes = this.tables.log.getBinaryFast(idKey(id));
    return bytes && new Block(bytes);
  }

  /** Looks at everything after the cursor: for patterns that match so many topics that it is the shorter way. */
  private async scan({ after, until, topics, user, limit }: Query): Promise<StoreReading> {
    const events: Event[] = [];
    const matches = matcherOf(topics);
    let position = after;
    for (;;) {
      const before = position;
      for (const block of this.blocksAfter(position)) {
        for (let index = block.after(position); index < block.count; index++) {
          position = block.idAt(index);
          if (until && compareIds(position, until) > 0) return { events };
          const head = block.headAt(index);
          if (!isFor(head, user) || this.isReplaced(head)) continue;
          if (matches(head.topic)) events.push(block.eventAt(index));
          if (events.length >= limit) return { events, through: position };
        }
      }
      if (compareIds(position, before) === 0) return { events };
      await new Promise(setImmediate);
      // What comes next may have been trimmed meanwhile: then the reader has to be told.
      if (compareIds(position, this.floor()) < 0) return { events, through: position };
    }
  }

  /** The next blocks with something after an id. */
  private *blocksAfter(id: EventId): Generator<Block> {
    let events = 0;
    const start = this.blockAt(id)?.idAt(0) ?? id;
    for (const { value } of this.tables.log.getRange({ start: idKey(start) })) {
      const block = new Block(value);
      yield block;
      events += block.count;
      if (events >= SCAN && compareIds(block.idAt(block.count - 1), id) > 0) return;
    }
  }

  /** Whether a later event has taken its place. */
  isReplaced(head: EventHead): boolean {
    const replacement = replacementKey(head);
    if (replacement === undefined) return false;
    const newest = this.newest(replacement);
    return newest !== undefined && compareIds(newest, head.id) !== 0;
  }
}

/** A digest, as topic, users and key may be longer than what LMDB takes as a key. */
export function replaceableKey(replacement: string): Buffer {
  return createHash("sha256").update(replacement).digest();
}
