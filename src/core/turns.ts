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

/** Long work as a generator that yields after each piece. */
export type Pieces<T = void> = Generator<void, T>;

/**
 * Does the pieces, in order, and lets others run in between.
 * @returns the generator's result; not a promise when one turn was enough, which is the usual case
 * @throws as `Turns.rest`
 */
export function takeTurns<T>(pieces: Pieces<T>, turns = new Turns()): T | Promise<T> {
  const last = takeTurn(pieces, turns);
  return last.done ? last.value : takeMore(pieces, turns);
}

function takeTurn<T>(pieces: Pieces<T>, turns: Turns): IteratorResult<void, T> {
  for (;;) {
    const piece = pieces.next();
    if (piece.done || turns.over) return piece;
  }
}

async function takeMore<T>(pieces: Pieces<T>, turns: Turns): Promise<T> {
  for (;;) {
    await turns.rest();
    const last = takeTurn(pieces, turns);
    if (last.done) return last.value;
  }
}

/** Does the work for each item, as `takeTurns`. */
export function inTurns<T>(items: Iterable<T>, work: (item: T) => void, turns = new Turns()): void | Promise<void> {
  const left = items[Symbol.iterator]();
  return workTurn(left, work, turns) ? undefined : workMore(left, work, turns);
}

/** Items between two looks at the clock: a look costs as much as a small item. */
const UNSEEN = 4;

/** @returns whether nothing is left */
function workTurn<T>(left: Iterator<T>, work: (item: T) => void, turns: Turns): boolean {
  for (let count = 1; ; count++) {
    const { done, value } = left.next();
    if (done) return true;
    work(value);
    if (count % UNSEEN === 0 && turns.over) return false;
  }
}

async function workMore<T>(left: Iterator<T>, work: (item: T) => void, turns: Turns): Promise<void> {
  do await turns.rest();
  while (!workTurn(left, work, turns));
}

/**
 * Starts work for each item, as `inTurns`, and waits until all of it has ended.
 * @throws the error of the first item whose work failed
 */
export async function allInTurns<T, R>(items: Iterable<T>, work: (item: T) => Promise<R>): Promise<R[]> {
  const started: Promise<R>[] = [];
  const start = (item: T): void => {
    const promise = work(item);
    // It may fail before the last one has started, when nobody waits for it yet.
    promise.catch(() => undefined);
    started.push(promise);
  };
  await inTurns(items, start);
  return Promise.all(started);
}
