import type { ClientId, ClientRecord } from "../core/client.js";
import { withCursor } from "../core/client.js";
import type {
  Answer,
  Appended,
  ClientChange,
  ClientStore,
  Engine,
  Entry,
  Follower,
  Once,
  Question,
} from "../core/engine.js";
import { RelayError } from "../core/errors.js";
import { type EventDraft, userKey } from "../core/event.js";
import { type EventId, IdSource } from "../core/id.js";
import { type Retention, Window } from "../core/window.js";

// A key with its reply takes a few hundred bytes; this many are a few hundred megabytes.
const MAX_KEYS = 1_000_000;

interface KnownKey extends Once {
  readonly ids: readonly EventId[];
  reply: string | undefined;
}

/** Everything in this process: the reference of what an engine is. Relays that share one instance are one relay. */
export class MemoryEngine implements Engine {
  readonly name = "memory";
  readonly window: Window;
  readonly clients: ClientStore = new MemoryClients((make) => this.order(make));
  private readonly followers = new Set<Follower>();
  // About in the order of their end, as all live equally long.
  private readonly keys = new Map<string, KnownKey>();
  readonly origin: EventId;
  private readonly ids: IdSource;
  private last: EventId;

  constructor(retention: Retention) {
    // A new process knows nothing of what an earlier one gave out: its log begins now, above the ids before.
    this.origin = { ms: Date.now(), seq: 0 };
    this.last = this.origin;
    this.ids = new IdSource(this.origin);
    this.window = new Window(retention, this.origin);
  }

  get head(): EventId {
    return this.last;
  }

  get floor(): EventId {
    return this.window.floor;
  }

  async join(follower: Follower): Promise<() => Promise<void>> {
    this.followers.add(follower);
    return async () => {
      this.followers.delete(follower);
    };
  }

  async append(drafts: readonly EventDraft[], once?: Once): Promise<Appended> {
    const known = once && this.known(once);
    if (known) return { ids: known.ids, duplicate: { reply: known.reply } };
    const ids = drafts.map((draft) => this.appendOne(draft));
    if (once) this.keys.set(once.key, { ...once, ids, reply: undefined });
    return { ids };
  }

  async settle(key: string, reply: string): Promise<void> {
    const known = this.keys.get(key);
    if (known) known.reply = reply;
  }

  async ask(from: string, question: Question): Promise<Answer[]> {
    const others = [...this.followers].filter((follower) => follower.node !== from);
    return Promise.all(others.map((follower) => follower.answer(question)));
  }

  private appendOne(draft: EventDraft): EventId {
    this.order((id) => {
      const event = { ...draft, id };
      return { kind: "event", event, replaces: draft.ttl === 0 ? undefined : this.window.append(event) };
    });
    return this.last;
  }

  private order(make: (id: EventId) => Entry | undefined): void {
    this.last = this.ids.next();
    const entry = make(this.last);
    if (entry) for (const follower of this.followers) follower.follow(entry);
  }

  private known(once: Once): KnownKey | undefined {
    const now = Date.now();
    for (const [key, { until }] of this.keys) {
      if (until > now) break;
      this.keys.delete(key);
    }
    const kept = this.keys.get(once.key);
    const known = kept && kept.until > now ? kept : undefined;
    if (known && known.fingerprint !== once.fingerprint) {
      throw new RelayError("idempotency_key_reused", "this Idempotency-Key was used with another request");
    }
    if (!known && this.keys.size >= MAX_KEYS) {
      throw new RelayError("unavailable", `more than ${MAX_KEYS} idempotency keys are in use`);
    }
    return known;
  }
}

class MemoryClients implements ClientStore {
  private readonly records = new Map<ClientId, ClientRecord>();
  private readonly users = new Map<string, Set<ClientId>>();
  private readonly order: (make: (id: EventId) => Entry | undefined) => void;

  constructor(order: (make: (id: EventId) => Entry | undefined) => void) {
    this.order = order;
  }

  async get(id: ClientId): Promise<ClientRecord | undefined> {
    return this.records.get(id);
  }

  async of(user: string): Promise<ClientRecord[]> {
    return [...(this.users.get(user) ?? [])].flatMap((id) => this.records.get(id) ?? []);
  }

  async update(id: ClientId, change: ClientChange): Promise<ClientRecord | undefined> {
    const old = this.records.get(id);
    let record: ClientRecord | undefined;
    this.order((at) => {
      record = change(old, at);
      if (record === old) return undefined;
      if (record) this.records.set(id, record);
      else this.records.delete(id);
      this.index(record ?? old);
      return record ? { kind: "client", id: at, record } : { kind: "removed", id: at, client: id };
    });
    return record;
  }

  async moveCursors(cursors: ReadonlyMap<ClientId, EventId>): Promise<void> {
    for (const [id, cursor] of cursors) {
      const record = this.records.get(id);
      if (record) this.records.set(id, withCursor(record, cursor));
    }
  }

  private index(record: ClientRecord | undefined): void {
    if (!record) return;
    const user = userKey(record.userId);
    const ids = this.users.get(user) ?? new Set();
    if (this.records.has(record.id)) ids.add(record.id);
    else ids.delete(record.id);
    if (ids.size > 0) this.users.set(user, ids);
    else this.users.delete(user);
  }
}
