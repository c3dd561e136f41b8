import fc from "fast-check";
import { open } from "lmdb";
import { expect, onTestFinished, test } from "vitest";
import type { Matched } from "../../src/core/engine.js";
import { takeTurns } from "../../src/core/turns.js";
import { AUDIENCE_LIFE, Audiences } from "../../src/engines/lmdb/audiences.js";
import type { Audience } from "../../src/engines/lmdb/block.js";
import { Changes, openTables } from "../../src/engines/lmdb/tables.js";
import { temporaryDirectory } from "../support/directory.js";

/** Lists of clients as the journal keeps them: each in a commit of its own. */
class Kept {
  private readonly root = open<Buffer, Buffer>(temporaryDirectory(), {
    encoding: "binary",
    keyEncoding: "binary",
    maxDbs: 32,
    noSync: true,
  });
  private readonly table = openTables(this.root).audiences;
  readonly audiences = new Audiences(this.table);
  private seq = 0;
  bytes = 0;

  constructor() {
    onTestFinished(() => this.root.close());
  }

  /** @param isLost whether the commit fails */
  async keep(ms: number, list: readonly Matched[], isLost = false): Promise<Audience> {
    const changes = new Changes();
    let audience: Audience = [];
    const { audiences } = this;
    const seq = this.seq++;
    await takeTurns(
      (function* () {
        audience = yield* audiences.keep(changes, { ms, seq }, list);
      })(),
    );
    this.bytes += changes.bytes;
    if (isLost) audiences.forget();
    else await changes.commit(this.root);
    return audience;
  }
}

let clients = 0;
function client(): Matched {
  return { id: (++clients).toString(16).padStart(32, "0") };
}

function crowd(size: number): Matched[] {
  return Array.from({ length: size }, client);
}

test("a client that comes and goes among thousands costs bytes, not the whole list", async () => {
  const kept = new Kept();
  const all = crowd(5000);
  const [restless] = crowd(1) as [Matched];
  await kept.keep(0, all);
  const before = kept.bytes;
  for (let count = 1; count <= 100; count++) await kept.keep(count, count % 2 ? [...all, restless] : [...all]);
  expect(before).toBeGreaterThan(5000 * 16);
  expect(kept.bytes - before).toBeLessThan(100 * 100);
});

test(
  "whatever lists are kept, each is read as it was, as long as the log may need it",
  { timeout: 60_000 },
  async () => {
    const step = fc.record({
      which: fc.nat(3),
      removed: fc.array(fc.nat(), { maxLength: 5 }),
      added: fc.nat(5),
      isShuffled: fc.nat(20).map((chance) => chance === 0),
      after: fc.oneof(fc.nat(100), fc.nat(40_000)),
      isLost: fc.nat(9).map((chance) => chance === 0),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
        const kept = new Kept();
        const first = client();
        // All of them begin with the same client.
        const lists = [0, 20, 100, 1000].map((size) => [first, ...crowd(size)]);
        const said: { ms: number; audience: Audience; list: readonly Matched[] }[] = [];
        let ms = 0;
        for (const { which, removed, added, isShuffled, after, isLost } of steps) {
          ms += after;
          const gone = new Set(removed.map((place) => place % (lists[which] as Matched[]).length));
          const left = (lists[which] as Matched[]).filter((_, index) => !gone.has(index));
          const list = [...(isShuffled ? left.reverse() : left), ...crowd(added)];
          lists[which] = list;
          const audience = await kept.keep(ms, list, isLost);
          if (!isLost) said.push({ ms, audience, list });
          // The same list, for another event.
          if (!isLost) said.push({ ms, audience: await kept.keep(ms, list), list });
        }
        for (const { audience, list } of said) {
          expect(kept.audiences.clients(audience)).toEqual(list.map(({ id }) => id));
        }
      }),
      { numRuns: 30 },
    );
  },
);

test("what a list is kept as a difference to is not older than what is kept for receipts", async () => {
  const kept = new Kept();
  const all = crowd(200);
  let [most, base] = [0, 0];
  for (let ms = 0; ms < 300_000; ms += 7000) {
    const list = [...all, client()];
    const before = kept.bytes;
    for (const later of [0, 3000]) await kept.keep(ms + later, list);
    if (kept.bytes - before > 200 * 16) base = ms;
    most = Math.max(most, ms + 3000 - base);
  }
  expect(most).toBeGreaterThan(50_000);
  expect(most).toBeLessThan(AUDIENCE_LIFE);
});
