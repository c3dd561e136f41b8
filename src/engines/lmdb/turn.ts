import type { Work } from "../../core/patterns.js";

/** Reading that takes its turns: what it does is counted, and the event loop is left to others when a turn is over. */
export class Turn implements Work {
  left: number;

  /** @param size how much work there is in a turn */
  constructor(private readonly size: number) {
    this.left = size;
  }

  get isOver(): boolean {
    return this.left <= 0;
  }

  /** To be awaited when this turn is over. What was read may have changed by then. */
  async next(): Promise<void> {
    await new Promise(setImmediate);
    this.left = this.size;
  }
}
