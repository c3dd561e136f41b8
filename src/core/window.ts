import { type Event, replacementKey, userKey } from "./event.js";
import { compareIds, type EventId, ZERO } from "./id.js";
import { mergeRuns, Run, type Slot } from "./run.js";
import { isPattern, SegmentTrie } from "./topics.js";

/** What a reader asks of the log: its events after a cursor. */
export interface Query {
  readonly after: EventId;
  /** Up to and with this id; absent: up to the head. */
  readonly until?: EventId | undefined;
  /** Subscriptions: topics and patterns. */
  readonly topics: readonly string[];
  /** `userKey` of the reader: events for everyone and for this user. */
  readonly user: string;
  /** How many events: about so many at most. */
  readonly limit: number;
}

export interface Retention {
  /** Milliseconds. */
  readonly age: number;
  readonly count: number;
  /** An estimate of the memory that the events take, indexes included. */
  readonly bytes: number;
}

interface TopicRuns {
  readonly everyone: Run;
  readonly users: Map<string, Run>;
}

// Estimated bytes on 64-bit V8, on top of the text: an event with its id and places in the runs; a topic's map
// and trie entries and first run; a user's run within a topic.
const EVENT_BYTES = 256;
const TOPIC_BYTES = 768;
const USER_BYTES = 320;

/**
 * The newest events of the log, in memory, found by topic and addressee, so that reading costs what it returns.
 * Bounded by age, count and bytes; what falls out at the old end moves `floor` up.
 */
export class Window {
  private readonly retention: Retention;
  private readonly slots = new Run();
  private readonly topics = new Map<string, TopicRuns>();
  private readonly names = new SegmentTrie<TopicRuns>();
  private readonly replaceable = new Map<string, Slot>();
  private size = 0;
  private lowest: EventId;
  /** What comes after this id is not dropped, whatever the retention says: an engine has it nowhere else yet. */
  pinned: EventId | undefined;

  /** @param floor events up to and with this id are not in the window */
  constructor(retention: Retention, floor: EventId = ZERO) {
    this.retention = retention;
    this.lowest = floor;
  }

  /** Everything after this id is in the window; what is at or before it is not. */
  get floor(): EventId {
    return this.lowest;
  }

  get count(): number {
    return this.slots.size;
  }

  get bytes(): number {
    return this.size;
  }

  /**
   * Adds the newest event, and drops from the old end what the retention no longer allows.
   * @returns the event that this one replaces by its key, which is gone from the window now
   */
  append(event: Event): Event | undefined {
    const slot: Slot = { id: event.id, bytes: eventBytes(event), event };
    const replaced = event.key === undefined ? undefined : this.replace(event, slot);
    this.slots.push(slot);
    this.list(event, slot);
    this.size += slot.bytes;
    this.trim(event.id.ms);
    return replaced;
  }

  /** Drops what is too old at `now`, too much, or too large. */
  trim(now: number): void {
    const { age, count, bytes } = this.retention;
    for (let oldest = this.slots.at(0); oldest; oldest = this.slots.at(0)) {
      if (this.count <= count && this.size <= bytes && oldest.id.ms > now - age) return;
      if (this.pinned && compareIds(oldest.id, this.pinned) > 0) return;
      this.drop(oldest);
    }
  }

  /** Drops everything up to and with `id`. */
  dropThrough(id: EventId): void {
    for (let oldest = this.slots.at(0); oldest && compareIds(oldest.id, id) <= 0; oldest = this.slots.at(0)) {
      this.drop(oldest);
    }
  }

  private drop(oldest: Slot): void {
    const { id, event } = oldest;
    this.slots.dropThrough(id);
    if (!event) return;
    this.lowest = id;
    this.forget(oldest, event, (run) => run.dropThrough(id));
  }

  /** The first events that the query asks for, of those in the window. */
  read(query: Query): Event[] {
    const runs = [...this.runsFor(query)];
    // Gathering the runs of a wide pattern has its price: so much is to be read for it, or many small reads were dear.
    const limit = Math.max(query.limit, Math.floor(runs.length / 8));
    return mergeRuns(runs, query.after, query.until, limit);
  }

  private *runsFor({ topics, user }: Query): Generator<Run> {
    for (const subscription of topics) {
      const exact = this.topics.get(subscription);
      const all = isPattern(subscription) ? this.names.matchedBy(subscription) : exact ? [exact] : [];
      for (const runs of all) {
        yield runs.everyone;
        const own = runs.users.get(user);
        if (own) yield own;
      }
    }
  }

  /** Puts an event into the runs where its readers look for it. */
  private list({ topic, users }: Event, slot: Slot): void {
    let runs = this.topics.get(topic);
    if (!runs) {
      runs = { everyone: new Run(), users: new Map() };
      this.topics.set(topic, runs);
      this.names.set(topic, runs);
      this.size += TOPIC_BYTES;
    }
    if (!users) return runs.everyone.push(slot);
    for (const userId of users) {
      const user = userKey(userId);
      let own = runs.users.get(user);
      if (!own) {
        runs.users.set(user, (own = new Run()));
        this.size += USER_BYTES;
      }
      own.push(slot);
    }
  }

  private replace(event: Event, slot: Slot): Event | undefined {
    const key = replacementKey(event);
    if (key === undefined) return undefined;
    const old = this.replaceable.get(key);
    const replaced = old?.event;
    if (old && replaced) {
      old.event = undefined;
      this.slots.noteEmptied();
      this.forget(old, replaced, (run) => run.noteEmptied());
    }
    this.replaceable.set(key, slot);
    return replaced;
  }

  /** Takes an event out of the indexes; `leave` does what the runs that it stood in need. */
  private forget(slot: Slot, event: Event, leave: (run: Run) => void): void {
    const key = event.key === undefined ? undefined : replacementKey(event);
    if (key !== undefined && this.replaceable.get(key) === slot) this.replaceable.delete(key);
    const runs = this.topics.get(event.topic);
    if (!runs) return;
    this.size -= slot.bytes;
    if (!event.users) leave(runs.everyone);
    for (const userId of event.users ?? []) {
      const own = runs.users.get(userKey(userId));
      if (!own) continue;
      leave(own);
      if (own.size > 0) continue;
      runs.users.delete(userKey(userId));
      this.size -= USER_BYTES;
    }
    if (runs.everyone.size > 0 || runs.users.size > 0) return;
    this.topics.delete(event.topic);
    this.names.delete(event.topic);
    this.size -= TOPIC_BYTES;
  }
}

function eventBytes({ topic, message, attributes, key, users }: Event): number {
  const text = topic.length + Buffer.byteLength(message) + (attributes?.length ?? 0) + (key?.length ?? 0);
  let bytes = EVENT_BYTES + text;
  // A user costs a place in the event's list and one in the user's run, besides the id itself.
  for (const userId of users ?? []) bytes += 24 + userKey(userId).length;
  return bytes;
}
