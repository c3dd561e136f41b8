import { type Publication, rankOf } from "./ledger.js";

export const FORMATS = ["raw", "json", "cloudevents", "sse", "ndjson"] as const;
export type LinkFormat = (typeof FORMATS)[number];

/** Whether something is so; "maybe" where the order of what happened at the same time is not known. */
export type Certainty = "yes" | "no" | "maybe";

export type Since = { readonly id: string } | { readonly ago: number } | "0" | "now";

/** What one client subscribed to: certainly from `ended` on, possibly from `began` on. */
export interface Subscribed {
  topics: readonly string[];
  readonly began: number;
  ended: number;
}

/** What is known of one event for one client. Times are the audit's; absent: it did not happen. */
export interface Fate {
  readonly publication: Publication;
  match: Certainty;
  receivedAt?: number;
  /** The client may have confirmed it from here on, and certainly has from there on. */
  mayBeConfirmedAt?: number;
  confirmedAt?: number;
  mayBeSkippedAt?: number;
  skippedAt?: number;
  mayBeNarrowedAt?: number;
  narrowedAt?: number;
  /** A receipt said that it will not come. */
  saidExpiredAt?: number;
  /** The log dropped it before the client had it: a gap is owed. */
  lost?: boolean;
}

export interface Received {
  readonly number: number;
  readonly id: string | undefined;
  readonly at: number;
}

/** One connection of a client, as its own end saw it. */
export interface Link {
  readonly format: LinkFormat;
  readonly manual: boolean;
  readonly since: Since | undefined;
  readonly began: number;
  /** When the relay answered the request. */
  opened?: number;
  /** What the header and the `connected` frame say. */
  gap: boolean;
  readonly received: Received[];
  /** `gap` notifications and closings because of a gap: before which of `received`, and when. */
  readonly gapNotes: { readonly index: number; readonly at: number }[];
  ended?: number;
  /** The highest rank that the client may have confirmed, and the least that it certainly had, before. */
  readonly mayBeCursor: number;
  readonly leastCursor: number;
  /** More topics were changed while the client was behind than are kept. */
  manyChanges: boolean;
  topicsChanged: boolean;
  mayBeOwedGap: boolean;
  /** It should have been told of a gap, and was not. */
  isUnsaid: boolean;
  /** How many of `received` the judge has looked at. */
  judged: number;
}

export function rankOfSince(since: Since | undefined): number | undefined {
  return typeof since === "object" && "id" in since ? rankOf(since.id) : undefined;
}
