import fc from "fast-check";
import { open } from "lmdb";
import { expect, onTestFinished, test } from "vitest";
import type { Audience } from "../../src/core/engine.js";
import { takeTurns } from "../../src/core/turns.js";
import { AUDIENCE_LIFE, Audiences } from "../../src/engines/lmdb/audiences.js";
import type { Audience as AudienceRef } from "../../src/engines/lmdb/block.js";
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
  async keep(ms: number, matched: readonly Audience[], isLost = false): Promise<AudienceRef> {
    const changes = new Changes();
    let audience: AudienceRef = [];
    const { audiences } = this;
    const seq = this.seq++;
    await takeTurns(
      (function* () {
        audience = yield* audiences.keep(changes, { ms, seq }, matched);
      })(),
    );
    this.bytes += changes.bytes;
    if (isLost) audiences.forget();
    else await changes.commit(this.root);
    return audience;
  }
}

type Client = Audience["clients"][number];

let clients = 0;
function client(): Client {
  return { id: (++clients).toString(16).padStart(32, "0") };
}

function crowd(size: number): Client[] {
  return Array.from({ length: size }, client);
}

let audiences = 0;
function audienceOf(list: readonly Client[]): Audience {
  return { id: `relay/${++audiences}`, clients: list };
}

test("a client that comes and goes among thousands costs bytes, not the whole list", async () => {
  const kept = new Kept();
  const all = crowd(5000);
  const restless = client();
  await kept.keep(0, [audienceOf(all)]);
  const before = kept.bytes;
  for (let count = 1; count <= 100; count++) {
    await kept.keep(count, [audienceOf(count % 2 ? [...all, restless] : [...all])]);
  }
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
      // How many of the clients another relay holds.
      elsewhere: fc.oneof(fc.constant(0), fc.nat(30)),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
        const kept = new Kept();
        const first = client();
        // All of them begin with the same client.
        const lists = [0, 20, 100, 1000].map((size) => [first, ...crowd(size)]);
        const said: { audience: AudienceRef; list: readonly Client[] }[] = [];
        let ms = 0;
        for (const { which, removed, added, isShuffled, after, isLost, elsewhere } of steps) {
          ms += after;
          const gone = new Set(removed.map((place) => place % (lists[which] as Client[]).length));
          const left = (lists[which] as Client[]).filter((_, index) => !gone.has(index));
          const list = [...(isShuffled ? left.reverse() : left), ...crowd(added)];
          lists[which] = list;
          const others = list.slice(list.length - elsewhere);
          const here = list.slice(0, list.length - others.length);
          const matched = (others.length > 0 ? [here, others] : [here]).map(audienceOf);
          const audience = await kept.keep(ms, matched, isLost);
          if (!isLost) said.push({ audience, list });
          // The same clients, for another event.
          if (!isLost) said.push({ audience: await kept.keep(ms, matched), list });
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
    const matched = [audienceOf([...all, client()])];
    const before = kept.bytes;
    for (const later of [0, 3000]) await kept.keep(ms + later, matched);
    if (kept.bytes - before > 200 * 16) base = ms;
    most = Math.max(most, ms + 3000 - base);
  }
  expect(most).toBeGreaterThan(50_000);
  expect(most).toBeLessThan(AUDIENCE_LIFE);
});
