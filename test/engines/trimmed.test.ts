import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import type { Engine } from "../../src/core/engine.js";
import { type Event, type EventDraft, isFor, replacementKey } from "../../src/core/event.js";
import { compareIds, type EventId, parseId } from "../../src/core/id.js";
import { matchesTopic } from "../../src/core/topics.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { temporaryDirectory } from "../support/directory.js";
import { commit, hasTrimmed, Listener } from "../support/engine.js";
import { longestTurn } from "../support/turns.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };
const BUILT = fileURLToPath(new URL("../../dist/", import.meta.url));

function draft(topic: string): EventDraft {
  return { topic, message: "1" };
}

/** What listens to an engine on a directory, and to others on it that come after. */
async function reopening(count: number, bytes = RETENTION.bytes, directory = temporaryDirectory()) {
  let engine: Engine | undefined;
  onTestFinished(() => engine?.close());
  return async (): Promise<Listener> => {
    await engine?.close();
    engine = await openLmdbEngine({ directory, retention: { ...RETENTION, count, bytes } });
    return Listener.on(engine);
  };
}

describe("a reader below the floor is told of a gap exactly if it misses something", () => {
  const published = fc.record(
    {
      topic: fc.constantFrom("a", "b", "a.x", "a.y", "a.x.z", "b.x", "ä.ü", "a."),
      users: fc.uniqueArray(fc.constantFrom<string | number>(1, 2, "bob"), { minLength: 1 }),
      key: fc.constantFrom("k", "l"),
      message: fc.constant("1"),
    },
    { requiredKeys: ["topic", "message"] },
  );
  const query = fc.record({
    after: fc.nat({ max: 40 }),
    topics: fc.uniqueArray(
      fc.constantFrom("a", "b", "a.x", "a.*", "*.x", ">", "*", "a.>", "b.x", "none", "ä.*", "c.*"),
    ),
    user: fc.constantFrom("1", "2", "bob", "eve"),
  });
  const batches = fc.array(fc.array(published, { minLength: 1, maxLength: 10 }), { maxLength: 6 });
  const count = fc.integer({ min: 1, max: 15 });
  type Batches = readonly (readonly EventDraft[])[];
  type Queries = readonly { after: number; topics: string[]; user: string }[];

  /** @param reopen what stands in for a restart */
  async function check(first: Listener, batches: Batches, queries: Queries, reopen = async () => first): Promise<void> {
    const start = first.head;
    const events: Event[] = [];
    /** Events that a later one had replaced before they were trimmed, as far as that is certain. */
    const replacedInTime = new Set<Event>();
    const replaces = (event: Event, index: number): boolean => {
      const key = replacementKey(event);
      return key !== undefined && events.slice(index + 1).some((later) => replacementKey(later) === key);
    };
    for (const drafts of batches) {
      const { ids } = await first.engine.append(drafts);
      await commit(first.engine);
      events.push(...drafts.map((one, index) => ({ ...one, id: ids[index] as EventId, time: 0 })));
      for (const [index, event] of events.entries()) {
        if (compareIds(event.id, first.floor) > 0 && replaces(event, index)) replacedInTime.add(event);
      }
    }
    const last = await reopen();
    for (const { after, topics, user } of queries) {
      const from = events[Math.min(after, events.length) - 1]?.id ?? start;
      const missed = events.filter(
        (event) =>
          compareIds(event.id, from) > 0 &&
          compareIds(event.id, last.floor) <= 0 &&
          isFor(event, user) &&
          topics.some((name) => matchesTopic(name, event.topic)),
      );
      const answer = await hasTrimmed(last.engine, { after: from, topics, user });
      if (missed.some((event) => !replaces(event, events.indexOf(event)))) expect(answer).toBe(true);
      if (missed.every((event) => replacedInTime.has(event))) expect(answer).toBe(false);
    }
  }

  test("on the memory engine", async () => {
    await fc.assert(
      fc.asyncProperty(batches, fc.array(query, { minLength: 10 }), count, async (all, queries, most) => {
        const listener = await Listener.on(new MemoryEngine({ ...RETENTION, count: most }));
        await check(listener, all, queries);
        await listener.leave();
      }),
      { numRuns: 300 },
    );
  });

  test("on the lmdb engine, before and after a restart", async () => {
    await fc.assert(
      fc.asyncProperty(batches, fc.array(query, { minLength: 10 }), count, async (all, queries, most) => {
        const directory = temporaryDirectory();
        const options = { directory, retention: { ...RETENTION, count: most } };
        let engine = await openLmdbEngine(options);
        try {
          const listener = await Listener.on(engine);
          await check(listener, all, queries);
          // On top of what the first round left.
          await check(listener, all, queries, async () => {
            await engine.close();
            return Listener.on((engine = await openLmdbEngine(options)));
          });
        } finally {
          await engine.close();
          rmSync(directory, { recursive: true });
        }
      }),
      { numRuns: 25 },
    );
  });
});

test("the lmdb engine tells a reader what it misses while blocks are being removed, too", async () => {
  const listener = await (await reopening(300))();
  const marks: { id: EventId; topic: string }[] = [];
  const rounds = 80;
  const published = (async () => {
    for (let round = 0; round < rounds; round++) {
      const topic = `mark.${round}`;
      const drafts = Array.from({ length: 60 }, (_, index) => draft(index === 30 ? topic : "other"));
      const { ids } = await listener.engine.append(drafts);
      marks.push({ id: ids[30] as EventId, topic });
    }
  })();
  let asked = 0;
  while (marks.length < rounds) {
    await new Promise(setImmediate);
    // Those that the floor has just passed.
    const trimmed = marks.filter(({ id }) => compareIds(id, listener.floor) <= 0).slice(-3);
    const still = marks.at(-1);
    if (still && compareIds(still.id, listener.floor) > 0) {
      const { floor } = listener;
      const answer = await listener.misses([still.topic]);
      if (listener.floor === floor) expect(answer).toBe(false);
    }
    for (const { topic } of trimmed) {
      asked++;
      expect(await listener.misses([topic, "quiet"])).toBe(true);
      expect(await listener.misses(["mark.*"])).toBe(true);
      expect(await listener.misses(["quiet"])).toBe(false);
    }
  }
  await published;
  expect(asked).toBeGreaterThan(100);
});

test("after kill -9, each trimmed event is missed by its readers and no other is", { timeout: 30_000 }, async () => {
  const directory = temporaryDirectory();
  const program = `
    import { openLmdbEngine } from ${JSON.stringify(join(BUILT, "engines/lmdb/index.js"))};
    const retention = ${JSON.stringify({ ...RETENTION, count: 50 })};
    const engine = await openLmdbEngine({ directory: ${JSON.stringify(directory)}, retention });
    for (let n = 0; ; n++) {
      const many = n % 3 === 0 ? 20 : 1;
      const drafts = Array.from({ length: many }, (_, index) => ({ topic: "t." + n + "." + index, message: "1" }));
      const { ids } = await engine.append(drafts);
      ids.forEach(({ ms, seq }, index) => console.log(drafts[index].topic, ms + "-" + seq));
    }`;
  for (let round = 0; round < 3; round++) {
    const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    onTestFinished(() => void child.kill("SIGKILL"));
    let out = "";
    child.stdout.on("data", (chunk: Buffer) => {
      out += String(chunk);
      if (out.length > 20_000 + round * 777) child.kill("SIGKILL");
    });
    await once(child, "close");
    const lines = out.split("\n").slice(0, -1);
    const engine = await openLmdbEngine({ directory, retention: RETENTION });
    const listener = await Listener.on(engine);
    const { floor, origin } = listener.bounds;
    let before = origin;
    let trimmed = 0;
    for (const line of lines) {
      const [topic = "", text = ""] = line.split(" ");
      const id = parseId(text) as EventId;
      const isTrimmed = compareIds(id, floor) <= 0;
      if (isTrimmed) trimmed++;
      expect(await listener.misses([topic], before), `${line} floor ${floor.ms}-${floor.seq}`).toBe(isTrimmed);
      before = id;
    }
    expect(trimmed).toBeGreaterThan(100);
    expect(lines.length).toBeGreaterThan(trimmed);
    expect(await listener.misses(["quiet", "quiet.*"])).toBe(false);
    await engine.close();
    rmSync(directory, { recursive: true });
  }
});

describe("what is remembered is bounded", () => {
  // The room is a part of the retention's bytes: 64 KiB.
  const bytes = 2 ** 20;
  const round = async ({ engine }: Listener, number: number): Promise<EventId> => {
    const drafts = Array.from({ length: 100 }, (_, index) => draft(`topic.${number}.${index}`));
    const { ids } = await engine.append(drafts);
    await commit(engine);
    return ids.at(-1) as EventId;
  };

  test.each([
    ["memory", async () => async () => Listener.on(new MemoryEngine({ ...RETENTION, count: 10, bytes }))],
    ["lmdb", async () => reopening(10, bytes)],
  ])("%s: beyond, all readers from before are told, and no later ones", async (name, make) => {
    const open = await make();
    let listener = await open();
    const ends: EventId[] = [];
    while (ends.length < 50 && !(await listener.misses(["quiet"]))) ends.push(await round(listener, ends.length));
    expect(ends.length).toBeGreaterThan(2);
    expect(ends.length).toBeLessThan(50);
    for (let more = 0; more < 30; more++) ends.push(await round(listener, ends.length));
    if (name === "lmdb") listener = await open();
    const told: boolean[] = [];
    for (const end of ends) told.push(await listener.misses(["quiet"], end));
    // From one place on nobody is told, and that place moves on.
    const first = told.indexOf(false);
    expect(first).toBeGreaterThan(5);
    expect(first).toBeLessThan(ends.length - 2);
    expect(told.slice(first)).not.toContain(true);
    // From there on everything is known.
    for (let number = first + 1; number < ends.length - 1; number++) {
      const after = ends[number - 1] as EventId;
      expect(await listener.misses([`topic.${number}.7`], after)).toBe(true);
      expect(await listener.misses([`topic.${number}.7`], ends[number])).toBe(false);
      expect(await listener.misses([`topic.${number - 1}.7`], after)).toBe(false);
    }
  });

  test("few topics are remembered for good, however many events they have", async () => {
    const listener = await (await reopening(10, bytes))();
    const { engine } = listener;
    await engine.append([draft("first")]);
    for (let number = 0; number < 40; number++) await engine.append(Array.from({ length: 100 }, () => draft("other")));
    await commit(engine);
    expect(await listener.misses(["first"])).toBe(true);
    expect(await listener.misses(["quiet"])).toBe(false);
  });
});

test.each(["data-directory-1", "data-directory-2"])(
  "of a %s, what it trimmed is not known, and what is trimmed from now on is",
  async (fixture) => {
    const directory = temporaryDirectory();
    const path = fileURLToPath(new URL(`../fixtures/${fixture}`, import.meta.url));
    cpSync(join(path, "VERSION"), join(directory, "VERSION"));
    writeFileSync(join(directory, "data.mdb"), gunzipSync(readFileSync(join(path, "killed.mdb.gz"))));
    const open = await reopening(290, RETENTION.bytes, directory);
    for (const restart of [false, true]) {
      const listener = await open();
      const { engine, bounds } = listener;
      const { floor, origin } = bounds;
      expect(compareIds(floor, origin)).toBeGreaterThan(0);
      if (!restart) await engine.append([draft("now")]);
      await engine.append(Array.from({ length: 400 }, () => draft("other")));
      await commit(engine);
      expect(compareIds(listener.floor, floor)).toBeGreaterThan(0);
      expect(await listener.misses(["quiet"])).toBe(true);
      expect(await listener.misses(["quiet"], floor)).toBe(false);
      if (!restart) expect(await listener.misses(["now"], floor)).toBe(true);
    }
  },
);

test("what another version trimmed meanwhile, which notes nothing, is not known", async () => {
  const directory = temporaryDirectory();
  const open = await reopening(10, RETENTION.bytes, directory);
  const listener = await open();
  const { engine } = listener;
  const { ids } = await engine.append(Array.from({ length: 30 }, () => draft("other")));
  await commit(engine);
  expect(await listener.misses(["quiet"])).toBe(false);
  await engine.close();
  const { openDirectory } = await import("../../src/engines/lmdb/directory.js");
  const { openTables, META } = await import("../../src/engines/lmdb/tables.js");
  const { UNOBSERVED } = await import("../../src/core/loading.js");
  const root = await openDirectory(directory, UNOBSERVED);
  const { meta } = openTables(root);
  const { trimmed: _trimmed, ...state } = JSON.parse(String(meta.get(META))) as Record<string, unknown>;
  await meta.put(META, Buffer.from(JSON.stringify(state)));
  await root.close();
  const again = await open();
  expect(await again.misses(["quiet"])).toBe(true);
  expect(await again.misses(["quiet"], ids[19])).toBe(false);
});

test.each([
  ["memory", async () => Listener.on(new MemoryEngine({ ...RETENTION, count: 1 }))],
  ["lmdb", async () => (await reopening(1))()],
])("%s: no question holds the event loop, and what takes too long is said to be missed", async (_, make) => {
  const listener = await make();
  const { engine } = listener;
  for (let round = 0; round < 20; round++) {
    await engine.append(Array.from({ length: 1000 }, (_, index) => draft(`t.${round}.${index}.end`)));
    await commit(engine, 3);
  }
  const patterns = Array.from({ length: 200 }, (_, index) => `t.*.${index}.none`);
  let answer: boolean | undefined;
  const most = await longestTurn(async () => {
    answer = await listener.misses([...patterns, "*.*.*.other"]);
  });
  expect(most).toBeLessThan(5);
  expect(answer).toBe(true);
  expect(await listener.misses(["quiet.*"], listener.floor)).toBe(false);
});
