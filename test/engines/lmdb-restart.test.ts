import { statSync } from "node:fs";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { Engine } from "../../src/core/engine.js";
import { compareIds, formatId, parseId, type EventId, ZERO } from "../../src/core/id.js";
import { Relay } from "../../src/core/relay.js";
import { type LmdbOptions, openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { temporaryDirectory } from "../support/directory.js";
import { Listener, readAll } from "../support/engine.js";
import { open, turns } from "../support/sink.js";
import { relaySettings } from "../support/settings.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };
const SETTINGS = relaySettings();

interface Stage {
  engine: Engine;
  relay: Relay;
  restart(): Promise<void>;
}

/** A relay on a directory of its own, which can be started anew. */
async function stage(options: Partial<LmdbOptions> = {}): Promise<Stage> {
  const directory = temporaryDirectory();
  const start = async (): Promise<void> => {
    on.engine = await openLmdbEngine({ directory, retention: RETENTION, ...options });
    on.relay = await Relay.start(on.engine, SETTINGS);
  };
  const stop = async (): Promise<void> => {
    await on.relay.stop();
    await on.engine.close();
  };
  const on = { restart: () => stop().then(start) } as Stage;
  await start();
  onTestFinished(stop);
  return on;
}

const registration = { userId: 1, topics: ["a", "b.*"], ttl: 300 };

function idOf(text: string | undefined): EventId {
  return parseId(text ?? "") as EventId;
}

/** Everything that is left in the log for a user. */
async function messages(engine: Engine, topics = [">"], user = "1"): Promise<unknown[]> {
  const events = await readAll(engine, { after: ZERO, topics, user, limit: 1000 });
  return events.map(({ message }) => JSON.parse(message) as unknown);
}

describe("a restart keeps", () => {
  test("the order of ids, also when the clock was set back", async () => {
    const on = await stage();
    const [first] = await on.relay.publisher.publish([{ topic: "a", message: "1" }]);
    const { origin } = (await Listener.on(on.engine)).bounds;
    vi.useFakeTimers({ now: Date.now() - 86_400_000, toFake: ["Date"] });
    onTestFinished(() => void vi.useRealTimers());
    await on.restart();
    const [second] = await on.relay.publisher.publish([{ topic: "a", message: "2" }]);
    await on.relay.clients.register(registration);
    await on.restart();
    const [third] = await on.relay.publisher.publish([{ topic: "a", message: "3" }]);
    const ids = [first, second, third].map((reply) => idOf(reply?.id));
    expect(compareIds(ids[0] as EventId, ids[1] as EventId)).toBeLessThan(0);
    expect(compareIds(ids[1] as EventId, ids[2] as EventId)).toBeLessThan(0);
    expect((await Listener.on(on.engine)).bounds.origin).toEqual(origin);
    expect(await messages(on.engine)).toEqual([1, 2, 3]);
  });

  test("the order of ids over events that were not kept, when the clock was set back", async () => {
    const on = await stage();
    const { id } = await on.relay.clients.register(registration);
    const { sink, connection } = await open(on.relay, id);
    vi.useFakeTimers({ now: Date.now() + 60_000, toFake: ["Date"] });
    onTestFinished(() => void vi.useRealTimers());
    const [brief] = await on.relay.publisher.publish([{ topic: "a", ttl: 0, message: "1" }]);
    connection.ponged(sink.pings.at(-1) ?? "");
    vi.setSystemTime(Date.now() - 300_000);
    await on.restart();
    const [kept] = await on.relay.publisher.publish([{ topic: "a", message: "2" }]);
    expect(compareIds(idOf(brief?.id), idOf(kept?.id))).toBeLessThan(0);
    const again = await open(on.relay, id);
    await turns(20);
    expect(again.sink.events.map(({ message }) => message)).toEqual([2]);
  });

  test("clients as they stood: topics, rooms, what is owed to them, and how long they live", async () => {
    const on = await stage();
    const { id } = await on.relay.clients.register(registration);
    await on.relay.publisher.publish([{ topic: "b.1", message: "1" }]);
    await on.relay.clients.change(id, { set: ["c"], join: "room" });
    const before = await on.relay.clients.get(id);
    await on.restart();
    const after = await on.relay.clients.get(id);
    const { expiresAt = 0 } = after;
    const other = expect.anything() as unknown;
    expect(after).toEqual({ ...before, node: other, version: other, expiresAt });
    // Later by as long as no relay ran.
    const down = expiresAt - (before.expiresAt ?? 0);
    expect(down).toBeGreaterThanOrEqual(0);
    expect(down).toBeLessThan(10_000);
    await on.relay.publisher.publish([
      { topic: "b.1", message: "2" },
      { topic: "c", message: "3" },
    ]);
    const { sink } = await open(on.relay, id);
    await turns(20);
    expect(sink.events.map(({ message }) => message)).toEqual([1, 3]);
    expect(await on.relay.clients.remove(id)).toBe(true);
    await on.restart();
    await expect(on.relay.clients.get(id)).rejects.toMatchObject({ code: "not_found" });
  });

  test("clients that were connected: their clock starts then; but not those whose life was their connection", async () => {
    const on = await stage();
    const { id } = await on.relay.clients.register({ ...registration, ttl: 10 });
    const lobby = await on.relay.clients.registerAnonymous(0);
    await open(on.relay, id);
    await open(on.relay, lobby.id);
    await on.restart();
    const { expiresAt } = await on.relay.clients.get(id);
    expect((expiresAt ?? 0) - Date.now()).toBeGreaterThan(9000);
    await expect(on.relay.clients.get(lobby.id)).rejects.toMatchObject({ code: "not_found" });
  });

  test("cursors: what was confirmed does not come again, what was not does", async () => {
    const on = await stage();
    const { id } = await on.relay.clients.register(registration);
    const { sink, connection } = await open(on.relay, id);
    await on.relay.publisher.publish([{ topic: "a", message: "1" }]);
    await turns();
    connection.ponged(sink.pings.at(-1) ?? "");
    await on.relay.publisher.publish([{ topic: "a", message: "2" }]);
    await on.restart();
    const again = await open(on.relay, id);
    await turns(20);
    expect(again.sink.events.map(({ message }) => message)).toEqual([2]);
  });

  test("that a client was owed nothing, however much was published for others", async () => {
    const on = await stage({ retention: { ...RETENTION, count: 10 } });
    const { id } = await on.relay.clients.register(registration);
    await open(on.relay, id);
    await on.relay.publisher.publish(Array.from({ length: 50 }, () => ({ topic: "other", message: "1" })));
    await on.restart();
    const { sink } = await open(on.relay, id);
    await turns(20);
    expect(sink.frames[0]?.data).toMatchObject({ event: "connected", gap: false });
  });

  test("an idempotency key, with the first reply", async () => {
    const on = await stage();
    await on.relay.clients.register(registration);
    const once = { owner: "o", key: "k", fingerprint: "f" };
    const first = await on.relay.publisher.publish([{ topic: "a", message: "1" }], { once });
    await on.restart();
    const second = await on.relay.publisher.publish([{ topic: "a", message: "1" }], { once });
    expect(second).toEqual([{ ...first[0], duplicate: true }]);
    expect(await messages(on.engine)).toEqual([1]);
    const other = on.relay.publisher.publish([{ topic: "a", message: "2" }], { once: { ...once, fingerprint: "g" } });
    await expect(other).rejects.toMatchObject({ code: "idempotency_key_reused" });
  });

  test("that an event was replaced", async () => {
    const on = await stage();
    await on.relay.publisher.publish([
      { topic: "a", key: "k", message: "1" },
      { topic: "a", message: "2" },
    ]);
    await on.restart();
    await on.relay.publisher.publish([{ topic: "a", key: "k", message: "3" }]);
    expect(await messages(on.engine, ["a"])).toEqual([2, 3]);
    await on.restart();
    expect(await messages(on.engine, ["a"])).toEqual([2, 3]);
  });

  test("events for everyone and for users apart", async () => {
    const on = await stage();
    await on.relay.publisher.publish([
      { topic: "a", message: "1" },
      { topic: "a", users: [1, "bob"], message: "2" },
      { topic: "a", users: ["bo"], message: "3" },
    ]);
    await on.restart();
    expect(await messages(on.engine, ["a"], "bob")).toEqual([1, 2]);
    expect(await messages(on.engine, ["a"], "bo")).toEqual([1, 3]);
    expect(await messages(on.engine, ["a"], "b")).toEqual([1]);
  });
});

describe("receipts after a restart", () => {
  const states = async ({ relay }: Stage, id: string | undefined): Promise<Record<string, string>> => {
    const { deliveries } = await relay.publisher.receipt(idOf(id));
    return Object.fromEntries(deliveries?.map(({ client, state }) => [client, state]) ?? []);
  };

  test("tell what became of an event: confirmed, waiting, gone, and what passed a client by", async () => {
    const on = await stage();
    const [one, two, gone, late] = await Promise.all(
      [1, 2, 3, 4].map((userId) => on.relay.clients.register({ ...registration, userId })),
    );
    const confirm = async (id = ""): Promise<void> => {
      const { sink, connection } = await open(on.relay, id);
      await turns(4);
      connection.ponged(sink.pings.at(-1) ?? "");
    };
    const [event] = await on.relay.publisher.publish([{ topic: "a", message: "1" }]);
    await confirm(one?.id);
    await confirm(gone?.id);
    await on.relay.clients.remove(gone?.id ?? "");
    const skips = await open(on.relay, late?.id ?? "", { since: "now" });
    await on.relay.connections.closed(skips.connection);
    const expected = {
      [one?.id ?? ""]: "confirmed",
      [two?.id ?? ""]: "waiting",
      [gone?.id ?? ""]: "confirmed",
      [late?.id ?? ""]: "expired",
    };
    expect(await states(on, event?.id)).toEqual(expected);
    await on.restart();
    expect(await states(on, event?.id)).toEqual(expected);
    await confirm(two?.id);
    expect(await states(on, event?.id)).toEqual({ ...expected, [two?.id ?? ""]: "confirmed" });
  });

  test("also of events that were replaced or whose time was up before they arrived", async () => {
    const on = await stage();
    const { id } = await on.relay.clients.register(registration);
    const [replaced, , short] = await on.relay.publisher.publish([
      { topic: "a", key: "k", message: "1" },
      { topic: "a", key: "k", message: "2" },
      { topic: "a", ttl: 1, message: "3" },
      { topic: "a", message: "4" },
    ]);
    vi.useFakeTimers({ now: Date.now() + 2000, toFake: ["Date"] });
    onTestFinished(() => void vi.useRealTimers());
    const { sink, connection } = await open(on.relay, id);
    await turns(4);
    expect(sink.events.map(({ message }) => message)).toEqual([2, 4]);
    connection.ponged(sink.pings.at(-1) ?? "");
    await on.restart();
    expect(await states(on, replaced?.id)).toEqual({ [id]: "expired" });
    expect(await states(on, short?.id)).toEqual({ [id]: "expired" });
  });

  test("also of events that were replaced since", async () => {
    const on = await stage();
    const { id } = await on.relay.clients.register(registration);
    const [first] = await on.relay.publisher.publish([{ topic: "a", key: "k", message: "1" }]);
    await on.restart();
    await on.relay.publisher.publish([{ topic: "a", key: "k", message: "2" }]);
    expect(await states(on, first?.id)).toEqual({ [id]: "expired" });
    const { sink, connection } = await open(on.relay, id);
    await turns(20);
    connection.ponged(sink.pings.at(-1) ?? "");
    expect(await states(on, first?.id)).toEqual({ [id]: "expired" });
    await on.restart();
    expect(await states(on, first?.id)).toEqual({ [id]: "expired" });
  });

  test("of hundreds of clients", async () => {
    const on = await stage();
    const clients = await Promise.all(Array.from({ length: 300 }, () => on.relay.clients.register(registration)));
    const replies = await on.relay.publisher.publish(Array.from({ length: 5 }, () => ({ topic: "a", message: "1" })));
    await on.restart();
    for (const { id } of replies) {
      const found = await states(on, id);
      expect(Object.keys(found).sort()).toEqual(clients.map((client) => client.id).sort());
    }
  });
});

test("what is read from disk while the right to it is taken away is not delivered", async () => {
  const on = await stage({ window: { count: 1, bytes: 2 ** 26 } });
  const { id } = await on.relay.clients.register({ ...registration, topics: ["a", "b"] });
  await on.relay.publisher.publish([1, 2, 3, 4].map((n) => ({ topic: n % 2 ? "a" : "b", message: String(n) })));
  // A relay that was not there when they were published has them on disk only.
  await on.restart();
  // A disk that takes its time.
  const read = on.engine.read.bind(on.engine);
  const slow = vi.spyOn(on.engine, "read");
  let answer = (): void => undefined;
  const asked = new Promise<void>((resolve) => {
    slow.mockImplementation(async (query) => {
      const reading = await read(query);
      resolve();
      await new Promise<void>((go) => (answer = go));
      return reading;
    });
  });
  const { sink } = await open(on.relay, id, { since: "start" });
  await asked;
  await on.relay.clients.change(id, {}, { subscribe: ["a"] });
  slow.mockRestore();
  answer();
  await turns(20);
  expect(sink.events.map(({ message }) => message)).toEqual([1, 3]);
});

describe("retention", () => {
  async function publish({ relay }: Stage, count: number, size = 10, atOnce = 100): Promise<void> {
    for (let left = count; left > 0; left -= atOnce) {
      const some = Array.from({ length: Math.min(atOnce, left) }, (_, index) => ({
        topic: "a",
        message: JSON.stringify(`${index}`.padEnd(size, "x")),
      }));
      await relay.publisher.publish(some);
    }
  }

  /** The retention is looked after once in a second, and more often while there is something to write. */
  async function settled(holds: () => Promise<boolean>): Promise<void> {
    const deadline = Date.now() + 10_000;
    while (!(await holds())) {
      if (Date.now() > deadline) throw new Error("did not come to hold");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  for (const window of [undefined, { count: 5, bytes: 2 ** 26 }]) {
    test(`by count, to the event${window ? ", from disk" : ""}`, async () => {
      const on = await stage({ retention: { ...RETENTION, count: 150 }, ...(window && { window }) });
      await publish(on, 1030);
      await settled(async () => (await messages(on.engine)).length === 150);
      await on.restart();
      expect(await messages(on.engine)).toHaveLength(150);
      await publish(on, 20);
      await settled(async () => (await messages(on.engine)).length === 150);
    });
  }

  test("by age, when nothing new comes too; and what is trimmed is a gap", async () => {
    const on = await stage({ retention: { ...RETENTION, age: 60_000 } });
    const { id } = await on.relay.clients.register(registration);
    const listener = await Listener.on(on.engine);
    await publish(on, 10);
    const start = listener.head;
    vi.useFakeTimers({ now: Date.now() + 50_000, toFake: ["Date"] });
    onTestFinished(() => void vi.useRealTimers());
    await publish(on, 5);
    vi.setSystemTime(Date.now() + 30_000);
    await listener.trimmedThrough(start);
    expect(await messages(on.engine)).toHaveLength(5);
    expect(listener.floor).toEqual(start);
    await on.restart();
    expect(await messages(on.engine)).toHaveLength(5);
    const { sink } = await open(on.relay, id);
    await turns(20);
    expect(sink.frames[0]?.data).toMatchObject({ event: "connected", gap: true });
    expect(sink.events).toHaveLength(5);
  });

  test("by bytes: the file stays within the setting however much is published, small or large", async () => {
    const directory = temporaryDirectory();
    const bytes = 8 * 2 ** 20;
    const on = await stage({ directory, retention: { ...RETENTION, bytes } });
    for (const size of [100, 3000, 60_000]) {
      await publish(on, Math.ceil((3 * bytes) / size), size, Math.ceil(120_000 / size));
      expect(statSync(`${directory}/data.mdb`).size).toBeLessThanOrEqual(bytes);
      expect((await messages(on.engine)).length * size).toBeGreaterThan(bytes / 4);
    }
  });

  test("that an event was replaced, when the older one goes with the commit of a newer one", async () => {
    const on = await stage({ retention: { ...RETENTION, count: 10 } });
    const keyed = async (message: string): Promise<unknown> => {
      return on.relay.publisher.publish([{ topic: "a", key: "k", message }]);
    };
    await keyed("1");
    await publish(on, 9);
    await keyed("2");
    await on.restart();
    await keyed("3");
    expect((await messages(on.engine)).filter((message) => typeof message === "number")).toEqual([3]);
  });

  test("of receipts before that of events", async () => {
    const on = await stage({ retention: { ...RETENTION, bytes: 2 * 2 ** 20 } });
    const clients = await Promise.all(Array.from({ length: 900 }, () => on.relay.clients.register(registration)));
    for (let index = 0; index < 300; index++) {
      const { connection } = await open(on.relay, clients[index]?.id ?? "");
      await on.relay.clients.change(clients[index]?.id ?? "", { add: [`other.${index}`, `b.${index}.>`] });
      await on.relay.publisher.publish([{ topic: "a", message: "1" }]);
      await on.relay.connections.closed(connection);
    }
    expect(await messages(on.engine)).toHaveLength(300);
  });

  test("while a pattern over thousands of topics is read: what is missing is said", async () => {
    const on = await stage({ retention: { ...RETENTION, count: 4000 }, window: { count: 10, bytes: 2 ** 26 } });
    const many = (): { topic: string; message: string }[] => {
      return Array.from({ length: 1500 }, (_, index) => ({ topic: `t.${index}`, message: "1" }));
    };
    for (let round = 0; round < 3; round++) await on.relay.publisher.publish(many());
    const listener = await Listener.on(on.engine);
    const { log } = listener;
    const isGap = (position: EventId): boolean => compareIds(position, log.floor) < 0;
    let after = listener.floor;
    const query = { topics: ["t.*"], user: "1", limit: 100_000 };
    const published = Promise.all(Array.from({ length: 3 }, () => on.relay.publisher.publish(many())));
    const ids: EventId[] = [];
    while (compareIds(after, listener.head) < 0 && !isGap(after)) {
      const { events, through } = await log.read({ after, ...query });
      ids.push(...events.map(({ id }) => id));
      after = through;
      // All that comes up to there, or the place where the gap begins.
      expect(ids.every((id) => compareIds(id, after) <= 0)).toBe(true);
    }
    await published;
    expect(isGap(after) || ids.length >= 4000 - 10).toBe(true);
  });

  test("while readers catch up: each gets the end in order, and is told of what it missed", async () => {
    const on = await stage({ retention: { ...RETENTION, count: 500 }, window: { count: 50, bytes: 2 ** 26 } });
    const listener = await Listener.on(on.engine);
    const ids = await Promise.all(Array.from({ length: 20 }, () => on.relay.clients.register(registration)));
    await publish(on, 400);
    const opened = await Promise.all(ids.map(({ id }) => open(on.relay, id)));
    for (const { sink } of opened) sink.stalled = true;
    await publish(on, 3000, 1000);
    for (const { sink } of opened) sink.resume();
    await publish(on, 300);
    const last = formatId(listener.head);
    for (const { sink } of opened) {
      await settled(async () => sink.events.at(-1)?.id === last);
      const got = sink.events.map(({ id }) => idOf(id));
      expect(got.every((id, index) => index === 0 || compareIds(got[index - 1] as EventId, id) < 0)).toBe(true);
      if (got.length < 3700) expect(sink.frames.some(({ data }) => data?.["event"] === "gap")).toBe(true);
    }
  });
});
