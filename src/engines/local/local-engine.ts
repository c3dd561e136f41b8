import { type ClientRecord, withFurther, withProgress, withVersion } from "../../core/client.js";
import type { Clock } from "../../core/clock.js";
import {
  type AppendOptions,
  type Appended,
  type Audience,
  type ClientDraft,
  type CursorStore,
  type Engine,
  type EngineReading,
  type Follower,
  type KeptReceipt,
  type Move,
  type Once,
  onceName,
  type Peers,
  type Query,
  type ReceiptStore,
  type ReplyStore,
  type Who,
} from "../../core/engine.js";
import { type EventDraft, publishedAt } from "../../core/event.js";
import { compareIds, type EventId, IdSource } from "../../core/id.js";
import { type Loading, UNOBSERVED } from "../../core/loading.js";
import { inTurns } from "../../core/turns.js";
import type { ClientTable } from "./client-table.js";
import { Followers } from "./followers.js";
import type { Journal, Restored } from "./journal.js";
import type { Window } from "./window.js";

/** How often old events are dropped when nothing new pushes them out, in milliseconds. */
const TRIM_EVERY = 1000;

/**
 * An engine whose log is ordered in this process. Everything but old events is in memory; what is to outlive the process
 * goes to a journal too.
 */
export class LocalEngine implements Engine {
  readonly receipts: ReceiptStore = {
    note: (_event, audience) => void this.matched.push(audience),
    find: async (event) => this.receipt(event),
  };
  readonly replies: ReplyStore = { settle: async (once, ids, reply) => this.settle(once, ids, reply) };
  readonly cursors: CursorStore = { move: (moves) => this.move(moves) };
  readonly peers: Peers = { ask: (from, question) => this.followers.ask(from, question) };
  private readonly origin: EventId;
  private readonly clock: Clock;
  private readonly clients: ClientTable;
  private readonly ids: IdSource;
  private readonly followers: Followers;
  /** Requests whose events are being appended, in several turns. */
  private readonly batches = new Set<Promise<void>>();
  /** Keys whose first request is being appended. */
  private readonly appending = new Map<string, Promise<void>>();
  /** Whom the event that is being handed on has matched. */
  private matched: Audience[] = [];
  private head: EventId;
  private trimming: NodeJS.Timeout | undefined;

  constructor(
    readonly name: string,
    private readonly window: Window,
    { clock, origin, head, clients }: Restored,
    private readonly journal: Journal,
  ) {
    this.origin = origin;
    this.head = head;
    this.clock = clock;
    this.clients = clients;
    this.ids = new IdSource(head);
    this.followers = new Followers(clients);
    journal.begin(() => this.followers.tell(journal.floor));
  }

  now(): number {
    return this.clock.now();
  }

  async follow(follower: Follower, loading: Loading = UNOBSERVED): Promise<() => Promise<void>> {
    const { followers, journal, origin, head } = this;
    follower.begin({ origin, head, floor: journal.floor });
    followers.add(follower);
    this.trimming ??= setInterval(() => this.trim(), TRIM_EVERY).unref();
    try {
      await followers.handOver(follower, journal.open(), loading);
    } catch (error) {
      await this.leave(follower);
      throw error;
    }
    return async () => {
      // What is being appended is for this relay's clients too.
      await Promise.allSettled(this.batches);
      await this.leave(follower);
    };
  }

  async append(what: readonly EventDraft[] | ClientDraft, options: AppendOptions = {}): Promise<Appended> {
    // What a relay appends while it follows an entry comes after that entry for all relays.
    if (this.followers.free) await this.followers.free;
    if ("client" in what) return this.change(what, options.safe ?? true);
    if (what.length > 0) return this.publish(what, options.once);
    await this.journal.probe();
    return { ids: [] };
  }

  async read(query: Query): Promise<EngineReading> {
    const { window, journal } = this;
    const { floor } = journal;
    // Taken before the question below: the next reading asks about what is trimmed meanwhile.
    const recent = window.floor;
    const gap = compareIds(query.after, floor) < 0 && (await journal.trimmed(query));
    if (query.limit === 0) return { events: [], through: query.after, asOf: this.head, floor, gap };
    if (compareIds(query.after, recent) >= 0) return { ...window.read(query), asOf: this.head, floor, gap };
    const isBelow = query.until !== undefined && compareIds(query.until, recent) <= 0;
    if (isBelow) return { ...(await journal.read(query)), floor, gap };
    // What comes after that is for the next reading.
    return { through: recent, ...(await journal.read({ ...query, until: recent })), floor, gap };
  }

  async find(who: Who): Promise<readonly ClientRecord[]> {
    const found = await this.look(who);
    for (const { id } of found) await this.journal.savedClient(id);
    if ("client" in who && found.length === 0) await this.journal.savedClient(who.client);
    return found;
  }

  async close(): Promise<void> {
    clearInterval(this.trimming);
    await this.journal.close();
  }

  private look(who: Who): Promise<readonly ClientRecord[]> | readonly ClientRecord[] {
    if ("user" in who) return this.clients.of(who.user);
    const record = "client" in who ? this.clients.get(who.client) : this.clients.bySecret(who.secret);
    return record ? [record] : [];
  }

  private async leave(follower: Follower): Promise<void> {
    const { followers } = this;
    const heir = followers.delete(follower);
    if (heir) return followers.handOver(heir, 0, UNOBSERVED);
    clearInterval(this.trimming);
    this.trimming = undefined;
  }

  private async change({ client, record, expect, placed }: ClientDraft, safe: boolean): Promise<Appended> {
    const { clients, journal } = this;
    const current = clients.get(client);
    const isExpected = current ? expect !== "absent" && compareIds(expect, current.version) === 0 : expect === "absent";
    if (!isExpected) return { ids: [], conflict: { current } };
    if (safe) journal.check();
    const id = this.nextId();
    if (record) {
      const further = current && !placed ? withFurther(record, current) : record;
      const made = withVersion(further, id);
      clients.put(made);
      journal.putClient(made);
      this.followers.hand({ kind: "client", id, record: made, placed });
    } else if (current) {
      clients.delete(current);
      journal.removeClient(current, id);
      this.followers.hand({ kind: "removed", id, client });
    }
    journal.note(id);
    if (safe) await journal.saved();
    return { ids: [id] };
  }

  private async publish(drafts: readonly EventDraft[], once?: Once): Promise<Appended> {
    const { keys } = this.journal;
    // The first request with this key may still be under way.
    for (let first = this.first(once); first; first = this.first(once)) await first.catch(() => undefined);
    const known = once && keys.find(once);
    if (known) {
      await keys.saved(once);
      return { ids: known.ids, duplicate: { reply: known.reply } };
    }
    if (once) keys.checkRoom(once.owner);
    // One with a `key` may replace another one that is kept.
    const isKept = once !== undefined || drafts.some(({ ttl, key }) => ttl !== 0 || key !== undefined);
    if (isKept) this.journal.check();
    const ids: EventId[] = [];
    const appended = once ? this.appendOnce(drafts, once, ids) : this.appendAll(drafts, ids);
    if (appended) await this.underWay(appended);
    if (isKept) await this.journal.saved();
    return { ids };
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
    const release = this.journal.hold();
    try {
      const appended = this.appendAll(drafts, ids);
      if (appended) {
        this.appending.set(onceName(once), appended);
        await appended;
      }
      this.journal.keys.add(once, ids);
    } finally {
      this.appending.delete(onceName(once));
      release();
    }
  }

  private appendOne(draft: EventDraft): EventId {
    const { clock, window, journal, followers } = this;
    const id = this.nextId();
    const { topic, users, message, ttl, key, attributes } = draft;
    // Spelt out, as it is much faster than a spread.
    const event = { id, time: publishedAt(id, clock.wall), topic, users, message, ttl, key, attributes };
    const isKept = ttl !== 0;
    const replaces = (isKept ? window.append(event) : window.withdraw(draft)) ?? journal.replacedBy(draft);
    const matched: Audience[] = [];
    this.matched = matched;
    followers.hand({ kind: "event", event, replaces: replaces?.id });
    if (isKept) journal.addEvent(event, matched, replaces);
    else if (replaces) journal.replace(replaces, id);
    journal.note(id);
    followers.tell(journal.floor);
    return id;
  }

  private nextId(): EventId {
    return (this.head = this.ids.next(this.now()));
  }

  private async settle(...[once, ids, reply]: Parameters<ReplyStore["settle"]>): Promise<void> {
    const { keys } = this.journal;
    keys.settle(once, ids, reply);
    await keys.saved(once);
  }

  private async move(moves: readonly Move[]): Promise<void> {
    // Also while the disk refuses writes: the next commit that succeeds brings it.
    for (const { client, version, ...progress } of moves) {
      const record = this.clients.get(client);
      if (!record || compareIds(record.version, version) !== 0) continue;
      const moved = withProgress(record, progress);
      this.clients.put(moved);
      this.journal.moveClient(moved);
    }
    await this.journal.saved();
  }

  private receipt(event: EventId): KeptReceipt | undefined {
    const { journal, clients } = this;
    const receipt = journal.receipt(event);
    return (
      receipt && {
        ...receipt,
        matched: receipt.matched?.flatMap((id) => {
          const record = clients.get(id);
          return record ? { ...record, place: record } : (journal.gone(id) ?? []);
        }),
      }
    );
  }

  /** Leaves the event loop to others in between: very much may be too old at once. */
  private trim(): void {
    const now = this.now();
    const more = [this.window.trim(now), this.journal.keys.trim(now)];
    this.journal.trim(now);
    this.followers.tell(this.journal.floor);
    if (more.includes(true)) setImmediate(() => this.trim());
  }
}
