import { type ClientId, type ClientRecord, NOBODY } from "../core/client.js";
import type { Clock } from "../core/clock.js";
import {
  type Answer,
  type Appended,
  type Counts,
  type Engine,
  type EngineReading,
  type Entry,
  type Follower,
  type KeptReceipt,
  type Matched,
  type Once,
  onceName,
  type Question,
} from "../core/engine.js";
import { type Event, type EventDraft, publishedAt } from "../core/event.js";
import { type EventId, IdSource } from "../core/id.js";
import { type Loading, UNOBSERVED } from "../core/loading.js";
import { inTurns, Turns } from "../core/turns.js";
import type { Query, Window } from "../core/window.js";
import type { ClientTable } from "./client-table.js";
import { LocalClients } from "./clients.js";
import type { Journal, Restored } from "./journal.js";
import type { KeyStore } from "./keys.js";

/** Clients whose deadlines are written with one commit. */
const FEW = 1000;

/** Clients that are taken over between two reports of the progress. */
const TELL_EVERY = 1024;

/**
 * An engine whose log is ordered in this process. Everything but old events is in memory; what is to outlive the process
 * goes to a journal too. Relays that share one instance are one relay.
 */
export class LocalEngine implements Engine {
  readonly clients: LocalClients;
  readonly origin: EventId;
  readonly read?: (query: Query) => Promise<EngineReading>;
  readonly receipt?: (event: EventId) => Promise<KeptReceipt | undefined>;
  private readonly records: ClientTable;
  private readonly followers = new Set<Follower>();
  /** Requests whose events are being appended, in several turns. */
  private readonly batches = new Set<Promise<void>>();
  /** Keys whose first request is being appended. */
  private readonly appending = new Map<string, Promise<void>>();
  private readonly ids: IdSource;
  private readonly clock: Clock;
  private last: EventId;

  /** @param journal absent: nothing outlives the process */
  constructor(
    readonly name: string,
    readonly window: Window,
    { clock, origin, head, clients }: Restored,
    private readonly keys: KeyStore,
    private readonly journal?: Journal,
  ) {
    this.origin = origin;
    this.last = head;
    this.ids = new IdSource(head);
    this.clock = clock;
    this.records = clients;
    this.clients = new LocalClients((make) => this.orderClient(make), journal, clients);
    if (!journal) return;
    this.read = (query) => journal.read(query);
    this.receipt = async (event) => this.keptReceipt(event, journal);
  }

  get head(): EventId {
    return this.last;
  }

  get floor(): EventId {
    return this.journal?.floor ?? this.window.floor;
  }

  now(): number {
    return this.clock.now();
  }

  async join(follower: Follower, loading = UNOBSERVED): Promise<() => Promise<void>> {
    this.followers.add(follower);
    try {
      await this.handOver(follower, loading);
    } catch (error) {
      this.followers.delete(follower);
      throw error;
    }
    return async () => {
      // What is being appended is for this relay's clients too.
      while (this.batches.size > 0) await Promise.allSettled(this.batches);
      this.followers.delete(follower);
      const [other] = this.followers;
      if (other) await this.handOver(other, UNOBSERVED);
    };
  }

  async append(drafts: readonly EventDraft[], once?: Once): Promise<Appended> {
    // The first request with this key may still be under way.
    for (let first = this.first(once); first; first = this.first(once)) await first.catch(() => undefined);
    const known = once && this.keys.find(once);
    if (known) {
      await this.keys.saved(once);
      return { ids: known.ids, duplicate: { reply: known.reply } };
    }
    if (once) this.keys.checkRoom(once.owner);
    // One with a `key` may replace another one that is kept.
    const isKept = once !== undefined || drafts.some(({ ttl, key }) => ttl !== 0 || key !== undefined);
    if (isKept) this.journal?.check();
    const ids: EventId[] = [];
    const appended = once ? this.appendOnce(drafts, once, ids) : this.appendAll(drafts, ids);
    if (appended) await this.underWay(appended);
    if (isKept) await this.journal?.saved();
    return { ids };
  }

  async settle(once: Once, ids: readonly EventId[], reply: readonly Counts[]): Promise<void> {
    this.keys.settle(once, ids, reply);
    await this.keys.saved(once);
  }

  async probe(): Promise<void> {
    await this.journal?.probe();
  }

  trim(now: number): void {
    this.trimMemory(now);
    this.journal?.trim(now);
  }

  trimmed(query: Omit<Query, "limit">): boolean | Promise<boolean> {
    return (this.journal ?? this.window).trimmed(query);
  }

  async ask(from: string, question: Question): Promise<Answer[]> {
    const others = [...this.followers].filter((follower) => follower.node !== from);
    return Promise.all(others.map((follower) => follower.answer(question)));
  }

  async close(): Promise<void> {
    await this.journal?.close();
  }

  private first(once: Once | undefined): Promise<void> | undefined {
    return once && this.appending.get(onceName(once));
  }

  private async underWay(batch: Promise<void>): Promise<void> {
    this.batches.add(batch);
    try {
      await batch;
    } finally {
      this.batches.delete(batch);
    }
  }

  /** In order; others may have their turn in between, and append too. */
  private appendAll(drafts: readonly EventDraft[], ids: EventId[]): void | Promise<void> {
    return inTurns(drafts, (draft) => void ids.push(this.appendOne(draft)));
  }

  /** All of it gets safe together, with the key: or a crash would leave a part that is published again. */
  private async appendOnce(drafts: readonly EventDraft[], once: Once, ids: EventId[]): Promise<void> {
    const release = this.journal?.hold();
    try {
      const appended = this.appendAll(drafts, ids);
      if (appended) {
        this.appending.set(onceName(once), appended);
        await appended;
      }
      this.keys.add(once, ids);
    } finally {
      this.appending.delete(onceName(once));
      release?.();
    }
  }

  /** Leaves the event loop to others in between: very much may be too old at once. */
  private trimMemory(now: number): void {
    const more = [this.window.trim(now), this.keys.trim(now)];
    if (more.includes(true)) setImmediate(() => this.trimMemory(now));
  }

  private appendOne(draft: EventDraft): EventId {
    const { clock } = this;
    const id = this.ids.next(clock.now());
    this.last = id;
    const { topic, users, message, ttl, key, attributes } = draft;
    // Spelt out, as it is much faster than a spread.
    const event: Event = { id, time: publishedAt(id, clock.wall), topic, users, message, ttl, key, attributes };
    if (ttl === 0) {
      const replaces = this.window.withdraw(draft) ?? this.journal?.replacedBy(draft);
      this.hand({ kind: "event", event, replaces });
      if (replaces) this.journal?.replace(replaces, id);
      this.journal?.note(id);
      return id;
    }
    const replaces = this.window.append(event) ?? this.journal?.replacedBy(draft);
    const matched = this.hand({ kind: "event", event, replaces });
    this.journal?.addEvent(event, matched, replaces);
    return id;
  }

  private orderClient(make: (id: EventId) => Entry | undefined): void {
    this.last = this.ids.next(this.now());
    const entry = make(this.last);
    if (entry) this.hand(entry);
  }

  private hand(entry: Entry): readonly Matched[] {
    let matched: readonly Matched[] = [];
    for (const follower of this.followers) {
      const more = follower.follow(entry);
      if (more.length > 0) matched = matched.length === 0 ? more : [...matched, ...more];
    }
    return matched;
  }

  private keptReceipt(event: EventId, journal: Journal): KeptReceipt | undefined {
    const receipt = journal.receipt(event);
    return (
      receipt && {
        ...receipt,
        matched: receipt.matched?.flatMap((id) => {
          const record = this.records.get(id);
          return record ? { ...record, place: record } : (journal.gone(id) ?? []);
        }),
      }
    );
  }

  /** Gives the clients whose relay is gone to another one. */
  private async handOver(to: Follower, loading: Loading): Promise<void> {
    const late = this.journal?.begin() ?? 0;
    const now = this.now();
    const of = this.records.size;
    const undated: ClientId[] = [];
    let done = 0;
    const handOverNext = (record: ClientRecord): void => {
      if (record.expiresAt === undefined && record.node === NOBODY && record.ttl > 0) undated.push(record.id);
      if (done++ % TELL_EVERY === 0) loading.progress({ step: "taking over clients", done, of });
      this.handOverOne(record, to, now, late);
    };
    await inTurns(this.records.all(), handOverNext, new Turns(loading.signal));
    // The clock of clients that had a connection starts now. The next start finds their deadlines on disk.
    if (undated.length > 0) void this.keepDeadlines(undated).catch(() => undefined);
  }

  /** A few at a time: there may be a million of them. */
  private async keepDeadlines(clients: readonly ClientId[]): Promise<void> {
    for (let at = 0; at < clients.length; at += FEW) {
      for (const id of clients.slice(at, at + FEW)) {
        const record = this.records.get(id);
        if (record?.expiresAt !== undefined) this.journal?.putClient(record, this.last);
      }
      await this.journal?.saved();
    }
  }

  /** @param late of `Journal.begin` */
  private handOverOne(record: ClientRecord, to: Follower, now: number, late: number): void {
    for (const { node } of this.followers) if (node === record.node) return;
    if (record.expiresAt === undefined && record.ttl === 0) {
      // Its life was its connection.
      void this.clients.update(record.id, () => undefined).catch(() => undefined);
      return;
    }
    const { expiresAt, ttl, node: before } = record;
    const end = expiresAt === undefined ? now + ttl * 1000 : expiresAt + (before === NOBODY ? late : 0);
    const taken = this.records.take(record, to.node, end);
    to.follow({ kind: "client", id: this.last, record: taken });
  }
}
