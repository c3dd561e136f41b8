import { setTimeout as delay } from "node:timers/promises";
import type { RootDatabase } from "lmdb";
import type { ClientId, ClientRecord } from "../../core/client.js";
import type { KeptClient, Matched, StoreReading } from "../../core/engine.js";
import { RelayError } from "../../core/errors.js";
import { type Event, type EventDraft, replacementKey } from "../../core/event.js";
import { compareIds, type EventId, formatId, laterOf } from "../../core/id.js";
import type { Query, Retention, Window } from "../../core/window.js";
import type { Journal, JournalReceipt, KnownKey } from "../journal.js";
import { Audiences } from "./audiences.js";
import { clientOf, endOf, ID_BYTES, idKey } from "./bytes.js";
import { Group } from "./group.js";
import { LogReader } from "./log-reader.js";
import { encode, type LogState } from "./records.js";
import { Changes, META, type Tables } from "./tables.js";
import { Tombstones } from "./tombstones.js";
import { Trimmer } from "./trimmer.js";
import { Writer } from "./writer.js";

/** Milliseconds until a commit that failed is tried again. */
const RETRY_AFTER = 1000;

/** Age and size of the log are looked at after so many milliseconds, and when so much of its limit was written. */
const TRIM_EVERY = 100;
const TRIM_PART = 1 / 64;

/** Rows that are dropped with one commit besides as many as it brings: a few milliseconds. */
const TRIM_BUDGET = 1000;

/** Characters of messages with which a group is closed: what one transaction writes is to be a small part of the log. */
const GROUP_SIZE = 2 * 1024 * 1024;

/** How many clients that an event passed by are noted for it, and for how many events that is counted. */
const MAX_MISSED = 1000;
const MAX_EVENTS_MISSED = 10_000;

/** Milliseconds of ids for events that are not kept, after which the last one is written all the same. */
const ID_LAG = 500;

/** Milliseconds between complaints about the same thing. */
const COMPLAIN_EVERY = 60_000;

/** What happened to the journal that someone should know who looks after the relay. */
export type Report = (level: "error" | "info", message: string, error?: unknown) => void;

/**
 * Writes to LMDB in groups: what comes while one commit is under way goes into the next. When a commit fails, what it
 * had stays ordered and is tried again until it is safe; until then nothing new is taken.
 */
export class LmdbJournal implements Journal {
  /** What waits to be written, in order. The last is still open, and never left out. */
  private readonly waiting: [Group, ...Group[]] = [new Group()];
  private underWay: Group | undefined;
  private running: Promise<void> | undefined;
  private failed = false;
  private closed = false;
  private head: EventId;
  private readonly origin: EventId;
  private readonly reader: LogReader;
  private readonly audiences: Audiences;
  private readonly tombstones: Tombstones;
  private readonly trimmer: Trimmer;
  private readonly writer: Writer;
  private complainedAt = 0;
  private trimmedAt = 0;
  /** Bytes since then. */
  private written = 0;
  private trimDue = false;
  /** How many clients an event passed by. */
  private misses = new Map<string, number>();

  constructor(
    private readonly root: RootDatabase<Buffer, Buffer>,
    private readonly tables: Tables,
    private readonly window: Window,
    private readonly retention: Retention,
    { origin, head, floor, count }: LogState,
    private readonly report: Report,
  ) {
    this.origin = origin;
    this.head = head;
    this.trimmer = new Trimmer(tables, retention, floor, count);
    this.reader = new LogReader(tables, () => this.floor);
    this.audiences = new Audiences(tables.audiences);
    this.tombstones = new Tombstones(tables.gone);
    this.writer = new Writer(tables, this.reader, this.audiences);
    window.pinned = head;
  }

  get floor(): EventId {
    return this.trimmer.floor;
  }

  check(): void {
    if (this.failed || this.closed) throw unavailable();
  }

  addEvent(event: Event, matched: readonly Matched[], replaces: Event | undefined): void {
    this.pending.addEvent(event, matched, replaces);
    this.note(event.id);
  }

  replacedBy(draft: EventDraft): Event | undefined {
    const replacement = replacementKey(draft);
    const id = replacement === undefined ? undefined : this.reader.newest(replacement);
    if (!id || compareIds(id, this.floor) <= 0) return undefined;
    const found = this.reader.find(id);
    return found?.block.eventAt(found.index);
  }

  putClient(record: ClientRecord, at: EventId): void {
    this.pending.putClient(record);
    this.note(at);
  }

  moveClient(record: ClientRecord): void {
    if (this.pending.clients.has(record.id)) this.pending.putClient(record);
    else this.pending.moved.set(record.id, record);
    this.wake();
  }

  removeClient({ id, userId, confirmed, lost }: ClientRecord, at: EventId): void {
    this.pending.removeClient(id, { userId, confirmed, lost, at });
    this.tombstones.note(id, at);
    this.note(at);
  }

  putKey(key: KnownKey): void {
    this.pending.keys.set(key.key, key);
    this.wake();
  }

  removeKey(key: KnownKey): void {
    this.pending.endedKeys.add(key);
    this.wake();
  }

  miss(event: EventId, client: ClientId): void {
    if (this.misses.size > MAX_EVENTS_MISSED) this.misses = new Map();
    const name = formatId(event);
    const misses = (this.misses.get(name) ?? 0) + 1;
    this.misses.set(name, misses);
    if (misses > MAX_MISSED + 1) return;
    this.pending.missed.push({ event, client: misses > MAX_MISSED ? undefined : client });
    this.wake();
  }

  async saved(): Promise<void> {
    if (this.failed) throw unavailable();
    const { pending, underWay } = this;
    // What one request brings is never divided: so here is where a group that is large enough can end.
    if (pending.size > GROUP_SIZE) this.waiting.push(new Group());
    await (pending.isEmpty ? (this.waiting.at(-2) ?? underWay)?.saved : pending.saved);
  }

  async savedKey(key: string): Promise<void> {
    const group = [...this.waiting, this.underWay].findLast((each) => each?.keys.has(key));
    if (group && this.failed) throw unavailable();
    await group?.saved;
  }

  async read(query: Query): Promise<StoreReading> {
    try {
      return await this.reader.read(query);
    } catch (error) {
      const now = Date.now();
      if (now - this.complainedAt > COMPLAIN_EVERY) {
        this.complainedAt = now;
        this.report("error", "the log can not be read everywhere: data.mdb is damaged", error);
      }
      throw unavailable();
    }
  }

  receipt(event: EventId): JournalReceipt | undefined {
    const found = this.reader.find(event);
    if (!found) return undefined;
    const { audience, ...head } = found.block.headAt(found.index);
    const matched = this.audiences.clients(audience);
    return { head, matched, missed: this.missed(event), replaced: this.reader.isReplaced(head) };
  }

  gone(id: ClientId): KeptClient | undefined {
    const tombstone = this.tombstones.get(id);
    return tombstone && { ...tombstone, id, gone: true };
  }

  trim(now: number): void {
    if (this.failed || this.closed || !this.trimmer.isDue(now)) return;
    this.trimDue = true;
    this.wake();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.wake();
    await this.running;
    await this.root.close();
  }

  /** The group that is still open. */
  private get pending(): Group {
    return this.waiting.at(-1) as Group;
  }

  /** Takes the first group, to write it. */
  private next(): Group {
    if (this.waiting.length === 1) this.waiting.push(new Group());
    return this.waiting.shift() as Group;
  }

  note(id: EventId): void {
    this.pending.head = id;
    // The newest id alone is no reason to write, but for once in a while.
    if (!this.pending.isEmpty || id.ms - this.head.ms > ID_LAG) this.wake();
  }

  private wake(): void {
    this.running ??= this.run();
  }

  private async run(): Promise<void> {
    // What else comes in this turn goes along.
    await new Promise(setImmediate);
    while (this.isDue()) {
      const group = this.next();
      this.underWay = group;
      try {
        await this.commit(group);
      } catch (error) {
        this.fail(group, error);
        if (this.closed) break;
        await delay(RETRY_AFTER, undefined, { ref: false });
        continue;
      }
      this.succeed(group);
    }
    this.underWay = undefined;
    this.running = undefined;
  }

  private isDue(): boolean {
    if (this.waiting.length > 1 || !this.pending.isEmpty) return true;
    const { head } = this.pending;
    if (head && (this.closed || head.ms - this.head.ms > ID_LAG)) return true;
    return this.trimDue && !this.closed;
  }

  private async commit(group: Group): Promise<void> {
    const changes = new Changes();
    this.trimmer.count += group.events.length;
    const renewed = this.writer.write(changes, group);
    this.drop(changes, group.events.length, renewed);
    this.head = group.head ?? this.head;
    const { origin, head, trimmer } = this;
    changes.put(this.tables.meta, META, encode({ origin, head, floor: trimmer.floor, count: trimmer.count }));
    await changes.commit(this.root);
    this.trimDue ||= trimmer.count > this.retention.count;
  }

  private drop(changes: Changes, events: number, renewed: ReadonlySet<string>): void {
    const now = Date.now();
    const { count, bytes, age } = this.retention;
    this.written += changes.bytes;
    const { trimmer, trimmedAt, written } = this;
    const looks = now - trimmedAt >= TRIM_EVERY || written > bytes * TRIM_PART;
    if (!this.trimDue && !looks && trimmer.count <= count) return;
    this.trimmedAt = now;
    this.written = 0;
    const budget = TRIM_BUDGET + events * 2;
    this.trimDue = trimmer.trim(changes, now, budget, renewed);
    this.window.dropThrough(this.floor);
    const oldest = { ms: Math.max(0, now - age), seq: 0 };
    this.tombstones.trim(changes, laterOf(oldest, this.floor), budget);
  }

  private succeed(group: Group): void {
    if (this.failed) this.report("info", "the data directory can be written again");
    this.failed = false;
    if (group.head) this.window.pinned = group.head;
    group.resolve();
  }

  private fail(group: Group, error: unknown): void {
    if (!this.failed) this.report("error", "the data directory can not be written: trying again until it can", error);
    this.failed = true;
    this.trimmer.count -= group.events.length;
    this.audiences.forget();
    const all = new Group();
    for (const each of [group, ...this.waiting]) {
      all.add(each);
      each.reject(unavailable());
    }
    this.waiting.splice(0, Infinity, all);
  }

  private missed(event: EventId): ReadonlySet<ClientId> | undefined {
    const start = idKey(event);
    const clients = [...this.tables.missed.getKeys({ start, end: endOf(start) })].map((key) => key.subarray(ID_BYTES));
    return clients.some((client) => client.length === 1) ? undefined : new Set(clients.map(clientOf));
  }
}

function unavailable(): RelayError {
  return new RelayError("unavailable", "the relay can not write to its disk now; what it has is safe. Try again later");
}
