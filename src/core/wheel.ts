import { inTurns } from "./turns.js";

/**
 * Things that are due at some time, in slots of one granularity: one timer for all of them, however many there
 * are. A thing is due once; adding it again moves it.
 */
export class Wheel<T> {
  private readonly slots = new Map<number, Set<T>>();
  private readonly slotOf = new Map<T, number>();
  private timer: NodeJS.Timeout | undefined;
  private reached = 0;
  private advancing = false;

  /**
   * @param granularity milliseconds: how late a thing may be
   * @param due called for each thing whose time has come
   */
  constructor(
    private readonly granularity: number,
    private readonly due: (thing: T) => void,
  ) {}

  get size(): number {
    return this.slotOf.size;
  }

  /** @param delay milliseconds from now, whatever the clock on the wall does; at most two granularities more */
  add(thing: T, delay: number): void {
    this.delete(thing);
    const now = performance.now();
    if (this.slotOf.size === 0) this.reached = this.slotAt(now);
    const slot = Math.max(Math.ceil((now + delay) / this.granularity), this.reached + 1);
    const things = this.slots.get(slot);
    if (things) things.add(thing);
    else this.slots.set(slot, new Set([thing]));
    this.slotOf.set(thing, slot);
    // The timer runs only while something waits.
    this.timer ??= setInterval(() => void this.advance(), this.granularity).unref();
  }

  has(thing: T): boolean {
    return this.slotOf.has(thing);
  }

  delete(thing: T): void {
    const slot = this.slotOf.get(thing);
    if (slot === undefined) return;
    this.slotOf.delete(thing);
    const things = this.slots.get(slot);
    things?.delete(thing);
    if (things?.size === 0) this.slots.delete(slot);
  }

  stop(): void {
    clearInterval(this.timer);
    this.timer = undefined;
  }

  private async advance(): Promise<void> {
    // So many may be due at once that others get their turn in between.
    if (this.advancing) return;
    this.advancing = true;
    const now = this.slotAt(performance.now());
    const passed = this.passed(now);
    this.reached = Math.max(this.reached, now);
    try {
      await inTurns(this.thingsIn(passed), (thing) => {
        this.delete(thing);
        this.due(thing);
      });
    } finally {
      this.advancing = false;
    }
    if (this.slotOf.size === 0) this.stop();
  }

  private *thingsIn(slots: readonly number[]): Generator<T> {
    for (const slot of slots) {
      for (const thing of this.slots.get(slot) ?? []) {
        if (!this.timer) return;
        yield thing;
      }
    }
  }

  private passed(now: number): number[] {
    // After a pause of the process there may be more time than slots.
    if (now - this.reached > this.slots.size) {
      return [...this.slots.keys()].filter((slot) => slot <= now).sort((a, b) => a - b);
    }
    return Array.from({ length: Math.max(0, now - this.reached) }, (_, index) => this.reached + 1 + index);
  }

  private slotAt(time: number): number {
    return Math.floor(time / this.granularity);
  }
}
