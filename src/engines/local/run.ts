import { Deque } from "../../core/deque.js";
import type { Event } from "../../core/event.js";
import { compareIds, type EventId } from "../../core/id.js";

/** One event's place in every run that it stands in. Emptied when the event is replaced. */
export interface Slot {
  readonly id: EventId;
  /** Of memory that the event takes, about. */
  readonly bytes: number;
  event: Event | undefined;
}

/** Slots in the order of their ids: added at the end, dropped from the front, found by id. */
export class Run {
  private readonly slots = new Deque<Slot>();
  private emptied = 0;

  /** How many of the slots have an event. */
  get size(): number {
    return this.slots.length - this.emptied;
  }

  /** How many slots there are, those without an event included. */
  get length(): number {
    return this.slots.length;
  }

  at(index: number): Slot | undefined {
    return this.slots.at(index);
  }

  push(slot: Slot): void {
    this.slots.push(slot);
  }

  /** Drops the slots from the front up to and with `id`. */
  dropThrough(id: EventId): void {
    for (let slot = this.at(0); slot && compareIds(slot.id, id) <= 0; slot = this.at(0)) {
      if (!slot.event) this.emptied--;
      this.slots.shift();
    }
  }

  /** To be called when one of this run's slots has been emptied. */
  noteEmptied(): void {
    this.emptied++;
    if (this.emptied <= this.size) return;
    this.slots.retain(({ event }) => event !== undefined);
    this.emptied = 0;
  }

  /** Whether a slot stands in this run. */
  has(slot: Slot): boolean {
    return this.at(this.slots.search(({ id }) => compareIds(id, slot.id) >= 0)) === slot;
  }

  /** The index of the first slot whose id is above `id`; the number of slots when there is none. */
  after(id: EventId): number {
    return this.slots.search((slot) => compareIds(slot.id, id) > 0);
  }
}

/**
 * The first events of several runs that come after `after` and not after `until`, in order, each once.
 * @param limit how many events
 * @param slots how many slots are looked at: there may be many that were emptied
 * @returns `through`: how far it got, when there may be more
 */
export function mergeRuns(
  runs: Iterable<Run>,
  after: EventId,
  until: EventId | undefined,
  limit: number,
  slots: number,
): { events: Event[]; through?: EventId } {
  const heap: Head[] = [];
  for (const run of runs) {
    const index = run.after(after);
    const slot = run.at(index);
    if (slot) pushHead(heap, { run, index, slot });
  }
  const events: Event[] = [];
  let looked = 0;
  for (let head = heap[0]; head; head = heap[0]) {
    const { event, id } = head.slot;
    if (until && compareIds(id, until) > 0) break;
    // Two subscriptions may name the same run.
    if (event && events.at(-1) !== event) events.push(event);
    if (events.length >= limit || ++looked >= slots) return { events, through: id };
    const next = head.run.at(++head.index);
    const moved = next ? head : heap.pop();
    if (next) head.slot = next;
    if (moved && heap.length > 0) heap[0] = moved;
    sinkHead(heap);
  }
  return { events };
}

interface Head {
  readonly run: Run;
  index: number;
  slot: Slot;
}

function pushHead(heap: Head[], head: Head): void {
  let child = heap.push(head) - 1;
  while (child > 0) {
    const parent = (child - 1) >> 1;
    if (compareIds((heap[parent] as Head).slot.id, head.slot.id) <= 0) break;
    heap[child] = heap[parent] as Head;
    child = parent;
  }
  heap[child] = head;
}

function sinkHead(heap: Head[]): void {
  const head = heap[0];
  if (!head) return;
  let parent = 0;
  for (;;) {
    let child = 2 * parent + 1;
    const left = heap[child];
    if (!left) break;
    const right = heap[child + 1];
    if (right && compareIds(right.slot.id, left.slot.id) < 0) child++;
    const least = heap[child] as Head;
    if (compareIds(head.slot.id, least.slot.id) <= 0) break;
    heap[parent] = least;
    parent = child;
  }
  heap[parent] = head;
}
