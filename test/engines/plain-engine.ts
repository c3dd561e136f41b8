import type { ClientDraft, ClientRecord, Engine, Entry, Event, EventDraft, EventId, Follower, Once } from "topic-relay";
import { RelayError } from "topic-relay";

/**
 * The smallest engine: an array that every read scans, for relays of one process. It keeps so few events that a scan takes
 * no time, and it has none of the optional powers.
 */
export class PlainEngine implements Engine {
  readonly name = "plain";
  private readonly followers = new Map<string, Follower>();
  private readonly clients = new Map<string, ClientRecord>();
  /** By the name of a relay that is gone: the relay that has its clients. */
  private readonly heirs = new Map<string, string>();
  private readonly requests = new Map<string, Once & { readonly ids: readonly EventId[] }>();
  private events: readonly Event[] = [];
  /** Events that readers may have missed. They are never forgotten. */
  private readonly missed: Event[] = [];
  private readonly origin: EventId = { ms: Date.now(), seq: 0 };
  private head = this.origin;
  private floor = this.origin;

  /** @param count how many events are kept */
  constructor(private readonly count = 1000) {}

  now(): number {
    return Math.max(Date.now(), this.head.ms);
  }

  readonly follow: Engine["follow"] = async (follower) => {
    follower.begin({ origin: this.origin, head: this.head, floor: this.floor });
    this.followers.set(follower.node, follower);
    if (this.followers.size === 1) this.handOver();
    return async () => {
      this.followers.delete(follower.node);
      this.handOver();
    };
  };

  readonly append: Engine["append"] = async (what, { once } = {}) => {
    for (const [name, { until }] of this.requests) if (until <= this.now()) this.requests.delete(name);
    const name = JSON.stringify([once?.owner, once?.key]);
    const first = once && this.requests.get(name);
    if (first && first.fingerprint !== once.fingerprint) {
      throw new RelayError("idempotency_key_reused", "this idempotency key was used with another request");
    }
    if (first) return { ids: first.ids, duplicate: { reply: undefined } };
    if ("client" in what) {
      const current = this.clients.get(what.client);
      const { expect } = what;
      const isOther = expect === "absent" ? current : !current || compare(current.version, expect) !== 0;
      if (isOther) return { ids: [], conflict: { current } };
    }
    const ids = "client" in what ? [this.change(what)] : what.map((draft) => this.publish(draft));
    if (once) this.requests.set(name, { ...once, ids });
    this.trim();
    return { ids };
  };

  readonly read: Engine["read"] = async ({ after, until, topics, user, limit }) => {
    const isAskedFor = ({ id, users, topic }: Event): boolean =>
      compare(id, after) > 0 &&
      (!until || compare(id, until) <= 0) &&
      (users?.some((other) => String(other) === user) ?? true) &&
      topics.some((pattern) => matches(pattern.split("."), topic.split(".")));
    const found = this.events.filter(isAskedFor);
    const events = found.slice(0, limit);
    const through = events.length < found.length ? events.at(-1)?.id : undefined;
    return { events, through, asOf: this.head, floor: this.floor, gap: this.missed.some(isAskedFor) };
  };

  readonly find: Engine["find"] = async (who) =>
    [...this.clients.values()].filter(({ id, secret = id, userId }) => {
      if ("client" in who) return id === who.client;
      return "secret" in who ? secret === who.secret : String(userId) === who.user;
    });

  async close(): Promise<void> {}

  private change({ client, record, placed }: ClientDraft): EventId {
    const id = this.nextId();
    const made = record && { ...record, version: id };
    if (made) this.clients.set(client, made);
    else this.clients.delete(client);
    this.tell(made ? { kind: "client", id, record: made, placed } : { kind: "removed", id, client });
    return id;
  }

  private publish(draft: EventDraft): EventId {
    const time = Date.now();
    const event: Event = { ...draft, id: this.nextId(time), time };
    const key = keyOf(draft);
    const replaced = key === undefined ? undefined : this.events.find((other) => keyOf(other) === key);
    this.events = [...this.events.filter((other) => other !== replaced), ...(draft.ttl === 0 ? [] : [event])];
    this.tell({ kind: "event", event, replaces: replaced?.id });
    return event.id;
  }

  private nextId(time = Date.now()): EventId {
    const { ms, seq } = this.head;
    this.head = time > ms ? { ms: time, seq: 0 } : { ms, seq: seq + 1 };
    return this.head;
  }

  private tell(entry: Entry): void {
    for (const follower of this.followers.values()) follower.follow(entry);
  }

  private trim(): void {
    const gone = this.events.slice(0, -this.count);
    const last = gone.at(-1);
    if (!last) return;
    this.missed.push(...gone.filter(({ id, ttl = Infinity }) => this.now() < id.ms + ttl * 1000));
    this.events = this.events.slice(-this.count);
    this.floor = last.id;
    for (const follower of this.followers.values()) follower.trimmed(this.floor);
  }

  /** One relay gets the clients of those that are gone; all are told. */
  private handOver(): void {
    const [heir, ...others] = this.followers.values();
    if (!heir) return;
    const clients = [...this.clients.values()].filter(({ node }) => !this.followers.has(this.heirs.get(node) ?? node));
    for (const { node } of clients) this.heirs.set(node, heir.node);
    heir.inherit(clients);
    for (const other of others) other.inherit([]);
  }
}

function compare(a: EventId, b: EventId): number {
  return a.ms - b.ms || a.seq - b.seq;
}

function keyOf({ topic, users, key }: EventDraft): string | undefined {
  return key === undefined ? undefined : JSON.stringify([topic, users?.map(String).sort(), key]);
}

function matches([first, ...rest]: readonly string[], [segment, ...more]: readonly string[]): boolean {
  if (first === undefined || segment === undefined) return first === segment;
  return (first === ">" && rest.length === 0) || ((first === "*" || first === segment) && matches(rest, more));
}
