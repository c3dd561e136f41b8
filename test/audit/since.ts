import type { ClientModel } from "./client-model.js";
import { clock } from "./ledger.js";
import { type Link, rankOfSince, type Since } from "./records.js";

/** Milliseconds between a request and its answer, mostly. */
const AROUND = 300;

/** The client is about to say by `since` from where it goes on. */
export function sayPosition(model: ClientModel, since: Since | undefined): void {
  const asked = rankOfSince(since);
  // What had expired may come again when the client goes back.
  if (since !== undefined) for (const fate of model.fates.values()) delete fate.saidExpiredAt;
  if (asked === undefined) {
    if (since !== undefined && since !== "now") model.rewind(0);
    const now = clock();
    const link = { since, began: now, opened: now + AROUND };
    skipPassed(model, link, false);
    return;
  }
  const at = clock();
  model.mayBeCursor = Math.max(model.mayBeCursor, asked);
  model.said = Math.max(model.said, asked);
  // An id says that everything up to there has been received.
  for (const fate of model.fates.values()) {
    const { rank } = fate.publication;
    if (rank === undefined || rank > asked) continue;
    fate.mayBeConfirmedAt ??= at;
    if (fate.receivedAt === undefined) fate.mayBeSkippedAt ??= at;
  }
}

/** The relay has done what `since` asks for. */
export function settlePosition(model: ClientModel, { since }: Link): void {
  const asked = rankOfSince(since);
  if (asked === undefined) return;
  const at = clock();
  for (const fate of model.fates.values()) {
    if ((fate.publication.rank ?? Infinity) > asked) continue;
    if (fate.receivedAt === undefined) fate.skippedAt ??= at;
    else if (fate.mayBeSkippedAt === undefined) fate.confirmedAt ??= at;
  }
  model.moveOn(asked);
}

/** What `since=now` and a duration may have passed over. */
export function skipPassed(
  model: ClientModel,
  { since, began, opened = 0 }: Pick<Link, "since" | "began" | "opened">,
  isSure = true,
): void {
  const ago = typeof since === "object" && "ago" in since ? since.ago : since === "now" ? 0 : undefined;
  if (ago !== undefined) model.notePass(began, opened - ago);
  for (const fate of model.fates.values()) {
    // Going back brings back what was passed over.
    if (isSure && since !== undefined && since !== "now") delete fate.skippedAt;
    if (ago === undefined || fate.publication.began > opened - ago) continue;
    fate.mayBeSkippedAt ??= began;
    if (isSure && ago === 0 && fate.publication.answered < began && fate.confirmedAt === undefined)
      fate.skippedAt ??= clock();
  }
}
