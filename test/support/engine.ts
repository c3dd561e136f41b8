import { randomUUID } from "node:crypto";
import type { ClientId, ClientRecord } from "../../src/core/client.js";
import type { Answer, Appended, Bounds, Engine, Entry, Follower, Query, Question } from "../../src/core/engine.js";
import type { Event } from "../../src/core/event.js";
import { compareIds, type EventId, laterOf, OWN, ZERO } from "../../src/core/id.js";
import { type Loading, UNOBSERVED } from "../../src/core/loading.js";
import { Log } from "../../src/core/log.js";

/** What a client may differ in from the one that `clientRecord` makes. */
type Given = Partial<ClientRecord> & { readonly topics?: readonly string[] };

/** A client that has read everything up to `at`. With `OWN`, which is the default: one that is about to be appended. */
export function clientRecord({ topics = [], ...given }: Given = {}, at: EventId = OWN): ClientRecord {
  return {
    id: "a".repeat(32),
    version: at,
    userId: 1,
    subscriptions: [{ from: at, topics }],
    rooms: [],
    ttl: 300,
    cursor: at,
    confirmed: at,
    received: [],
    sent: [],
    narrowed: [],
    node: "this one",
    ...given,
  };
}

/** Appends a client that is new. */
export function putClient(engine: Engine, record: ClientRecord): Promise<Appended> {
  return engine.append({ client: record.id, record, expect: "absent" });
}

/** The client as the engine keeps it; undefined: there is none. */
export async function findClient(engine: Engine, client: ClientId): Promise<ClientRecord | undefined> {
  return (await engine.find({ client }))[0];
}

/** Makes empty commits. A commit also trims what the retention does not allow, a part of it at a time. */
export async function commit(engine: Engine, times = 1): Promise<void> {
  for (let time = 0; time < times; time++) await engine.append([]);
}

/** Whether the engine has trimmed an event that the query asks for, or does not know. */
export async function hasTrimmed(engine: Engine, query: Omit<Query, "limit">): Promise<boolean> {
  return (await engine.read({ ...query, limit: 0 })).gap;
}

/** Reads on until there is no more. */
export async function readAll(engine: Engine, query: Query): Promise<Event[]> {
  const read: Event[] = [];
  for (let { after } = query; ;) {
    const { events, through } = await engine.read({ ...query, after });
    read.push(...events);
    if (!through) return read;
    if (compareIds(through, after) <= 0) throw new Error("a reading did not get any further");
    after = through;
  }
}

/** A relay that has no connections: it records what the engine tells it. */
export class Listener implements Follower {
  readonly node = randomUUID();
  bounds: Bounds = { origin: ZERO, head: ZERO, floor: ZERO };
  head = ZERO;
  floor = ZERO;
  readonly entries: Entry[] = [];
  readonly inherited: ClientRecord[] = [];
  /** As a relay keeps it. */
  readonly log: Log;
  /** Set when the engine has handed over what it had. */
  leave: () => Promise<void> = async () => undefined;
  private moved: () => void = () => undefined;

  private constructor(readonly engine: Engine) {
    this.log = new Log(engine);
  }

  static async on(engine: Engine, loading: Loading = UNOBSERVED): Promise<Listener> {
    const listener = new Listener(engine);
    listener.leave = await engine.follow(listener, loading);
    return listener;
  }

  begin(bounds: Bounds): void {
    this.bounds = bounds;
    this.head = bounds.head;
    this.floor = bounds.floor;
    this.log.begin(bounds);
  }

  follow(entry: Entry): void {
    this.entries.push(entry);
    this.head = entry.kind === "event" ? entry.event.id : entry.id;
    this.log.head = this.head;
    if (entry.kind === "event") this.log.note(entry.event, entry.replaces);
  }

  trimmed(floor: EventId): void {
    this.floor = laterOf(this.floor, floor);
    this.log.trimmed(floor);
    this.moved();
  }

  inherit(clients: readonly ClientRecord[]): void {
    this.inherited.push(...clients);
  }

  async answer(question: Question): Promise<Answer> {
    const events = question.ask === "deliveries" ? question.events : [];
    return { connections: 0, clients: 0, ofUser: 0, anonymous: 0, deliveries: events.map(() => []) };
  }

  /** Resolves when the engine has told that nothing is left up to `id`. */
  async trimmedThrough(id: EventId): Promise<void> {
    while (compareIds(this.floor, id) < 0) await new Promise<void>((resolve) => (this.moved = resolve));
  }

  /** Whether a reader of these topics misses something that came after `after`; absent: since the log began. */
  misses(topics: readonly string[], after: EventId = this.bounds.origin): Promise<boolean> {
    return hasTrimmed(this.engine, { after, topics, user: "1" });
  }
}
