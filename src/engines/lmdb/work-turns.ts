import type { Work } from "../../core/patterns.js";

/** As `Turns`, for reading: it counts the work of a turn instead of looking at the clock. */
export class WorkTurns implements Work {
  left: number;

  /** @param turn work in one turn of the event loop, in the units of `Work` */
  constructor(private readonly turn: number) {
    this.left = turn;
  }

  get over(): boolean {
    return this.left <= 0;
  }

  /** Lets others run. What was read may have changed by then. */
  async rest(): Promise<void> {
    await new Promise(setImmediate);
    this.left = this.turn;
  }
}
