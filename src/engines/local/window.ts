import type { EngineReading, Query } from "../../core/engine.js";
import { type Event, type EventDraft, replacementKey, userKey } from "../../core/event.js";
import { compareIds, type EventId, ZERO } from "../../core/id.js";
import { matcherOf } from "../../core/matcher.js";
import { SegmentTrie } from "../../core/trie.js";
import { mergeRuns, Run, type Slot } from "./run.js";
import type { Trimmed } from "./trimmed.js";

export type StoreReading = Pick<EngineReading, "events" | "through">;

/** What one read may cost. */
export interface ReadBounds {
  /** Topics that are looked at to find those that match; beyond, reading goes event by event. */
  readonly topics: number;
  /** Slots that are looked at by topic; or, event by event, units of about 10 ns. */
  readonly slots: number;
  readonly scan: number;
}

/** Each comes to a few milliseconds at most. */
const READ_BOUNDS: ReadBounds = { topics: 2000, slots: 10_000, scan: 300_000 };

/** What it costs to look at an event before its topic is matched, in units of about 10 ns. */
const LOOK = 4;

/** Events (and users of events) that are dropped in one turn because of their age: a few milliseconds. */
const TRIM = 5000;

/** Old events that one new event may drop: more than one, so that trimming by age catches up. */
const TRIM_ON_APPEND = 4;

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

const NO_RUNS: TopicRuns = { everyone: new Run(), users: new Map() };

/**
 * The newest events of the log, in memory, found by topic and addressee.
 * Bounded by age, count and bytes; what falls out at the old end moves `floor` up.
 */
export class Window {
  private readonly slots = new Run();
  private readonly topics = new Map<string, TopicRuns>();
  private readonly names = new SegmentTrie<TopicRuns>();
  private readonly replaceable = new Map<string, Slot>();
  private size = 0;
  private lowest: EventId;
  /** What comes after this id is not dropped, whatever the retention says: an engine has it nowhere else yet. */
  pinned: EventId | undefined;

  /**
   * @param floor events up to and with this id are not in the window
   * @param remembered what the window trims is noted there. Absent: an engine has the events elsewhere too
   */
  constructor(
    private readonly retention: Retention,
    floor: EventId = ZERO,
    private readonly bounds: ReadBounds = READ_BOUNDS,
    private readonly remembered?: Trimmed,
  ) {
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
    this.trim(event.id.ms, TRIM_ON_APPEND);
    return replaced;
  }

  /** Takes out the event that one with the same topic, users and `key` replaces. @returns it, if there is one */
  withdraw(by: Pick<EventDraft, "topic" | "users" | "key">): Event | undefined {
    const key = replacementKey(by);
    const old = key === undefined ? undefined : this.replaceable.get(key);
    const replaced = old?.event;
    if (!old || !replaced) return undefined;
    old.event = undefined;
    this.slots.noteEmptied();
    this.forget(old, replaced, (run) => run.noteEmptied());
    return replaced;
  }

  /**
   * Drops the oldest events until count and bytes are within the retention. Of the events that are too old at `now`, drops
   * only as many as fit in one turn, so the floor may lag behind the age for some turns.
   * @returns whether more is too old
   */
  trim(now: number, most = TRIM): boolean {
    const { age, count, bytes } = this.retention;
    let left = most;
    for (let oldest = this.slots.at(0); oldest; oldest = this.slots.at(0)) {
      const isTooMuch = this.count > count || this.size > bytes;
      if (!isTooMuch && oldest.id.ms > now - age) return false;
      if (this.pinned && compareIds(oldest.id, this.pinned) > 0) return false;
      if (!isTooMuch && left <= 0) return true;
      left -= 1 + (oldest.event?.users?.length ?? 0);
      if (oldest.event) this.remembered?.note(oldest.event, now);
      this.drop(oldest);
    }
    return false;
  }

  /** As `gap` of `EngineReading`. */
  trimmed(query: Query): boolean {
    return this.remembered?.has(query) ?? true;
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

  /**
   * The first events that the query asks for, of those in the window. By topic, which costs what it returns, when the
   * topics are found sooner than the events are looked at; otherwise event by event.
   */
  read(query: Query): StoreReading {
    const { after, until, limit } = query;
    const start = this.slots.after(after);
    const end = until ? this.slots.after(until) : this.slots.length;
    const runs = this.runsFor(query, Math.min(this.bounds.topics, end - start));
    if (!runs) return this.scan(query, start, end);
    // Gathering the runs of a wide pattern is expensive, so read at least this many events at a time.
    return mergeRuns(runs, after, until, Math.max(limit, Math.floor(runs.length / 8)), this.bounds.slots);
  }

  /** @returns undefined when that takes more than `work` looks at topics */
  private runsFor({ topics, user }: Query, work: number): Run[] | undefined {
    if (topics.length > work) return undefined;
    const { exact, patterns } = matcherOf(topics);
    const matched = patterns ? this.names.matchedBy(patterns, { left: work - exact.size }) : [];
    if (!matched) return undefined;
    for (const topic of exact) matched.push(this.topics.get(topic) ?? NO_RUNS);
    const runs: Run[] = [];
    for (const { everyone, users } of matched) {
      runs.push(everyone);
      const own = users.get(user);
      if (own) runs.push(own);
    }
    return runs;
  }

  private scan({ topics, user, limit }: Query, start: number, end: number): StoreReading {
    const events: Event[] = [];
    const matcher = matcherOf(topics);
    const work = { left: this.bounds.scan };
    for (let index = start; index < end; index++) {
      const slot = this.slots.at(index) as Slot;
      const { event, id } = slot;
      work.left -= LOOK;
      if (event && matcher.matches(event.topic, work) && this.isFor(slot, event, user)) events.push(event);
      if (events.length >= limit || work.left <= 0) return { events, through: id };
    }
    return { events };
  }

  /** Whether an event is for a user: looked up, as its users may be very many. */
  private isFor(slot: Slot, { topic, users }: Event, user: string): boolean {
    return !users || this.topics.get(topic)?.users.get(user)?.has(slot) === true;
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
    const replaced = this.withdraw(event);
    const key = replacementKey(event);
    if (key !== undefined) this.replaceable.set(key, slot);
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
