import { compareIds, type EventId, earlierOf, laterOf, ZERO } from "./id.js";
import { type Drop, earlierMoment, isDroppedAt, isSame, laterMoment, LIVE, type Moment, NEVER } from "./moment.js";

/** Of the log: what comes after `after`, up to and with `through`. */
export interface Stretch {
  readonly after: EventId;
  readonly through: EventId;
}

/**
 * A stretch of the log as a client was sent it: every event that matched the client, except those that had been dropped
 * (replaced, past their `ttl`, taken away with a permission) when the relay read them. When each of them was read is known to lie
 * between two moments: see `momentOf`.
 */
export interface Sent extends Stretch {
  /** `NEVER`: the client was sent nothing of it. */
  readonly earliest: Moment;
  /** `NEVER`: it is not known whether the client was sent any of it. */
  readonly latest: Moment;
}

/** Up to so many stretches are never joined. */
const FEW = 3;

/** How many stretches are remembered for a client. Beyond, two old ones become one, of which less is known. */
const MAX_STRETCHES = 16;

/**
 * Whether a client was sent an event that matched it, as far as the stretches tell.
 * @returns undefined when it is not known
 */
export function isSent(stretches: readonly Sent[], id: EventId, drop: Drop): boolean | undefined {
  // The newest come last, and are asked for most.
  for (let index = stretches.length - 1; index >= 0; index--) {
    const { after, through, earliest, latest } = stretches[index] as Sent;
    if (compareIds(id, through) > 0) return false;
    if (compareIds(id, after) <= 0) continue;
    if (isSame(earliest, NEVER) || isDroppedAt(drop, earliest)) return false;
    return isSame(latest, NEVER) || isDroppedAt(drop, latest) ? undefined : true;
  }
  return false;
}

/** The stretches with one more, in order and apart from each other. Where it overlaps others, either may have brought an event. */
export function withSent(stretches: readonly Sent[], more: Sent): readonly Sent[] {
  if (compareIds(more.after, more.through) >= 0) return stretches;
  const last = stretches.at(-1);
  if (!last) return [more];
  // Mostly it continues the last one.
  if (compareIds(more.after, last.after) >= 0 && isAlike(last, more)) {
    if (compareIds(more.through, last.through) <= 0) return stretches;
    if (compareIds(more.after, last.through) <= 0)
      return [...stretches.slice(0, -1), { ...last, through: more.through }];
  }
  return bounded(joined(overlaid(stretches, more)));
}

/** The stretches with others. */
export function withAllSent(stretches: readonly Sent[], more: readonly Sent[]): readonly Sent[] {
  return more.reduce(withSent, stretches);
}

/** The stretches as long as receipts ask for them: of those up to the log's floor, nothing is known any more. */
export function withoutTrimmed(stretches: readonly Sent[], floor: EventId): readonly Sent[] {
  if (stretches.length <= FEW) return stretches;
  const index = stretches.findLastIndex(({ through }) => compareIds(through, floor) <= 0);
  const [first, last] = [stretches[0], stretches[index]];
  if (!first || !last || first === last) return stretches;
  const trimmed = { after: first.after, through: last.through, earliest: LIVE, latest: NEVER };
  return [trimmed, ...stretches.slice(index + 1)];
}

/** What of the stretches lies within another one. */
export function sentWithin(stretches: readonly Sent[], { after, through }: Stretch): readonly Sent[] {
  const within: Sent[] = [];
  for (const stretch of stretches) {
    const [from, to] = [laterOf(stretch.after, after), earlierOf(stretch.through, through)];
    if (compareIds(from, to) < 0) within.push({ ...stretch, after: from, through: to });
  }
  return within;
}

/**
 * What a client has received that says to have everything up to the end of a stretch, as far as it is known how it was sent.
 * @param stretches what it was sent
 * @param latest the moment of now: of the rest, the client may have what was dropped before, or not
 */
export function claimed(stretches: readonly Sent[], { after, through }: Stretch, latest: Moment): readonly Sent[] {
  const rest = { after, through, earliest: LIVE, latest };
  const known = sentWithin(stretches, { after: ZERO, through });
  const unknown: Sent[] = [];
  let reached = after;
  for (const stretch of known) {
    unknown.push({ ...rest, after: reached, through: stretch.after });
    reached = laterOf(reached, stretch.through);
  }
  return withAllSent(known, [...unknown, { ...rest, after: reached }]);
}

function isAlike(a: Sent, b: Sent): boolean {
  return isSame(a.earliest, b.earliest) && isSame(a.latest, b.latest);
}

function overlaid(stretches: readonly Sent[], more: Sent): Sent[] {
  const pieces: Sent[] = [];
  let rest: Sent | undefined = more;
  const add = (piece: Sent): void => void (compareIds(piece.after, piece.through) < 0 && pieces.push(piece));
  for (const stretch of stretches) {
    if (!rest || compareIds(rest.after, stretch.through) >= 0) {
      add(stretch);
      continue;
    }
    const start = laterOf(rest.after, stretch.after);
    const end = earlierOf(rest.through, stretch.through);
    if (compareIds(start, end) >= 0) {
      add(rest);
      add(stretch);
      rest = undefined;
      continue;
    }
    add({ ...rest, through: earlierOf(rest.through, stretch.after) });
    add({ ...stretch, through: earlierOf(stretch.through, rest.after) });
    const earliest = earlierMoment(rest.earliest, stretch.earliest);
    const latest = compareIds(rest.latest.id, stretch.latest.id) < 0 ? rest.latest : stretch.latest;
    add({ after: start, through: end, earliest, latest });
    add({ ...stretch, after: laterOf(stretch.after, end) });
    rest = compareIds(rest.through, end) > 0 ? { ...rest, after: end } : undefined;
  }
  if (rest) add(rest);
  return pieces;
}

/** As few as say the same. */
function joined(stretches: readonly Sent[]): Sent[] {
  const result: Sent[] = [];
  for (const stretch of stretches) {
    const last = result.at(-1);
    const continues = last && compareIds(last.through, stretch.after) === 0 && isAlike(last, stretch);
    if (continues) result[result.length - 1] = { ...last, through: stretch.through };
    else result.push(stretch);
  }
  return result;
}

function bounded(stretches: Sent[]): Sent[] {
  while (stretches.length > MAX_STRETCHES) {
    const touches = ({ through }: Sent, index: number): boolean => {
      const next = stretches[index + 1];
      return next !== undefined && compareIds(through, next.after) === 0;
    };
    // Stretches that touch are joined first: one that covers a hole would tell nothing about any event in it.
    const index = stretches.findIndex(touches);
    const at = Math.max(index, 0);
    const [first, second] = stretches.slice(at, at + 2) as [Sent, Sent];
    const earliest = index < 0 ? LIVE : earlierMoment(first.earliest, second.earliest);
    const latest = index < 0 ? NEVER : laterMoment(first.latest, second.latest);
    stretches.splice(at, 2, { after: first.after, through: second.through, earliest, latest });
  }
  return stretches;
}
