import type { RootDatabase } from "lmdb";
import type { ClientId, ClientRecord } from "../../core/client.js";
import type { Audience, EngineReading, KeptClient, Query } from "../../core/engine.js";
import { type Event, type EventDraft, replacementKey } from "../../core/event.js";
import { type EventId, laterOf } from "../../core/id.js";
import { type Pieces, takeTurns } from "../../core/turns.js";
import type { Journal, JournalReceipt } from "../local/journal.js";
import { trimmedRoom } from "../local/trimmed.js";
import type { Retention, Window } from "../local/window.js";
import { Audiences } from "./audiences.js";
import { Commits, type Report, unavailable } from "./commits.js";
import type { Group } from "./group.js";
import { LmdbKeys } from "./keys.js";
import type { Lists } from "./lists.js";
import { LogReader } from "./log-reader.js";
import { encode, type LogState } from "./records.js";
import { Changes, META, type Tables } from "./tables.js";
import type { Tombstones } from "./tombstones.js";
import { TrimmedTopics } from "./trimmed.js";
import { type Replacements, Trimmer } from "./trimmer.js";
import type { Uptime } from "./uptime.js";
import { Writer } from "./writer.js";

/** Age and size of the log are looked at after so many milliseconds, and when so much of its limit was written. */
const TRIM_EVERY = 100;
const TRIM_PART = 1 / 64;

/** Rows that are dropped with one commit besides as many as it brings: a few milliseconds. */
const TRIM_BUDGET = 1000;

/** Milliseconds of ids for events that are not kept, after which the last one is written all the same. */
const ID_LAG = 500;

/** Milliseconds between complaints about the same thing. */
const COMPLAIN_EVERY = 60_000;

/** What a LocalEngine is to keep, in LMDB: collected in groups, committed, read back and trimmed. */
export class LmdbJournal implements Journal {
  readonly keys: LmdbKeys;
  private readonly commits: Commits;
  private head: EventId;
  private readonly origin: EventId;
  private readonly reader: LogReader;
  private readonly audiences: Audiences;
  private readonly trimmer: Trimmer;
  private readonly trimmedTopics: TrimmedTopics;
  private readonly writer: Writer;
  private complainedAt = -Infinity;
  private trimmedAt = 0;
  /** Bytes since then. */
  private written = 0;
  private trimDue = false;
  private whenTrimmed: () => void = () => undefined;

  constructor(
    private readonly root: RootDatabase<Buffer, Buffer>,
    private readonly tables: Tables,
    private readonly window: Window,
    private readonly retention: Retention,
    { origin, head, floor, count, trimmed = { unknown: floor, turned: floor, recent: 0 } }: LogState,
    private readonly uptime: Uptime,
    private readonly tombstones: Tombstones,
    private readonly lists: Lists,
    private readonly report: Report,
    keyRoom?: number,
  ) {
    this.origin = origin;
    this.head = head;
    this.audiences = new Audiences(tables.audiences);
    this.trimmedTopics = new TrimmedTopics(tables, trimmed, trimmedRoom(retention));
    this.trimmer = new Trimmer(tables, retention, floor, count, this.trimmedTopics, () => this.audiences.forget());
    this.reader = new LogReader(tables, () => this.floor, head);
    this.writer = new Writer(tables, this.reader, this.audiences, lists, uptime);
    this.commits = new Commits(
      {
        commit: (group) => this.commit(group),
        succeeded: (group) => {
          const { head: last, events } = group;
          this.keys.committed(group);
          if (last) window.pinned = last;
          this.reader.last = events.at(-1)?.event.id ?? this.reader.last;
        },
        failed: ({ events }) => {
          this.trimmer.count -= events.length;
          this.trimmedTopics.failed();
          this.audiences.forget();
          this.keys.failed();
        },
        isDue: () => this.isDue(),
      },
      report,
    );
    this.keys = new LmdbKeys(tables, this.commits, uptime.clock, keyRoom);
    window.pinned = head;
  }

  get floor(): EventId {
    return this.trimmer.floor;
  }

  begin(trimmed: () => void): void {
    this.whenTrimmed = trimmed;
  }

  open(): number {
    return this.uptime.begin();
  }

  check(): void {
    if (this.commits.refusing) throw unavailable();
  }

  hold(): () => void {
    return this.commits.hold();
  }

  addEvent(event: Event, audiences: readonly Audience[], replaces: Event | undefined): void {
    this.pending.addEvent(event, audiences, replaces);
  }

  replacedBy(draft: EventDraft): Event | undefined {
    const replacement = replacementKey(draft);
    const id = replacement === undefined ? undefined : this.reader.newest(replacement);
    const found = id && !this.commits.isReplaced(id) ? this.reader.find(id) : undefined;
    return found?.block.eventAt(found.index);
  }

  replace(event: Event, by: EventId): void {
    this.pending.replace(event, by, false);
  }

  putClient(record: ClientRecord): void {
    this.pending.putClient(record);
  }

  moveClient(record: ClientRecord): void {
    this.pending.moveClient(record);
    this.commits.wake();
  }

  removeClient({ id, userId, received, narrowed }: ClientRecord, at: EventId): void {
    this.pending.removeClient(id, { userId, received, narrowed, at });
    this.tombstones.note(id, at);
  }

  savedClient(id: ClientId): Promise<void> {
    return this.commits.savedClient(id);
  }

  saved(): Promise<void> {
    return this.commits.saved();
  }

  async probe(): Promise<void> {
    this.check();
    this.pending.isProbe = true;
    this.commits.wake();
    await this.saved();
  }

  async read(query: Query): Promise<Pick<EngineReading, "events" | "through" | "asOf">> {
    // This read does not see replacements that are not committed yet.
    const { pinned: asOf = this.floor } = this.window;
    try {
      return { ...(await this.reader.read(query)), asOf };
    } catch (error) {
      const now = performance.now();
      if (now - this.complainedAt > COMPLAIN_EVERY) {
        this.complainedAt = now;
        this.report("error", "the log can not be read everywhere: data.mdb is damaged", error);
      }
      throw unavailable();
    }
  }

  async trimmed(query: Query): Promise<boolean> {
    try {
      // In this order: a block's events get into the other tables with the commit that removes the block.
      return (await this.reader.hasTrimmed(query, this.uptime.clock.now())) || (await this.trimmedTopics.has(query));
    } catch {
      // Damaged, which is reported where the log is read. Nobody knows then.
      return true;
    }
  }

  receipt(event: EventId): JournalReceipt | undefined {
    const found = this.reader.find(event);
    if (!found) return undefined;
    const { audience, ...head } = found.block.headAt(found.index);
    const matched = this.audiences.clients(audience);
    return { head, matched, replacedBy: this.reader.replacedBy(head) };
  }

  gone(id: ClientId): KeptClient | undefined {
    const tombstone = this.tombstones.get(id);
    return tombstone && { ...tombstone, id, place: undefined };
  }

  trim(now: number): void {
    if (this.commits.refusing || !this.trimmer.isDue(now)) return;
    this.trimDue = true;
    this.commits.wake();
  }

  async close(): Promise<void> {
    const isWhole = await this.commits.close();
    if (isWhole) await this.noteEnd();
    await this.root.close();
  }

  note(id: EventId): void {
    this.pending.head = id;
    // The newest id alone is no reason to write, but for once in a while.
    if (!this.pending.isEmpty || id.ms - this.head.ms > ID_LAG) this.commits.wake();
  }

  private get pending(): Group {
    return this.commits.pending;
  }

  /** Whether there is something to write besides what is pending. */
  private isDue(): boolean {
    const { closed } = this.commits;
    const { head } = this.pending;
    if (head && (closed || head.ms - this.head.ms > ID_LAG)) return true;
    return (this.trimDue || this.keys.isDue) && !closed;
  }

  private async commit(group: Group): Promise<void> {
    const changes = new Changes();
    this.trimmer.count += group.events.length;
    const prepared = takeTurns(this.prepare(changes, group));
    if (prepared) await prepared;
    this.head = group.head ?? this.head;
    changes.put(this.tables.meta, META, encode(this.state()));
    await changes.commit(this.root);
    this.trimmedTopics.written();
    this.lists.written();
    this.trimDue ||= this.trimmer.count > this.retention.count;
  }

  /** @param clean whether nothing is written after it */
  private state(clean?: true): LogState {
    const { origin, head, uptime } = this;
    const { floor, count } = this.trimmer;
    return { origin, head, floor, count, trimmed: this.trimmedTopics.state, ...uptime.state(clean) };
  }

  /** Notes that this end is an orderly one. */
  private async noteEnd(): Promise<void> {
    const changes = new Changes();
    changes.put(this.tables.meta, META, encode(this.state(true)));
    // If this fails, the next start takes the end for a crash. Clients then have more time, and not less.
    await changes.commit(this.root).catch(() => undefined);
  }

  /** What a commit brings, and what goes from the old end of the log with it. */
  private *prepare(changes: Changes, group: Group): Pieces {
    const renewed = yield* this.writer.write(changes, group);
    yield* this.keys.write(changes, group);
    yield* this.drop(changes, group.events.length, { renewed, replaced: group.replaced });
  }

  private *drop(changes: Changes, events: number, replacements: Replacements): Pieces {
    const now = this.uptime.clock.now();
    const { count, bytes, age } = this.retention;
    this.written += changes.bytes;
    const { trimmer, trimmedAt, written } = this;
    const looks = now - trimmedAt >= TRIM_EVERY || written > bytes * TRIM_PART;
    if (!this.trimDue && !looks && trimmer.count <= count) return;
    this.trimmedAt = now;
    this.written = 0;
    const budget = TRIM_BUDGET + events * 2;
    this.trimDue = yield* trimmer.trim(changes, now, budget, replacements);
    this.window.dropThrough(this.floor);
    this.whenTrimmed();
    const oldest = { ms: Math.max(0, now - age), seq: 0 };
    this.tombstones.trim(changes, laterOf(oldest, this.floor), budget);
  }
}
