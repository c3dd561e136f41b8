import { Deque } from "./deque.js";
import type { Query } from "./engine.js";
import { type Event, isFor, userKey } from "./event.js";
import { compareIds, type EventId, laterOf } from "./id.js";
import { matcherOf } from "./matcher.js";
import type { Work } from "./patterns.js";

/** What is kept: few enough to be looked at one by one. Older events are the engine's to find. */
const MOST = { events: 2048, size: 8 * 1024 * 1024 };

/** A user of an event counts as so many characters of a message: what it takes to find the user takes that much memory. */
const USER_SIZE = 64;

/** Work of one read, in units of about 10 ns: a few milliseconds. Looking at one event costs `LOOK`, besides its topic. */
const WORK = 300_000;
const LOOK = 4;

/** Users of one event from which on they are looked up, instead of compared. */
const MANY_USERS = 16;

/**
 * The newest events, in memory. A reader goes from reading to live within one step: it reads the tail up to the head, and no
 * event comes in between.
 */
export class Tail {
  private readonly events = new Deque<Event>();
  /** Those that others have replaced. */
  private readonly replaced = new WeakSet<Event>();
  /** `userKey` of each user of those that have many. */
  private readonly users = new WeakMap<Event, ReadonlySet<string>>();
  private size = 0;
  private lowest: EventId;

  /** @param floor where it begins */
  constructor(floor: EventId) {
    this.lowest = floor;
  }

  /** Every kept event after this id is in the tail. */
  get floor(): EventId {
    return this.lowest;
  }

  append(event: Event): void {
    this.events.push(event);
    this.size += sizeOf(event);
    while (this.events.length > MOST.events || this.size > MOST.size) this.dropOldest();
  }

  /** To be called when a later event has taken the place of this one. */
  replace(id: EventId): void {
    const event = this.events.at(this.indexAfter(id) - 1);
    if (event && compareIds(event.id, id) === 0) this.replaced.add(event);
  }

  /** Drops everything up to and with `id`. */
  dropThrough(id: EventId): void {
    for (let oldest = this.events.at(0); oldest && compareIds(oldest.id, id) <= 0; oldest = this.events.at(0)) {
      this.dropOldest();
    }
    this.lowest = laterOf(this.lowest, id);
  }

  /** @returns `through`: how far it got, when there may be more */
  read({ after, until, topics, user, limit }: Query): { readonly events: Event[]; readonly through?: EventId } {
    const events: Event[] = [];
    const matcher = matcherOf(topics);
    const work = { left: WORK };
    const end = until ? this.indexAfter(until) : this.events.length;
    for (let index = this.indexAfter(after); index < end; index++) {
      const event = this.events.at(index) as Event;
      work.left -= LOOK;
      const isMatch = matcher.matches(event.topic, work) && this.isFor(event, user, work);
      if (isMatch && !this.replaced.has(event)) events.push(event);
      if (events.length >= limit || work.left <= 0) return { events, through: event.id };
    }
    return { events };
  }

  private isFor(event: Event, user: string, work: Work): boolean {
    const { users } = event;
    if (!users || users.length < MANY_USERS) return isFor(event, user);
    let known = this.users.get(event);
    if (!known) {
      this.users.set(event, (known = new Set(users.map(userKey))));
      work.left -= users.length * LOOK;
    }
    return known.has(user);
  }

  private indexAfter(id: EventId): number {
    return this.events.search((event) => compareIds(event.id, id) > 0);
  }

  private dropOldest(): void {
    const oldest = this.events.shift();
    if (!oldest) return;
    this.size -= sizeOf(oldest);
    this.lowest = oldest.id;
  }
}

function sizeOf({ message, users }: Event): number {
  return message.length + (users?.length ?? 0) * USER_SIZE;
}
