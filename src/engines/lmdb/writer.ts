import { type Event, replacementKey } from "../../core/event.js";
import { compareIds, type EventId, formatId } from "../../core/id.js";
import type { Pieces } from "../../core/turns.js";
import type { Audiences } from "./audiences.js";
import { encodeBlock, MAX_BYTES, MAX_EVENTS, MAX_ROWS, recordOf } from "./block.js";
import { clientKey, idKey } from "./bytes.js";
import type { Group } from "./group.js";
import type { Lists } from "./lists.js";
import { type LogReader, replaceableKey } from "./log-reader.js";
import { BlockPostings, decodePlaces, encodePlaces, postingKeys } from "./postings.js";
import { encode, encodeClient, encodeProgress } from "./records.js";
import type { Changes, Tables } from "./tables.js";
import type { Uptime } from "./uptime.js";

/** Turns what happened into rows. */
export class Writer {
  constructor(
    private readonly tables: Tables,
    private readonly reader: LogReader,
    private readonly audiences: Audiences,
    private readonly lists: Lists,
    private readonly uptime: Uptime,
  ) {}

  /** @returns digests of the replacement keys that have newer events now */
  *write(changes: Changes, group: Group): Pieces<Set<string>> {
    const renewed = yield* this.writeEvents(changes, group);
    yield* this.writeClients(changes, group);
    return renewed;
  }

  private *writeClients(changes: Changes, group: Group): Pieces {
    const { tables, lists } = this;
    for (const record of group.moved.values()) {
      // What it has read has lists that it needs no more: so its row is to change, also when this commit is tried again.
      if (lists.isStale(record)) group.putClient(record);
      else changes.put(tables.cursors, clientKey(record.id), encodeProgress(record));
      yield;
    }
    for (const record of group.clients.values()) {
      const ref = yield* lists.keep(record);
      changes.put(tables.clients, clientKey(record.id), encodeClient(record, ref, this.uptime));
      changes.put(tables.cursors, clientKey(record.id), encodeProgress(record));
      yield;
    }
    for (const [id, tombstone] of group.gone) {
      lists.forget(id);
      changes.remove(tables.clients, clientKey(id));
      changes.remove(tables.cursors, clientKey(id));
      changes.put(tables.gone, clientKey(id), encode(tombstone));
      yield;
    }
    yield* lists.write(changes);
  }

  private *writeEvents(changes: Changes, { events, replaced }: Group): Pieces<Set<string>> {
    const renewed = new Set<string>();
    let block = new BlockBuilder();
    for (const { event, audiences } of events) {
      const record = recordOf(event, yield* this.audiences.keep(changes, event.id, audiences));
      if (!block.hasRoomFor(event, record)) block = this.finish(changes, block);
      const isReplaced = replaced.size > 0 && event.key !== undefined && replaced.has(formatId(event.id));
      block.add(event, record, !isReplaced);
      yield;
      const digest = isReplaced ? undefined : digestOf(event);
      if (!digest) continue;
      changes.put(this.tables.replaceable, digest, idKey(event.id));
      renewed.add(digest.toString("latin1"));
    }
    this.finish(changes, block);
    if (replaced.size === 0) return renewed;
    yield* this.writeReplaced(changes, replaced, renewed);
    const first = events[0]?.event.id;
    const older = [...replaced.values()].filter(({ event }) => !first || compareIds(event.id, first) < 0);
    yield* this.unlist(
      changes,
      older.map(({ event }) => event),
    );
    return renewed;
  }

  private *writeReplaced(changes: Changes, replaced: Group["replaced"], renewed: ReadonlySet<string>): Pieces {
    for (const { event, by, isKept } of replaced.values()) {
      changes.put(this.tables.replaced, idKey(event.id), idKey(by));
      // Otherwise the row is that of what took its place.
      const digest = isKept ? undefined : digestOf(event);
      if (digest && !renewed.has(digest.toString("latin1"))) changes.remove(this.tables.replaceable, digest);
      yield;
    }
  }

  private finish(changes: Changes, block: BlockBuilder): BlockBuilder {
    const { first, postings } = block;
    if (first && postings) {
      changes.put(this.tables.log, idKey(first), block.bytes);
      for (const { key, places } of postings.values()) changes.put(this.tables.postings, key, encodePlaces(places));
    }
    return new BlockBuilder();
  }

  /** Takes the postings from events that are kept already, so that no reader finds them. */
  private *unlist(changes: Changes, events: readonly Event[]): Pieces {
    const changed = new Map<string, { readonly key: Buffer; readonly places: readonly number[] }>();
    for (const event of events) {
      const found = this.reader.find(event.id);
      if (!found) continue;
      for (const key of postingKeys(event, found.block.idAt(0))) {
        const name = key.toString("latin1");
        const places = changed.get(name)?.places ?? decodePlaces(this.tables.postings.get(key) ?? NOTHING);
        changed.set(name, { key, places: places.filter((place) => place !== found.index) });
      }
      yield;
    }
    for (const { key, places } of changed.values()) {
      if (places.length > 0) changes.put(this.tables.postings, key, encodePlaces(places));
      else changes.remove(this.tables.postings, key);
    }
  }
}

const NOTHING = Buffer.alloc(0);

function digestOf(event: Event): Buffer | undefined {
  const replacement = replacementKey(event);
  return replacement === undefined ? undefined : replaceableKey(replacement);
}

/** A block in the making. */
class BlockBuilder {
  postings: BlockPostings | undefined;
  private readonly ids: EventId[] = [];
  private readonly records: string[] = [];
  private size = 0;
  private rows = 0;

  get first(): EventId | undefined {
    return this.ids[0];
  }

  get bytes(): Buffer {
    return encodeBlock(this.ids, this.records);
  }

  hasRoomFor({ users }: Event, record: string): boolean {
    if (this.ids.length === 0) return true;
    const rows = this.rows + (users?.length ?? 1);
    return this.ids.length < MAX_EVENTS && rows <= MAX_ROWS && this.size + record.length <= MAX_BYTES;
  }

  /** @param listed whether readers are to find it */
  add(event: Event, record: string, listed: boolean): void {
    this.postings ??= new BlockPostings(event.id);
    if (listed) this.postings.add(event, this.ids.length);
    this.ids.push(event.id);
    this.records.push(record);
    this.size += record.length;
    this.rows += event.users?.length ?? 1;
  }
}
