import { Deque } from "./deque.js";
import type { Query } from "./engine.js";
import { type Event, userKey } from "./event.js";
import { compareIds, type EventId, laterOf } from "./id.js";
import { matcherOf } from "./matcher.js";

/** What is kept: few enough to be looked at one by one. Older events are the engine's to find. */
const MOST = { events: 2048, characters: 8 * 1024 * 1024 };

/** Work of one read, in units of about 10 ns: a few milliseconds. Looking at one event costs `LOOK`, besides its topic. */
const WORK = 300_000;
const LOOK = 4;

/** Users of one event from which on they are looked up, instead of compared. */
const MANY_USERS = 16;

interface Slot {
  readonly id: EventId;
  readonly characters: number;
  /** Undefined once it was replaced. */
  event: Event | undefined;
  /** `userKey` of each user, when there are many. */
  users?: ReadonlySet<string>;
}

/**
 * The newest events, in memory. A reader goes from reading to live within one step: it reads the tail up to the head, and no
 * event comes in between.
 */
export class Tail {
  private readonly slots = new Deque<Slot>();
  private characters = 0;
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
    const characters = event.message.length;
    this.slots.push({ id: event.id, characters, event });
    this.characters += characters;
    while (this.slots.length > MOST.events || this.characters > MOST.characters) this.dropOldest();
  }

  /** To be called when a later event has taken the place of this one. */
  remove(id: EventId): void {
    const slot = this.slots.at(this.indexAfter(id) - 1);
    if (slot && compareIds(slot.id, id) === 0) slot.event = undefined;
  }

  /** Drops everything up to and with `id`. */
  dropThrough(id: EventId): void {
    for (let oldest = this.slots.at(0); oldest && compareIds(oldest.id, id) <= 0; oldest = this.slots.at(0)) {
      this.dropOldest();
    }
    this.lowest = laterOf(this.lowest, id);
  }

  /** @returns `through`: how far it got, when there may be more */
  read({ after, until, topics, user, limit }: Query): { readonly events: Event[]; readonly through?: EventId } {
    const events: Event[] = [];
    const matcher = matcherOf(topics);
    const work = { left: WORK };
    const end = until ? this.indexAfter(until) : this.slots.length;
    for (let index = this.indexAfter(after); index < end; index++) {
      const slot = this.slots.at(index) as Slot;
      const { event, id } = slot;
      work.left -= LOOK;
      if (event && matcher.matches(event.topic, work) && isFor(slot, event, user)) events.push(event);
      if (events.length >= limit || work.left <= 0) return { events, through: id };
    }
    return { events };
  }

  private indexAfter(id: EventId): number {
    return this.slots.search((slot) => compareIds(slot.id, id) > 0);
  }

  private dropOldest(): void {
    const oldest = this.slots.shift();
    if (!oldest) return;
    this.characters -= oldest.characters;
    this.lowest = oldest.id;
  }
}

function isFor(slot: Slot, { users }: Event, user: string): boolean {
  if (!users) return true;
  if (users.length < MANY_USERS) return users.some((userId) => userKey(userId) === user);
  slot.users ??= new Set(users.map(userKey));
  return slot.users.has(user);
}
