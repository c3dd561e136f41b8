import { cpSync, rmSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import { Relay } from "../../src/core/relay.js";
import type { Engine } from "../../src/core/engine.js";
import { type Event, type EventDraft, isFor } from "../../src/core/event.js";
import { compareIds, type EventId, ZERO } from "../../src/core/id.js";
import { matchesTopic } from "../../src/core/topics.js";
import { type LmdbOptions, openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { temporaryDirectory } from "../support/directory.js";
import { commit, Listener, readAll } from "../support/engine.js";
import { anySteps, Model } from "../support/model.js";
import { testEngine } from "./conformance.js";
import type { MakeLog } from "./conformance/support.js";
import { relaySettings } from "../support/settings.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };
const SETTINGS = { ...relaySettings(), maxBuffer: 400 };
const TINY = { count: 1, bytes: 2 ** 26 };

for (const [name, window] of [
  ["lmdb", undefined],
  ["lmdb, from disk", TINY],
] as const) {
  const make: MakeLog = async (given) => {
    const directory = temporaryDirectory();
    const engine = await openLmdbEngine({
      directory,
      retention: { ...RETENTION, ...given },
      ...(window && { window }),
    });
    return { open: async () => engine, close: () => engine.close() };
  };
  testEngine(name, make, ["kept receipts", "replies", "cursors", "peers"]);
}

/** An engine, and what stands on the same directory when it was closed and opened again. */
async function reopening(
  options: Partial<LmdbOptions> = {},
): Promise<{ engine: Engine; reopen: () => Promise<Engine> }> {
  const directory = options.directory ?? temporaryDirectory();
  let engine: Engine | undefined;
  const start = async (): Promise<Engine> => {
    await engine?.close();
    engine = await openLmdbEngine({ directory, retention: RETENTION, ...options });
    return engine;
  };
  onTestFinished(async () => engine?.close());
  return { engine: await start(), reopen: start };
}

describe("reads from disk", () => {
  const topic = fc.constantFrom("a", "b", "a.x", "a.y", "a.x.z", "b.x", "ä.ü", "orders.eu.42", "orders.us.42");
  const user = fc.constantFrom<number | string>(1, 2, "1", "bob", "bo", "böb", "a\0b", "x".repeat(128));
  const draft: fc.Arbitrary<EventDraft> = fc.record(
    {
      topic,
      message: fc.jsonValue({ maxDepth: 1, stringUnit: "grapheme" }).map((value) => JSON.stringify(value)),
      users: fc.uniqueArray(user, { minLength: 1, maxLength: 3, selector: String }),
      key: fc.constantFrom("k", "l"),
    },
    { requiredKeys: ["topic", "message"] },
  );
  const query = fc.record({
    topics: fc.uniqueArray(fc.oneof(topic, fc.constantFrom(">", "*", "a.*", "a.>", "orders.*.42", "*.x")), {
      minLength: 1,
      maxLength: 4,
    }),
    user: user.map(String),
    limit: fc.integer({ min: 1, max: 20 }),
    after: fc.integer({ min: 0, max: 60 }),
    until: fc.option(fc.integer({ min: 0, max: 60 }), { nil: undefined }),
  });

  test("what a look at everything would find, and nothing else", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(draft, { minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 8 }),
        fc.array(query, { minLength: 1, maxLength: 10 }),
        async (batches, queries) => {
          const directory = temporaryDirectory();
          const first = await openLmdbEngine({ directory, retention: RETENTION, window: TINY });
          const events: Event[] = [];
          for (const drafts of batches) {
            const { ids } = await first.append(drafts);
            events.push(...ids.map((id, index) => ({ ...(drafts[index] as EventDraft), id, time: id.ms })));
          }
          await first.close();
          const engine = await openLmdbEngine({ directory, retention: RETENTION });
          try {
            const kept = events.filter(
              (event, index) => !events.slice(index + 1).some((later) => replaces(later, event)),
            );
            for (const { topics, user: name, limit, after, until } of queries) {
              const place = (index: number): EventId => events[Math.min(index, events.length - 1)]?.id ?? ZERO;
              const [from, to] = [place(after), until === undefined ? undefined : place(until)];
              const expected = kept
                .filter(({ id }) => compareIds(id, from) > 0 && (!to || compareIds(id, to) <= 0))
                .filter((event) => isFor(event, name) && topics.some((pattern) => matchesTopic(pattern, event.topic)));
              const read = await readAll(engine, { topics, user: name, limit, after: from, until: to });
              expect(read).toEqual(expected);
            }
          } finally {
            await engine.close();
            rmSync(directory, { recursive: true });
          }
        },
      ),
      { numRuns: 80 },
    );
  });

  test("a pattern over thousands of topics reads everything, in order", async () => {
    const { engine, reopen } = await reopening();
    const drafts = Array.from({ length: 3000 }, (_, index) => ({ topic: `t.${index}`, message: String(index) }));
    await engine.append(drafts);
    await engine.append([
      { topic: "other", message: "0" },
      { topic: "t.1", users: [2], message: "0" },
      { topic: "t.x", message: '"last"' },
    ]);
    const again = await reopen();
    const events = await readAll(again, { topics: ["t.*"], user: "1", after: ZERO, limit: 256 });
    const read = events.map(({ message }) => message);
    expect(read).toEqual([...drafts.map(({ message }) => message), '"last"']);
  });
});

test("a directory is not opened twice, and again when it was closed", async () => {
  const directory = temporaryDirectory();
  const options = { directory, retention: RETENTION };
  const first = await openLmdbEngine(options);
  await expect(openLmdbEngine(options)).rejects.toThrow("this process uses it already");
  await first.close();
  await (await openLmdbEngine(options)).close();
});

test("an event that is trimmed has no receipt, also while its block is on disk", async () => {
  const { engine } = await reopening({ retention: { ...RETENTION, count: 4 } });
  const listener = await Listener.on(engine);
  const { ids } = await engine.append(Array.from({ length: 10 }, () => ({ topic: "a", message: "1" })));
  // A commit, which trims.
  await commit(engine);
  expect(listener.floor).toEqual(ids[5]);
  const known = await Promise.all(ids.map(async (id) => (await engine.receipts?.find(id)) !== undefined));
  expect(known).toEqual(ids.map((_, index) => index > 5));
});

function replaces(later: EventDraft, earlier: EventDraft): boolean {
  const users = (event: EventDraft): string | undefined =>
    event.users && JSON.stringify(event.users.map(String).sort());
  const [a, b] = [later, earlier];
  return a.key !== undefined && a.key === b.key && a.topic === b.topic && users(a) === users(b);
}

describe("after a restart", () => {
  test("a client gets exactly what matches after its cursor, in order, once, whatever happens meanwhile", async () => {
    await fc.assert(
      fc.asyncProperty(anySteps(true), async (steps) => {
        const directory = temporaryDirectory();
        let engine = await openLmdbEngine({ directory, retention: RETENTION, window: TINY });
        const home = {
          relay: await Relay.start(engine, SETTINGS),
          restart: async () => {
            await home.relay.stop();
            await engine.close();
            engine = await openLmdbEngine({ directory, retention: RETENTION, window: TINY });
            home.relay = await Relay.start(engine, SETTINGS);
          },
        };
        try {
          const { id, cursor } = await home.relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
          const model = new Model(home, id, cursor);
          for (const action of steps) await model.perform(action);
          await model.finish();
        } finally {
          await home.relay.stop();
          await engine.close();
          rmSync(directory, { recursive: true });
        }
      }),
      { numRuns: 80 },
    );
  });
});

test("a long request with an idempotency key is on disk whole when it is answered, whatever is published meanwhile", async () => {
  const directory = temporaryDirectory();
  const engine = await openLmdbEngine({ directory, retention: RETENTION });
  onTestFinished(() => engine.close());
  const drafts = Array.from({ length: 20_000 }, (_, n) => ({ topic: "long", message: String(n) }));
  const once = { owner: "", key: "k", fingerprint: "f", until: Date.now() + 600_000 };
  const both = [engine.append(drafts, { once }), engine.append(drafts, { once })];
  const others: Promise<unknown>[] = [];
  const timer = setInterval(() => others.push(engine.append([{ topic: "other", message: "1" }])), 1);
  const [first, second] = await Promise.all(both);
  clearInterval(timer);
  // What is there now is what a crash at this moment would leave.
  const copy = `${directory}-copy`;
  cpSync(directory, copy, { recursive: true });
  onTestFinished(() => rmSync(copy, { recursive: true }));
  await Promise.all(others);
  expect(others.length).toBeGreaterThan(1);
  expect(second?.ids).toEqual(first?.ids);
  expect([first?.duplicate, second?.duplicate]).toEqual([undefined, { reply: undefined }]);
  const left = await openLmdbEngine({ directory: copy, retention: RETENTION });
  onTestFinished(() => left.close());
  const found = await readAll(left, { after: ZERO, topics: ["long"], user: "1", limit: 1000 });
  expect(found.map(({ message }) => message)).toEqual(drafts.map(({ message }) => message));
  expect(await left.append(drafts, { once })).toMatchObject({ duplicate: {} });
});
