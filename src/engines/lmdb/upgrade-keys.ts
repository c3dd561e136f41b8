import type { RootDatabase } from "lmdb";
import type { Counts } from "../../core/engine.js";
import type { EventId } from "../../core/id.js";
import type { Loading } from "../../core/loading.js";
import { inTurns, Turns } from "../../core/turns.js";
import type { Journal } from "../local/journal.js";
import { decode } from "./records.js";
import { Changes, countOf, piecesOf, type Tables } from "./tables.js";

/** A row of the table `keys`, as versions 1 and 2 have it. */
interface OldKey {
  /** After the name of the API key and a colon; on an open relay by itself. */
  readonly key: string;
  readonly fingerprint: string;
  readonly until: number;
  readonly ids: readonly EventId[];
  /** JSON: a list of counts, each with its id. */
  readonly reply?: string;
}

/** Moves idempotency keys that an earlier version wrote to where this one looks for them. */
export async function upgradeKeys(
  root: RootDatabase<Buffer, Buffer>,
  { keys }: Tables,
  journal: Journal,
  now: number,
  loading: Loading,
): Promise<void> {
  const turns = new Turns(loading.signal);
  const of = countOf(keys);
  let done = 0;
  for (const piece of piecesOf(keys)) {
    loading.progress({ step: "moving idempotency keys", done, of });
    try {
      await inTurns(piece, ({ value }) => move(journal, decode(value) as OldKey, now), turns);
    } finally {
      await journal.saved();
    }
    // Only now: after a crash before that, they are moved again.
    const changes = new Changes();
    for (const { key } of piece) changes.remove(keys, key);
    await changes.commit(root);
    done += piece.length;
  }
}

function move({ keys }: Journal, { key, fingerprint, until, ids, reply }: OldKey, now: number): void {
  if (until <= now) return;
  const counts = reply === undefined ? undefined : (JSON.parse(reply) as Counts[]);
  for (const name of namesOf(key)) {
    const once = { ...name, fingerprint, until };
    if (!keys.find(once)) keys.add(once, ids, counts);
  }
}

/** What has a colon may be of an open relay too, and is then known by both names. */
function namesOf(text: string): { owner: string; key: string }[] {
  const [, owner = "", key = ""] = /^([\w.@-]{1,64}):(.+)$/s.exec(text) ?? [];
  const whole = { owner: "", key: text };
  return key === "" ? [whole] : [whole, { owner, key }];
}
