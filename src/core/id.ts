/**
 * Where an event stands in the order of all events, written `<milliseconds>-<sequence>`.
 * Both parts are non-negative safe integers; ids are immutable and may be shared.
 */
export interface EventId {
  readonly ms: number;
  readonly seq: number;
}

/** The largest number in an id that engines keep. */
const MAX_PART = 2 ** 48 - 1;

/** Before every event. */
export const ZERO: EventId = Object.freeze({ ms: 0, seq: 0 });

/** After every event. */
export const END: EventId = Object.freeze({ ms: MAX_PART, seq: MAX_PART });

/**
 * Stands, in a client's record that is about to be appended, for the id that its entry will get. It sorts after every id that
 * was given out, as that id will.
 */
export const OWN: EventId = Object.freeze({ ms: MAX_PART, seq: MAX_PART - 1 });

/** Negative when `a` comes before `b`, 0 when they are the same id, positive otherwise. */
export function compareIds(a: EventId, b: EventId): number {
  return a.ms - b.ms || a.seq - b.seq;
}

export function laterOf(a: EventId, b: EventId): EventId {
  return compareIds(a, b) >= 0 ? a : b;
}

export function earlierOf(a: EventId, b: EventId): EventId {
  return compareIds(a, b) <= 0 ? a : b;
}

/** The id just before another one. */
export function before({ ms, seq }: EventId): EventId {
  return seq > 0 ? { ms, seq: seq - 1 } : { ms: ms - 1, seq: MAX_PART };
}

export function formatId(id: EventId): string {
  return `${id.ms}-${id.seq}`;
}

/** The id that `text` spells, or undefined when it is none. Only the canonical spelling is one. */
export function parseId(text: string): EventId | undefined {
  const match = /^(0|[1-9]\d{0,15})-(0|[1-9]\d{0,15})$/.exec(text);
  if (!match) return undefined;
  const id = { ms: Number(match[1]), seq: Number(match[2]) };
  return Number.isSafeInteger(id.ms) && Number.isSafeInteger(id.seq) ? id : undefined;
}

/** Makes ids that strictly increase, whatever the clock does. */
export class IdSource {
  private last: EventId;

  /** @param last the highest id that may have been given out before */
  constructor(last: EventId) {
    this.last = last;
  }

  /** @param now of the engine's clock */
  next(now: number): EventId {
    const { ms, seq } = this.last;
    this.last = now > ms ? { ms: now, seq: 0 } : { ms, seq: seq + 1 };
    return this.last;
  }
}
