import { createHash } from "node:crypto";
import { isExpired, isFor, type Event, type EventHead, replacementKey } from "../../core/event.js";
import { compareIds, type EventId, laterOf } from "../../core/id.js";
import { matcherOf } from "../../core/matcher.js";
import type { Query } from "../../core/engine.js";
import type { StoreReading } from "../local/window.js";
import { Block } from "./block.js";
import { idKey, readId } from "./bytes.js";
import { firstPlaces, type Place, prefixesFor } from "./postings.js";
import type { Tables } from "./tables.js";
import { WorkTurns } from "./work-turns.js";

/** Characters of messages after which a read ends: more would hardly fit what may wait for a connection. */
const MAX_READ = 1024 * 1024;

/** What it takes to get a block, and to look at an event besides the bytes of its head, in units of about 10 ns. */
const BLOCK_WORK = 1000;
const EVENT_WORK = 200;

/** Events that are looked at together for one that has not expired. */
const FEW = 16;

/** What a read may cost. */
export interface ReadBounds {
  /** Topics that patterns may lead to before it is dearer to follow them than to read everything. */
  readonly topics: number;
  /** Work in one turn of the event loop. */
  readonly turn: number;
}

/** A turn comes to a few milliseconds. */
const READ_BOUNDS: ReadBounds = { topics: 1024, turn: 300_000 };

/** Reads the log as it is on disk. */
export class LogReader {
  /** No event on disk comes after this id: moves with the commits, before anyone may ask for what they brought. */
  last: EventId;
  /** Subscriptions that match too many topics to follow postings, and the id of the last event of which that is known. */
  private readonly wide = new WeakMap<readonly string[], EventId>();

  constructor(
    private readonly tables: Tables,
    private readonly floor: () => EventId,
    head: EventId,
    private readonly bounds: ReadBounds = READ_BOUNDS,
  ) {
    const block = this.blockAt(head);
    this.last = block ? block.idAt(block.count - 1) : floor();
  }

  /** The first events that the query asks for, as many as can be had without holding the event loop. */
  async read(query: Query): Promise<StoreReading> {
    const { topics } = query;
    const after = laterOf(query.after, this.floor());
    const { last } = this;
    if (compareIds(last, after) <= 0) return { events: [] };
    // What comes meanwhile is for the next read.
    const until = query.until && compareIds(query.until, last) < 0 ? query.until : last;
    const asked = { ...query, after, until };
    const wide = this.wide.get(topics);
    if (wide && compareIds(until, wide) <= 0) return this.scan(asked);
    const turns = new WorkTurns(this.bounds.turn);
    const prefixes = await prefixesFor(this.tables.postings, topics, query.user, this.bounds.topics, turns);
    const events = prefixes && (await this.follow(asked, prefixes, turns));
    // Events after the cursor may have been trimmed meanwhile. The reader is told of that gap, and scans from now on, so that
    // trimming does not overtake it again.
    const isTrimmed = compareIds(after, this.floor()) < 0;
    if (!events || isTrimmed) this.wide.set(topics, last);
    if (isTrimmed) return { events: [], through: after };
    return events ?? this.scan(asked);
  }

  /**
   * Whether an event that the query asks for is at or below the floor, as the floor is now, and on disk all the same: a
   * block goes when the floor has passed all of it. Such events are found as long as they would be without the floor.
   * @param now of the engine's clock
   */
  async hasTrimmed({ after, until, topics, user }: Omit<Query, "limit">, now: number): Promise<boolean> {
    const floor = this.floor();
    const end = until && compareIds(until, floor) < 0 ? until : floor;
    for (let from: EventId | undefined = after; from && compareIds(from, end) < 0;) {
      const { events, through } = this.scan({ after: from, until: end, topics, user, limit: FEW });
      if (events.some((event) => !isExpired(event, now))) return true;
      from = through;
      if (from) await new Promise(setImmediate);
    }
    return false;
  }

  /** An event that is kept; undefined when it is not, or is trimmed. */
  find(id: EventId): { block: Block; index: number } | undefined {
    if (compareIds(id, this.floor()) <= 0) return undefined;
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

  /** Reads what postings lead to, in as many turns as that takes. */
  private async follow(
    { after, until, user, limit: asked }: Query & { readonly until: EventId },
    prefixes: readonly Buffer[],
    turns: WorkTurns,
  ): Promise<StoreReading> {
    // Gathering the postings of many topics is expensive, so read at least this many events at a time.
    const limit = Math.max(asked, prefixes.length);
    const first = this.blockAt(after);
    const from = first ? first.idAt(0) : after;
    const had = first ? first.after(after) : 0;
    const isAhead = ({ block, index }: Place): boolean => index < had && compareIds(block, from) === 0;
    const places = await firstPlaces(this.tables.postings, prefixes, { from, until }, limit, isAhead, turns);
    const events: Event[] = [];
    let size = 0;
    let block: Block | undefined;
    let blockId: EventId | undefined;
    let through = after;
    for (const place of places) {
      if (turns.over) {
        await turns.rest();
        blockId = undefined;
      }
      if (!blockId || compareIds(place.block, blockId) !== 0) {
        block = this.passingBlock((blockId = place.block));
        turns.left -= BLOCK_WORK;
      }
      // Not there: trimmed meanwhile, and said as a gap.
      if (!block) continue;
      const id = block.idAt(place.index);
      if (compareIds(id, until) > 0) return { events };
      through = id;
      turns.left -= EVENT_WORK + block.headSizeAt(place.index);
      const event = block.eventAt(place.index);
      if (isFor(event, user)) events.push(event);
      size += event.message.length;
      if (size >= MAX_READ) return { events, through };
    }
    return places.length < limit ? { events } : { events, through };
  }

  /**
   * Looks at what comes after the cursor, event by event, for one turn: for patterns that match so many topics that it
   * is the shorter way.
   */
  private scan({ after, until, topics, user, limit }: Query & { readonly until: EventId }): StoreReading {
    const events: Event[] = [];
    const matcher = matcherOf(topics);
    const turns = new WorkTurns(this.bounds.turn);
    let size = 0;
    const start = this.blockAt(after)?.idAt(0) ?? after;
    for (const { value } of this.tables.log.getRange({ start: idKey(start) })) {
      const block = new Block(value);
      turns.left -= BLOCK_WORK;
      for (let index = block.after(after); index < block.count; index++) {
        const id = block.idAt(index);
        if (compareIds(id, until) > 0) return { events };
        const head = block.headAt(index);
        turns.left -= EVENT_WORK + block.headSizeAt(index);
        if (matcher.matches(head.topic, turns) && isFor(head, user) && !this.replacedBy(head)) {
          const event = block.eventAt(index);
          events.push(event);
          turns.left -= EVENT_WORK + block.headSizeAt(index);
          size += event.message.length;
        }
        if (events.length >= limit || size >= MAX_READ || turns.over) return { events, through: id };
      }
    }
    return { events };
  }

  /** The event that has taken its place. */
  replacedBy(head: EventHead): EventId | undefined {
    const replacement = replacementKey(head);
    if (replacement === undefined) return undefined;
    const by = this.tables.replaced.get(idKey(head.id));
    if (by) return readId(by);
    const newest = this.newest(replacement);
    // Replaced by a relay of an earlier version, which did not write down by which: as early as can be.
    return newest && compareIds(newest, head.id) !== 0 ? head.id : undefined;
  }
}

/** A digest, as topic, users and key may be longer than what LMDB takes as a key. */
export function replaceableKey(replacement: string): Buffer {
  return createHash("sha256").update(replacement).digest();
}
