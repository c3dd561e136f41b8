import { type ClientId, type ClientRecord, withCursor } from "../core/client.js";
import { Deque } from "../core/deque.js";
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

/** Bytes that idempotency keys may take, with the ids and the reply that they stand for. */
const MAX_KEY_BYTES = 64 * 1024 * 1024;

// Estimated, on 64-bit V8: a key's own objects, and an id.
const KEY_BYTES = 512;
const ID_BYTES = 48;

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
  private readonly keys = new Map<string, KnownKey>();
  private readonly oldestKeys = new Deque<KnownKey>();
  private keyBytes = 0;
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
    if (once) this.remember({ ...once, ids, reply: undefined });
    return { ids };
  }

  async settle(key: string, reply: string): Promise<void> {
    const known = this.keys.get(key);
    if (!known) return;
    known.reply = reply;
    this.keyBytes += reply.length;
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
    // All live equally long, so the oldest end first.
    for (let key = this.oldestKeys.at(0); key && key.until <= now; key = this.oldestKeys.at(0)) this.forgetKey();
    const kept = this.keys.get(once.key);
    const known = kept && kept.until > now ? kept : undefined;
    if (known && known.fingerprint !== once.fingerprint) {
      throw new RelayError("idempotency_key_reused", "this Idempotency-Key was used with another request");
    }
    if (!known && this.keyBytes >= MAX_KEY_BYTES) {
      throw new RelayError("unavailable", "there is no room for more idempotency keys: the oldest end within minutes");
    }
    return known;
  }

  private remember(key: KnownKey): void {
    this.keys.set(key.key, key);
    this.oldestKeys.push(key);
    this.keyBytes += keyBytes(key);
  }

  private forgetKey(): void {
    const oldest = this.oldestKeys.shift();
    if (!oldest) return;
    this.keyBytes -= keyBytes(oldest);
    if (this.keys.get(oldest.key) === oldest) this.keys.delete(oldest.key);
  }
}

function keyBytes({ ids, reply }: KnownKey): number {
  return KEY_BYTES + ids.length * ID_BYTES + (reply?.length ?? 0);
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
