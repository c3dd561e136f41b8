import type { ClientRecord, Progress } from "../../core/client.js";
import type { Narrowing } from "../../core/narrowing.js";
import { before, compareIds, END, type EventId, ZERO } from "../../core/id.js";
import { LIVE, type Moment } from "../../core/moment.js";
import { type Sent, sentWithin, type Stretch, withAllSent } from "../../core/sent.js";
import type { Ref } from "./lists.js";
import type { Tombstone } from "./records.js";

// Up to version 3 of the directory, what passed a client by was written down, and not what it received.

/** What a client's row has, of `Progress`. Up to version 3, it was not known what the client received. */
export type KeptProgress = Pick<Progress, "cursor" | "confirmed"> & Partial<Progress>;

/** Fields of a client's row up to version 3. */
export interface EarlierMore {
  /** What passed the client by; `except`: all but what these topics and patterns match. */
  readonly lost?: undefined | readonly (Stretch & { readonly except?: Ref | undefined })[];
  /** Something that was meant for it is lost, and it has not been told yet. */
  readonly gap?: boolean;
}

/** What was taken from a client. */
export function narrowedBefore({ lost }: EarlierMore, listOf: (ref: Ref) => readonly string[]): readonly Narrowing[] {
  const taken = lost?.flatMap(({ except, ...stretch }) => {
    return except ? [{ ...stretch, at: stretch.through, topics: listOf(except) }] : [];
  });
  return taken ?? NONE;
}

const NONE: readonly never[] = [];

/** A client whose row is of version 3 or before. @param written by then it was written */
export function withEarlier(record: ClientRecord, { lost, gap }: EarlierMore, written: Moment): ClientRecord {
  const { confirmed, cursor, subscriptions } = record;
  const received = receivedBefore(confirmed, lost, written);
  if (!gap) return { ...record, received };
  const from = before(cursor);
  return { ...record, received, cursor: from, subscriptions: [{ from, topics: [], isLost: true }, ...subscriptions] };
}

/** A client that was removed, whose row may be of version 3 or before. */
export function earlierTombstone(tombstone: Tombstone & EarlierMore & { readonly confirmed?: EventId }): Tombstone {
  const { userId, at, confirmed, lost } = tombstone;
  if (!confirmed) return tombstone;
  return {
    userId,
    at,
    received: receivedBefore(confirmed, lost, { id: at, at: at.ms }),
    narrowed: narrowedBefore({ lost }, asItIs),
  };
}

/** @param latest by then events may have been dropped, of which it is not known whether the client got them before */
function receivedBefore(confirmed: EventId, lost: EarlierMore["lost"], latest: Moment): readonly Sent[] {
  let received: readonly Sent[] = [{ after: ZERO, through: confirmed, earliest: LIVE, latest }];
  for (const { after, through, except } of lost ?? []) {
    if (!except) received = without(received, { after, through });
  }
  return received;
}

/** In the rows of removed clients, all lists are as they are. */
function asItIs(names: Ref): readonly string[] {
  return names as readonly string[];
}

/** What was received but for events that passed the client by. @param ids in their order */
export function withoutEvents(received: readonly Sent[], ids: readonly EventId[]): readonly Sent[] {
  let result: readonly Sent[] = [];
  let after = ZERO;
  for (const id of [...ids, END]) {
    result = withAllSent(result, sentWithin(received, { after, through: before(id) }));
    after = id;
  }
  return result;
}

function without(received: readonly Sent[], { after, through }: Stretch): readonly Sent[] {
  if (compareIds(after, through) >= 0) return received;
  return [
    ...sentWithin(received, { after: ZERO, through: after }),
    ...sentWithin(received, { after: through, through: END }),
  ];
}
