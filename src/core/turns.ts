/** Milliseconds of work after which others get their turn: far below what a connection would notice. */
const TURN = 8;

/**
 * Shares the event loop during long work: the work calls `rest` between its pieces, and whenever a turn's worth of it
 * is done, everything else that waits runs first.
 */
export class Turns {
  private began = performance.now();

  /** @param signal aborted: the work is not wanted any more */
  constructor(private readonly signal?: AbortSignal) {}

  /** Whether the turn is used up: then `rest` is due. Costs less than awaiting `rest` for each piece. */
  get over(): boolean {
    return performance.now() - this.began >= TURN;
  }

  /** Lets others run. @throws the signal's reason, once it is aborted */
  async rest(): Promise<void> {
    await new Promise(setImmediate);
    this.signal?.throwIfAborted();
    this.began = performance.now();
  }
}

/** Does the work for each item, in order, and lets others run in between. @throws as `Turns.rest` */
export async function inTurns<T>(items: Iterable<T>, work: (item: T) => void, turns = new Turns()): Promise<void> {
  for (const item of items) {
    work(item);
    if (turns.over) await turns.rest();
  }
}
