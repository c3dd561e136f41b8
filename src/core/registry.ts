import { Audience, NOBODY_REACHED, type Reached } from "./audience.js";
import { type ClientId, type ClientRecord, leftOf, weightOf, withFurther } from "./client.js";
import { MultiMap } from "./multimap.js";
import type { Disconnect } from "./notice.js";
import { Reader } from "./reader.js";
import { SubscriptionIndex } from "./subscriptions.js";
import { type Event, userKey } from "./event.js";
import { inTurns, Turns } from "./turns.js";
import { Wheel } from "./wheel.js";

/** Milliseconds for which a client whose time is up may still be counted. */
const EXPIRY_GRANULARITY = 50;

/**
 * Milliseconds: a client that ends later than in `far` has no place on the wheel yet. A look at all clients, `every` so
 * often, gives those a place whose end has come near. Of a million clients most end far away.
 */
const HORIZON = { far: 120_000, every: 60_000 };

/** The clients that this relay holds, found by id, by user and by what they subscribe to. */
export class Registry {
  private readonly readers = new Map<ClientId, Reader>();
  private readonly users = new MultiMap<string, Reader>();
  private readonly subscriptions = new SubscriptionIndex();
  private readonly expiries: Wheel<ClientId>;
  private readonly sweeps: NodeJS.Timeout;
  private readonly stopped = new AbortController();
  private open = 0;
  /** About how many bytes of memory the topics of all clients take, with their permissions and what they were before. */
  weight = 0;

  /**
   * @param now the engine's clock
   * @param expired called with a client whose time is up
   */
  constructor(
    private readonly now: () => number,
    expired: (id: ClientId) => void,
  ) {
    this.expiries = new Wheel(EXPIRY_GRANULARITY, expired);
    this.sweeps = setInterval(() => void this.sweep().catch(() => undefined), HORIZON.every).unref();
  }

  get size(): number {
    return this.readers.size;
  }

  /** How many connections are open. */
  get connections(): number {
    return this.open;
  }

  get(id: ClientId): Reader | undefined {
    return this.readers.get(id);
  }

  /** How many clients of a user are held here. */
  countOf(user: string): number {
    return this.users.count(user);
  }

  all(): Iterable<Reader> {
    return this.readers.values();
  }

  *connected(): Generator<Reader> {
    for (const reader of this.readers.values()) if (reader.connection) yield reader;
  }

  /**
   * Takes a client in, or takes over a change of one.
   * @param placed as of `ClientEntry`
   * @returns its reader
   */
  hold(record: ClientRecord, placed = false): Reader {
    const held = this.readers.get(record.id);
    const reader = held ? this.adopt(held, placed ? record : withFurther(record, held)) : this.add(record);
    this.schedule(record.id, leftOf(record, this.now()));
    return reader;
  }

  /** Sees to it that the client is forgotten in time. @param delay milliseconds; Infinity: it is not */
  schedule(id: ClientId, delay: number): void {
    if (delay > HORIZON.far) this.expiries.delete(id);
    else this.expiries.add(id, delay);
  }

  /** Lets a client go. */
  drop(reader: Reader): void {
    const { id } = reader;
    // To end its connection may have ordered an entry that let go of it already.
    if (this.readers.get(id) !== reader) return;
    this.weight -= weightOf(reader.kept);
    this.detach(reader);
    this.readers.delete(id);
    this.expiries.delete(id);
    this.subscriptions.remove(reader, reader.topics);
    this.users.delete(reader.user, reader);
  }

  /** Lets go of the subscriptions that the client has left behind. */
  prune(reader: Reader): void {
    // Most have only those of now.
    if (reader.kept.subscriptions.length === 1 || this.readers.get(reader.id) !== reader) return;
    const { record } = reader;
    this.weight += weightOf(record) - weightOf(reader.kept);
    reader.kept = record;
  }

  attach(reader: Reader, connection: NonNullable<Reader["connection"]>): void {
    if (!reader.connection) this.open++;
    reader.connection = connection;
    this.subscriptions.touch(reader);
  }

  detach(reader: Reader): void {
    if (!reader.connection) return;
    this.open--;
    reader.connection = undefined;
    this.subscriptions.touch(reader);
  }

  /** Takes a client's connection from it and ends it. */
  release(reader: Reader, disconnect: Disconnect): void {
    const { connection } = reader;
    if (!connection) return;
    this.detach(reader);
    connection.close(disconnect);
  }

  match(event: Event): Reached {
    const { users, topic } = event;
    if (!users) return this.subscriptions.match(topic);
    const readers: Reader[] = [];
    for (const userId of users) {
      for (const reader of this.users.get(userKey(userId))) {
        if (reader.subscribesTo(topic)) readers.push(reader);
      }
    }
    if (readers.length === 0) return NOBODY_REACHED;
    const all = new Audience(readers);
    const connected = readers.filter((reader) => reader.connection);
    return { all, connected: connected.length === readers.length ? all : new Audience(connected) };
  }

  stop(): void {
    clearInterval(this.sweeps);
    this.stopped.abort();
    this.expiries.stop();
  }

  private async sweep(): Promise<void> {
    const now = this.now();
    const schedule = ({ id, kept }: Reader): void => {
      // A client that is on the wheel stays where it is: it may wait there for a change that is to be tried again.
      if (!this.expiries.has(id)) this.schedule(id, leftOf(kept, now));
    };
    await inTurns(this.readers.values(), schedule, new Turns(this.stopped.signal));
  }

  private add(record: ClientRecord): Reader {
    const reader = new Reader(record);
    this.weight += weightOf(record);
    this.readers.set(record.id, reader);
    this.users.add(reader.user, reader);
    this.subscriptions.add(reader, reader.topics);
    return reader;
  }

  private adopt(reader: Reader, record: ClientRecord): Reader {
    const before = reader.topics;
    this.weight += weightOf(record) - weightOf(reader.kept);
    reader.adopt(record);
    const after = reader.topics;
    // Most changes leave the topics as they are.
    if (before === after) return reader;
    this.subscriptions.remove(reader, without(before, after));
    this.subscriptions.add(reader, without(after, before));
    return reader;
  }
}

function without(topics: readonly string[], others: readonly string[]): string[] {
  const known = new Set(others);
  return topics.filter((topic) => !known.has(topic));
}
