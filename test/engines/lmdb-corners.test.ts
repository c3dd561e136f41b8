import { cpSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { Clock } from "../../src/core/clock.js";
import type { Engine } from "../../src/core/engine.js";
import type { Event } from "../../src/core/event.js";
import { compareIds, type EventId, formatId, parseId } from "../../src/core/id.js";
import { UNOBSERVED } from "../../src/core/loading.js";
import { Relay } from "../../src/core/relay.js";
import { clientKey, idKey } from "../../src/engines/lmdb/bytes.js";
import { Commits, type CommitSteps } from "../../src/engines/lmdb/commits.js";
import { openDirectory } from "../../src/engines/lmdb/directory.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { Changes, META, openTables, type Tables } from "../../src/engines/lmdb/tables.js";
import { temporaryDirectory } from "../support/directory.js";
import { commit, Listener } from "../support/engine.js";
import { relaySettings } from "../support/settings.js";
import { open, turns } from "../support/sink.js";
import { pong } from "../support/stage.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

afterEach(() => {
  vi.restoreAllMocks();
});

/** A relay on a directory, as often as it is asked for: the one before ends in order. */
function relays(directory = temporaryDirectory(), retention = RETENTION) {
  let stop = async (): Promise<void> => undefined;
  onTestFinished(() => stop());
  const start = async (): Promise<{ relay: Relay; engine: Engine }> => {
    await stop();
    const engine = await openLmdbEngine({ directory, retention });
    const relay = await Relay.start(engine, relaySettings());
    stop = async () => {
      stop = async () => undefined;
      await relay.stop();
      await engine.close();
    };
    return { relay, engine };
  };
  return { directory, start, stop: () => stop() };
}

async function edit(directory: string, change: (tables: Tables) => Promise<void>): Promise<void> {
  const root = await openDirectory(directory, UNOBSERVED);
  try {
    await change(openTables(root));
  } finally {
    await root.close();
  }
}

async function publish(relay: Relay, more: object = {}): Promise<EventId> {
  const [reply] = await relay.publisher.publish([{ topic: "a", message: "1", ...more }]);
  return parseId(reply?.id ?? "") as EventId;
}

async function stateOf(relay: Relay, id: EventId): Promise<string | undefined> {
  return (await relay.publisher.receipt(id)).deliveries?.[0]?.state;
}

/** Makes the rows of a directory look as a relay of version 3 wrote them. */
async function asVersion3(directory: string, client: string): Promise<void> {
  await edit(directory, async ({ meta, cursors }) => {
    const { origin, head, floor, count } = JSON.parse(String(meta.get(META))) as Record<string, unknown>;
    await meta.put(META, Buffer.from(JSON.stringify({ origin, head, floor, count })));
    await cursors.put(clientKey(client), Buffer.from(cursors.get(clientKey(client))?.subarray(0, 24) ?? []));
  });
  writeFileSync(join(directory, "VERSION"), "topic-relay 3\n");
}

describe("an upgrade from version 3", () => {
  test("takes clients that many events had passed by, and can write their rows", { timeout: 20_000 }, async () => {
    const { directory, start, stop } = relays();
    const { relay } = await start();
    const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
    // Of one key, each replaces the one before: all but the last pass by a client that is away.
    const events: EventId[] = [];
    for (let n = 0; n < 300; n++) {
      events.push(await publish(relay, { key: "price" }));
      // Something else comes between them.
      await publish(relay, { topic: "other" });
    }
    pong(await opened(relay, id));
    await relay.connections.keepProgress();
    await stop();
    await asVersion3(directory, id);
    await edit(directory, async ({ missed, replaced }) => {
      await replaced.clearAsync();
      for (const event of events.slice(0, -1)) {
        await missed.put(Buffer.concat([idKey(event), clientKey(id)]), Buffer.alloc(0));
      }
    });
    const after = await start();
    // The client comes back: nothing else.
    await opened(after.relay, id);
    await expect(commit(after.engine)).resolves.toBeUndefined();
    await expect(publish(after.relay, { topic: "other" })).resolves.toBeDefined();
  });

  test("starts at once, however many events had passed a client by", { timeout: 60_000 }, async () => {
    const { directory, start, stop } = relays();
    const { relay, engine } = await start();
    const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
    const drafts = Array.from({ length: 12_000 }, () => ({ topic: "a", message: "1", key: "price" }));
    // Others come between them: each second one had passed the client by.
    const { ids } = await engine.append(drafts);
    pong(await opened(relay, id));
    await relay.connections.keepProgress();
    await stop();
    await asVersion3(directory, id);
    await edit(directory, async ({ missed }) => {
      for (const [index, event] of ids.entries()) {
        if (index % 2 === 0) await missed.put(Buffer.concat([idKey(event), clientKey(id)]), Buffer.alloc(0));
      }
    });
    const began = performance.now();
    await start();
    expect(performance.now() - began).toBeLessThan(1000);
  });

  test("does not forget with the second start that a client had confirmed an event", async () => {
    const { directory, start, stop } = relays();
    const { relay } = await start();
    const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
    const event = await publish(relay, { ttl: 4 });
    const opened1 = await opened(relay, id);
    pong(opened1);
    await relay.connections.keepProgress();
    await relay.connections.closed(opened1.connection);
    await stop();
    await asVersion3(directory, id);
    const first = await start();
    expect(await stateOf(first.relay, event)).toBe("confirmed");
    await pause(4000);
    // It was confirmed before its time was up: "this stays".
    expect(await stateOf(first.relay, event)).toBe("confirmed");
    const second = await start();
    expect(await stateOf(second.relay, event)).toBe("confirmed");
  });
});

async function opened(relay: Relay, id: string, options?: Parameters<typeof open>[2]) {
  const result = await open(relay, id, options);
  await turns(20);
  return result;
}

describe("no gap is said for an event that one of ttl 0 has replaced", () => {
  const draft = (more: object = {}) => ({ topic: "other", message: "1", ...more });

  test("when the floor stands within its block", async () => {
    const directory = temporaryDirectory();
    const engine = await openLmdbEngine({ directory, retention: { ...RETENTION, count: 10 } });
    onTestFinished(() => engine.close());
    const listener = await Listener.on(engine);
    // One block.
    await engine.append([draft({ topic: "a", key: "k" }), ...Array.from({ length: 9 }, () => draft())]);
    await engine.append([draft({ topic: "a", key: "k", ttl: 0 })]);
    expect(await listener.misses(["a"])).toBe(false);
    await engine.append(Array.from({ length: 5 }, () => draft()));
    await commit(engine, 3);
    expect(await listener.misses(["a"])).toBe(false);
    await engine.append(Array.from({ length: 9 }, () => draft()));
    await commit(engine, 3);
    // The block is gone.
    expect(await listener.misses(["a"])).toBe(false);
  });

  test("when it is trimmed with the commit that brings the replacement", async () => {
    const directory = temporaryDirectory();
    const engine = await openLmdbEngine({ directory, retention: { ...RETENTION, count: 1 } });
    onTestFinished(() => engine.close());
    const listener = await Listener.on(engine);
    await engine.append([draft({ topic: "a", key: "k" })]);
    await engine.append([draft({ topic: "a", key: "k", ttl: 0 }), draft(), draft()]);
    await commit(engine, 3);
    expect(await listener.misses(["a"])).toBe(false);
  });

  test("when it had replaced another one, and the floor stands within their block", async () => {
    const directory = temporaryDirectory();
    const engine = await openLmdbEngine({ directory, retention: { ...RETENTION, count: 10 } });
    onTestFinished(() => engine.close());
    const listener = await Listener.on(engine);
    const first = draft({ topic: "a", key: "k" });
    await engine.append([first, ...Array.from({ length: 8 }, () => draft()), first]);
    await engine.append([draft({ topic: "a", key: "k", ttl: 0 })]);
    await engine.append(Array.from({ length: 5 }, () => draft()));
    await commit(engine, 3);
    expect(await listener.misses(["a"])).toBe(false);
  });
});

/** A wall clock that is set, and one that nobody sets. */
function fakeTime() {
  const wallNow = Date.now.bind(Date);
  const steadyNow = performance.now.bind(performance);
  const moved = { wall: 0, steady: 0 };
  vi.spyOn(Date, "now").mockImplementation(() => wallNow() + moved.wall);
  vi.spyOn(performance, "now").mockImplementation(() => steadyNow() + moved.steady);
  return {
    set: (by: number) => void (moved.wall += by),
    pass: (by: number) => {
      moved.wall += by;
      moved.steady += by;
    },
  };
}

describe("the clock", () => {
  test("small steps back do not make anything last longer", () => {
    let [wall, steady] = [1_800_000_000_000, 0];
    const clock = new Clock(
      0,
      () => wall,
      () => steady,
    );
    const start = clock.now();
    // Each second, something sets the machine's clock back by most of it.
    for (let second = 0; second < 600; second++) {
      wall += 1000 - 900;
      steady += 1000;
      clock.now();
    }
    // Ten minutes have passed.
    expect(clock.now() - start).toBeGreaterThan(590_000);
  });

  test("quick restarts do not move it ahead", { timeout: 30_000 }, async () => {
    const directory = temporaryDirectory();
    for (let n = 0; n < 12; n++) {
      const engine = await openLmdbEngine({ directory, retention: RETENTION });
      const ahead = engine.now() - Date.now();
      await engine.append([{ topic: "a", message: "1" }]);
      await engine.close();
      expect(ahead, `at start ${n}`).toBeLessThan(2100);
    }
  });

  test("what is told while the disk is full is not told again with other events under the same ids", async () => {
    const time = fakeTime();
    const directory = temporaryDirectory();
    const first = await openLmdbEngine({ directory, retention: RETENTION });
    await first.append([{ topic: "a", message: "1" }]);
    time.set(-3_600_000);
    await first.append([{ topic: "a", message: "1" }]);
    const full = vi.spyOn(Changes.prototype, "commit").mockRejectedValue(new Error("ENOSPC"));
    const given: string[] = [];
    for (let second = 0; second < 10; second++) {
      time.pass(1000);
      const { ids } = await first.append([{ topic: "a", message: "1", ttl: 0 }]);
      given.push(...ids.map(formatId));
    }
    // A crash.
    const left = `${directory}-left`;
    cpSync(directory, left, { recursive: true });
    onTestFinished(() => rmSync(left, { recursive: true, force: true }));
    full.mockRestore();
    const second = await openLmdbEngine({ directory: left, retention: RETENTION });
    onTestFinished(() => second.close());
    const { ids } = await second.append([{ topic: "a", message: "2" }]);
    const [last, next] = [parseId(given.at(-1) ?? "") as EventId, ids[0] as EventId];
    expect(compareIds(next, last), `${formatId(next)} after ${formatId(last)}`).toBeGreaterThan(0);
    await first.close();
  });

  test("an event's ttl passes while a relay is down whose machine's clock is behind", async () => {
    const time = fakeTime();
    const { start, stop } = relays();
    const { relay } = await start();
    const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
    const event = await publish(relay, { ttl: 60 });
    time.set(-3_600_000);
    await publish(relay);
    await stop();
    time.pass(1_800_000);
    const after = await start();
    expect(await stateOf(after.relay, event)).toBe("expired");
    expect((await opened(after.relay, id)).sink.events).toHaveLength(1);
  });
});

test("what it takes to publish with a key does not grow with what the commit under way replaces", () => {
  const commits = new Commits({} as CommitSteps, () => undefined);
  const event = (ms: number): Event => ({ id: { ms, seq: 0 }, time: ms, topic: "a", message: "1", key: "k" });
  // Requests of 10,000 items each, five at a time.
  for (let ms = 1; ms <= 50_000; ms++) commits.pending.replace(event(ms), { ms: ms + 50_000, seq: 0 }, true);
  const began = performance.now();
  for (let n = 0; n < 1000; n++) commits.isReplaced({ ms: 100_000 + n, seq: 0 });
  expect(performance.now() - began).toBeLessThan(100);
});

describe("an orderly end", () => {
  test("after a full disk is not taken for one that has kept what clients had confirmed", async () => {
    const directory = temporaryDirectory();
    const engine = await openLmdbEngine({ directory, retention: RETENTION });
    const relay = await Relay.start(engine, relaySettings());
    const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
    const event = await publish(relay, { ttl: 5 });
    const connected = await opened(relay, id);
    expect(connected.sink.events).toHaveLength(1);
    await relay.connections.keepProgress();
    const full = vi.spyOn(Changes.prototype, "commit").mockRejectedValue(new Error("ENOSPC"));
    await commit(engine).catch(() => undefined);
    pong(connected);
    expect(await stateOf(relay, event)).toBe("confirmed");
    await relay.stop();
    // The disk has room again just now.
    full.mockRestore();
    await engine.close();
    const next = relays(directory);
    const { relay: after } = await next.start();
    await pause(5000);
    // Nobody can know, so nothing is to be said: or that it was confirmed, which stays.
    expect([undefined, "confirmed"]).toContain(await stateOf(after, event));
  }, 20_000);

  test("does not give the whole ttl again to a client that is away since the end before it", async () => {
    const time = fakeTime();
    const { start } = relays();
    const { relay } = await start();
    const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
    await opened(relay, id);
    let after = await start();
    for (let n = 0; n < 3; n++) {
      time.pass(200_000);
      after = await start();
    }
    // It has been away for ten minutes in which a relay ran.
    await expect(after.relay.clients.get(id)).rejects.toMatchObject({ code: "not_found" });
  });
});
