import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { open } from "lmdb";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { Counts, Engine, Once } from "../../src/core/engine.js";
import type { EventId } from "../../src/core/id.js";
import { type LmdbOptions, openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { packKey, unpackKey } from "../../src/engines/local/packed-key.js";
import { temporaryDirectory } from "../support/directory.js";
import { commit, Listener } from "../support/engine.js";
import { longestTurn } from "../support/turns.js";

const RETENTION = { age: 3_600_000, count: 1000, bytes: 2 ** 26 };
const MINUTE = 60_000;
const DRAFT = { topic: "a", message: "1" };
const REPLY = [{ matched: 1, sent: 1, waiting: 0 }];

/** Room for three keys and a bit. */
const SMALL = 500;

const engines = {
  memory: async (keyRoom?: number): Promise<Engine> => new MemoryEngine(RETENTION, keyRoom),
  lmdb: (keyRoom?: number): Promise<Engine> => openLmdb(temporaryDirectory(), keyRoom),
};

async function openLmdb(directory: string, keyRoom?: number, options: Partial<LmdbOptions> = {}): Promise<Engine> {
  const engine = await openLmdbEngine({
    directory,
    retention: RETENTION,
    window: { count: 1000, bytes: 2 ** 26 },
    ...(keyRoom !== undefined && { keyRoom }),
    ...options,
  });
  let closed: Promise<void> | undefined;
  const close = engine.close.bind(engine);
  engine.close = () => (closed ??= close());
  onTestFinished(() => engine.close());
  return engine;
}

function onceOf(owner: string, key: string, lasts = 10 * MINUTE): Once {
  return { owner, key, fingerprint: "f", until: Date.now() + lasts };
}

async function publish(engine: Engine, once: Once): Promise<boolean> {
  const { ids, duplicate } = await engine.append([DRAFT], { once });
  if (!duplicate) await engine.replies?.settle(once, ids, REPLY);
  return duplicate !== undefined;
}

/** Sets the clock; engines look at what is old when it is advanced. */
function setClock(now: number): void {
  vi.useFakeTimers({ now, toFake: ["Date", "setInterval", "clearInterval"] });
  onTestFinished(() => void vi.useRealTimers());
}

describe.each(Object.entries(engines))("idempotency keys of %s", (_name, make) => {
  test("a full room refuses its owner alone, says when there is room again, and there is", async () => {
    const engine = await make(SMALL);
    const start = Date.now();
    setClock(start);
    for (const minutes of [3, 5, 7]) await publish(engine, onceOf("a", `${minutes}`, minutes * MINUTE));
    const listener = await Listener.on(engine);
    const refused = { code: "too_many", limit: "idempotency_keys" };
    await expect(publish(engine, onceOf("a", "more"))).rejects.toMatchObject({ ...refused, retryAfter: 180 });
    expect(listener.entries).toEqual([]);
    expect(await publish(engine, onceOf("a", "5"))).toBe(true);
    expect(await publish(engine, onceOf("b", "more"))).toBe(false);
    expect(await publish(engine, onceOf("", "more"))).toBe(false);
    vi.setSystemTime(start + 3 * MINUTE - 1);
    await expect(publish(engine, onceOf("a", "more"))).rejects.toMatchObject({ ...refused, retryAfter: 1 });
    vi.setSystemTime(start + 3 * MINUTE);
    expect(await publish(engine, onceOf("a", "more"))).toBe(false);
    await expect(publish(engine, onceOf("a", "again"))).rejects.toMatchObject({ ...refused, retryAfter: 120 });
  });

  test("owner and key are not mixed up", async () => {
    const engine = await make();
    expect(await publish(engine, onceOf("a:b", "c"))).toBe(false);
    expect(await publish(engine, onceOf("a", "b:c"))).toBe(false);
    expect(await publish(engine, onceOf("", "a:b:c"))).toBe(false);
    expect(await publish(engine, onceOf('a","b', "c"))).toBe(false);
    expect(await publish(engine, onceOf("a", "b:c"))).toBe(true);
  });

  test("a key that has ended may come again, and is then known for its own time", async () => {
    const engine = await make(SMALL);
    const start = Date.now();
    setClock(start);
    await Listener.on(engine);
    for (let round = 0; round < 20; round++) {
      const once = onceOf("a", "k", MINUTE);
      expect(await publish(engine, once)).toBe(false);
      // The engine looks at what is old in each second.
      if (round % 2) vi.advanceTimersByTime(1000);
      await commit(engine);
      expect(await publish(engine, once)).toBe(true);
      vi.setSystemTime(once.until);
    }
  });
});

test.each([
  ["memory", 250],
  ["lmdb", 20],
] as const)("idempotency keys of %s take at most %i bytes of memory each", { timeout: 60_000 }, async (name, most) => {
  const engine = await engines[name]();
  const fill = async (from: number, to: number): Promise<void> => {
    for (let start = from; start < to; start += 1000) {
      await Promise.all(Array.from({ length: 1000 }, (_, index) => publish(engine, onceOf("a", `${start + index}`))));
    }
  };
  await fill(0, 10_000);
  const before = await memoryInUse();
  await fill(10_000, 50_000);
  expect(((await memoryInUse()) - before) / 40_000).toBeLessThan(most);
  expect(await publish(engine, onceOf("a", "20000"))).toBe(true);
});

describe("idempotency keys on disk", () => {
  test("a duplicate is recognized as soon as the first is on disk, whoever reads meanwhile", async () => {
    const engine = await openLmdb(temporaryDirectory());
    await publish(engine, onceOf("a", "0"));
    // There is always a view of the tables from before the commit.
    let reading = setImmediate(read);
    function read(): void {
      void engine.append([DRAFT], { once: onceOf("a", "0") });
      reading = setImmediate(read);
    }
    for (let index = 1; index < 300; index++) {
      const once = onceOf("a", `${index}`);
      const { ids } = await engine.append([DRAFT], { once });
      expect(await engine.append([DRAFT], { once })).toEqual({ ids, duplicate: { reply: undefined } });
      await engine.replies?.settle(once, ids, REPLY);
      expect(await engine.append([DRAFT], { once })).toEqual({ ids, duplicate: { reply: REPLY } });
    }
    clearImmediate(reading);
  });

  test("a room is as full after a restart as it was before", async () => {
    const directory = temporaryDirectory();
    const before = await openLmdb(directory, SMALL);
    for (const key of ["1", "2", "3"]) await publish(before, onceOf("a", key));
    await before.close();
    const after = await openLmdb(directory, SMALL);
    await expect(publish(after, onceOf("a", "4"))).rejects.toMatchObject({ limit: "idempotency_keys" });
    expect(await publish(after, onceOf("a", "3"))).toBe(true);
    expect(await publish(after, onceOf("b", "4"))).toBe(false);
  });

  test("many that end at once are dropped in short turns, and leave nothing behind", { timeout: 60_000 }, async () => {
    const directory = temporaryDirectory();
    const engine = await openLmdb(directory);
    const start = Date.now();
    setClock(start);
    await Listener.on(engine);
    for (let batch = 0; batch < 45; batch++) {
      const owner = `owner-${batch % 3}`;
      await Promise.all(
        Array.from({ length: 1000 }, (_, index) => publish(engine, onceOf(owner, `${batch}.${index}`))),
      );
    }
    vi.setSystemTime(start + 10 * MINUTE);
    const drop = async (): Promise<void> => {
      vi.advanceTimersByTime(1000);
      await commit(engine, 150);
    };
    expect(await longestTurn(drop, 1)).toBeLessThan(10);
    await engine.close();
    expect(await rowsOf(directory)).toEqual({ replies: 0, ends: 0, owners: 0 });
  });

  test("rows of version 2 are found under both names that they may have", async () => {
    const directory = temporaryDirectory();
    await (await openLmdb(directory)).close();
    const ids = [{ ms: 5, seq: 0 }];
    const [until, fingerprint] = [Date.now() + MINUTE, "f"];
    const reply = JSON.stringify([{ id: "5-0", matched: 1, sent: 1, waiting: 0 }]);
    const root = open(directory, { encoding: "binary", keyEncoding: "binary", maxDbs: 32 });
    const old = root.openDB<Buffer, Buffer>("keys", { encoding: "binary", keyEncoding: "binary" });
    const rows = [
      { key: "backend:order:1", fingerprint, until, ids, reply },
      { key: "plain", fingerprint, until, ids },
      { key: "ended", fingerprint, until: Date.now() - 1, ids },
    ];
    for (const [index, row] of rows.entries()) await old.put(Buffer.of(index), Buffer.from(JSON.stringify(row)));
    await root.close();
    const engine = await openLmdb(directory);
    const found = async (owner: string, key: string) => engine.append([DRAFT], { once: onceOf(owner, key) });
    expect(await found("backend", "order:1")).toEqual({ ids, duplicate: { reply: REPLY } });
    expect(await found("", "backend:order:1")).toEqual({ ids, duplicate: { reply: REPLY } });
    expect(await found("", "plain")).toEqual({ ids, duplicate: { reply: undefined } });
    expect(await found("", "ended")).not.toHaveProperty("duplicate");
    await engine.close();
    expect(await rowsOf(directory)).toEqual({ replies: 4, ends: 4, owners: 2 });
  });
});

test("what stands under a key is the same after packing, and takes little", () => {
  const number = fc.oneof(fc.nat(3), fc.nat(2 ** 20), fc.maxSafeNat());
  const counts: fc.Arbitrary<Counts> = fc.record(
    { matched: number, sent: number, waiting: number, confirmed: number },
    { requiredKeys: [] },
  );
  const event = fc.record({ on: fc.boolean(), ms: fc.nat(1000), seq: fc.nat(3), repeats: fc.nat(3), counts });
  const fingerprint = "0123456789abcdef".repeat(2);
  fc.assert(
    fc.property(fc.array(event, { minLength: 1 }), fc.boolean(), (events, hasReply) => {
      const ids: EventId[] = [];
      const reply: Counts[] = [];
      let id = { ms: 1_795_165_200_000, seq: 0 };
      for (const { on, ms, seq, repeats, counts: same } of events) {
        for (let left = repeats; left >= 0; left--) {
          id = on && left === repeats ? { ms: id.ms + 1 + ms, seq } : { ms: id.ms, seq: id.seq + 1 + (left % 2) * seq };
          ids.push(id);
          reply.push(same);
        }
      }
      const known = hasReply ? reply : undefined;
      expect(unpackKey(packKey(fingerprint, ids, known))).toEqual({ fingerprint, ids, reply: known });
    }),
  );
  const batch = Array.from({ length: 10_000 }, (_, n) => ({ ms: 1_795_165_200_000 + (n >> 8), seq: n & 255 }));
  const same = batch.map(() => ({ matched: 1000, sent: 900, waiting: 100 }));
  expect(packKey(fingerprint, batch, same).length).toBeLessThan(250);
});

async function memoryInUse(): Promise<number> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  // What ends with the turn is to be gone.
  for (let round = 0; round < 3; round++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** How many rows there are of idempotency keys, in a directory that nobody has open. */
async function rowsOf(directory: string): Promise<Record<string, number>> {
  const root = open(directory, { encoding: "binary", keyEncoding: "binary", maxDbs: 32 });
  const count = (name: string): [string, number] => {
    const table = root.openDB(name, { encoding: "binary", keyEncoding: "binary" });
    return [name, (table.getStats() as { entryCount: number }).entryCount];
  };
  const counts = Object.fromEntries(["replies", "ends", "owners"].map(count));
  await root.close();
  return counts;
}
