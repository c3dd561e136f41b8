import { afterEach, describe, expect, test, vi } from "vitest";
import { setTimeout as delay } from "node:timers/promises";
import type { EventId } from "../../src/core/id.js";
import { compareIds } from "../../src/core/id.js";
import { Changes } from "../../src/engines/lmdb/tables.js";
import { commit, Listener } from "../support/engine.js";
import { MemorySink, open, turns } from "../support/sink.js";
import { pong, Stage } from "../support/stage.js";

afterEach(() => {
  vi.restoreAllMocks();
});

const names = (of: string): string[] => Array.from({ length: 999 }, (_, n) => `${of}${n}.`.padEnd(255, "x"));

describe("what was found before the upgrade was answered, and is old when the connection opens", () => {
  test("a client that goes back meanwhile is sent the replay on the connection that takes over", async () => {
    const stage = await Stage.begin();
    const events = [await stage.publish(), await stage.publish()];
    const first = await stage.connect();
    pong(first);
    await stage.lose(first);
    const { relay, id } = stage;
    // As the routes do it: each of two upgrade requests looks first, and then opens.
    const { gap } = await relay.connections.preview(id);
    const { gap: gapBack } = await relay.connections.preview(id, "start");
    const back = await open(relay, id, { since: "start", gapSaid: gapBack, manualAck: true });
    const last = await open(relay, id, { gapSaid: gap, manualAck: true });
    await turns(20);
    expect(back.sink.closed?.code).toBe(4409);
    const seen = last.sink.events.length;
    await stage.lose(last);
    // Nothing was confirmed since it went back: all of it is owed, on this connection or on the next one.
    const next = await stage.connect({ manualAck: true });
    expect([seen, next.sink.events.length]).toEqual([events.length, events.length]);
  });
});

describe("a history that was lost", () => {
  test("stays a gap for a client that goes back and subscribes to nothing now", async () => {
    const stage = await Stage.begin(["old"]);
    await stage.publish({ topic: "old" });
    const sets = [[...names("a"), "p"], names("b"), names("c"), [...names("a"), "q"]];
    for (const set of sets) await stage.relay.clients.change(stage.id, { set });
    await stage.relay.clients.change(stage.id, {}, { subscribe: ["z"] });
    expect((await stage.relay.connections.preview(stage.id)).gap).toBe(true);
    expect((await stage.relay.connections.preview(stage.id, "start")).gap).toBe(true);
    await stage.lose(await stage.connect({ since: "start", manualAck: true }));
    expect((await stage.relay.connections.preview(stage.id)).gap).toBe(true);
  });

  test("does not keep the relay from telling what is trimmed on the open connection before it", async () => {
    const stage = await Stage.begin(["old"], { count: 300 });
    const listener = await Listener.on(stage.engine);
    const message = JSON.stringify("x".repeat(60_000));
    const early: EventId[] = [];
    for (let n = 0; n < 100; n++) early.push(await stage.publish({ topic: "q", message }));
    stage.id = (await stage.relay.clients.register({ userId: 1, topics: ["old"], ttl: 300 })).id;
    await stage.publish({ topic: "old" });
    const sets = [[...names("a"), "p"], names("b"), names("c"), [...names("a"), "q"]];
    for (let n = 0; n < 160; n++) await stage.publish({ topic: "other" });
    for (const set of sets) await stage.relay.clients.change(stage.id, { set });
    // So there is room for its history besides the replay.
    await stage.relay.clients.change(stage.id, {}, { subscribe: ["q"] });
    const sink = new MemorySink();
    sink.stalled = true;
    const { connection } = await open(stage.relay, stage.id, { since: "start" }, sink);
    await turns(40);
    expect(connection.live).toBe(false);
    for (let n = 0; n < 160; n++) await stage.publish({ topic: "other" });
    await commit(stage.engine, 2);
    expect(compareIds(listener.floor, early.at(-1) as EventId)).toBeGreaterThan(0);
    sink.resume();
    await turns(100);
    expect(connection.live).toBe(true);
    expect(sink.events.length).toBeLessThan(early.length);
    expect(sink.events.length).toBeGreaterThan(0);
    // Some of the replay was trimmed after the connection had begun.
    expect(sink.frames.filter(({ type, data }) => type === "gap" || data?.["event"] === "gap")).not.toEqual([]);
  }, 60_000);
});

test("what was trimmed after a client's last position is no gap, when its many topic changes are all before that", async () => {
  const stage = await Stage.begin(["a"], { count: 20 });
  const listener = await Listener.on(stage.engine);
  for (let n = 0; n < 12; n++) {
    await stage.publish({ topic: n % 2 === 0 ? "a" : "b" });
    await stage.relay.clients.change(stage.id, { set: [n % 2 === 0 ? "b" : "a"] });
  }
  const opened = await stage.connect({ manualAck: true });
  expect(opened.sink.events).toHaveLength(12);
  const { position } = opened.connection;
  await stage.lose(opened);
  const record = await stage.relay.clients.get(stage.id);
  for (let n = 0; n < 60; n++) await stage.publish({ topic: "other" });
  await commit(stage.engine, 2);
  expect(compareIds(listener.floor, position)).toBeGreaterThan(0);
  expect((await listener.log.reach(record, position)).gap).toBe(false);
});

test("a report of progress that fails does not move on a client that has gone back meanwhile", async () => {
  const stage = await Stage.begin();
  await stage.publish();
  await stage.publish();
  const first = await stage.connect();
  pong(first);
  await stage.lose(first);
  await stage.flush();
  const again = await stage.connect();
  await stage.publish();
  again.connection.ping();
  pong(again);
  const full = vi.spyOn(Changes.prototype, "commit").mockRejectedValue(new Error("ENOSPC"));
  const flushed = stage.flush();
  const back = await open(stage.relay, stage.id, { since: "start", manualAck: true });
  await flushed;
  full.mockRestore();
  await turns(20);
  expect(back.sink.events).toHaveLength(3);
  await stage.flush();
  await stage.lose(back);
  expect((await stage.connect({ manualAck: true })).sink.events).toHaveLength(3);
});

describe("an orderly stop", () => {
  test("what a client confirms by its close frame after the relay has parked it is not called expired when the relay is killed then", async () => {
    const stage = await Stage.begin();
    const opened = await stage.connect();
    const replaced = await stage.publish({ key: "k" });
    await stage.publish({ key: "k" });
    expect(opened.sink.events).toHaveLength(2);
    await stage.relay.connections.stop();
    await commit(stage.engine);
    await stage.relay.connections.closed(opened.connection, true);
    expect(await stage.state(replaced)).toBe("confirmed");
    await stage.crash();
    expect(await stage.state(replaced)).not.toBe("expired");
  });

  test("what a client without a ttl confirms by its close frame is confirmed", async () => {
    const stage = await Stage.begin();
    stage.id = (await stage.relay.clients.register({ userId: 2, topics: ["b"], ttl: 0 })).id;
    const opened = await stage.connect();
    const event = await stage.publish({ topic: "b" });
    expect(opened.sink.events).toHaveLength(1);
    await stage.relay.stop();
    await stage.relay.connections.closed(opened.connection, true);
    await stage.relay.connections.keepProgress();
    expect(await stage.state(event)).toBe("confirmed");
  });

  test("the ttl of connected clients does not begin before the relay is back", async () => {
    const stage = await Stage.begin();
    stage.id = (await stage.relay.clients.register({ userId: 1, topics: ["a"], ttl: 1 })).id;
    const opened = await stage.connect();
    await stage.relay.stop();
    // So long the other ends take to close.
    await delay(1200);
    await stage.relay.connections.closed(opened.connection, true);
    await stage.relay.connections.keepProgress();
    await stage.restart();
    await expect(stage.relay.clients.get(stage.id)).resolves.toBeDefined();
  });
});

test("after several quick restarts an event lasts no longer than its ttl", async () => {
  const stage = await Stage.begin();
  for (let n = 0; n < 6; n++) await stage.restart();
  const event = await stage.publish({ ttl: 1 });
  await delay(2500);
  expect(await stage.state(event)).toBe("expired");
}, 30_000);

/** On a connection whose socket is gone by the time it is there: the client goes back, and is sent nothing. */
async function goBack({ relay, id }: Stage): Promise<void> {
  const sink = new MemorySink();
  sink.open = false;
  const { connection } = await open(relay, id, { since: "start" }, sink);
  await relay.connections.closed(connection);
}

test("what was taken with a permission before it could be sent is not confirmed by since, after the client has gone back", async () => {
  const stage = await Stage.begin(["a", "x"]);
  const taken = await stage.publish({ topic: "x" });
  const event = await stage.publish();
  await stage.relay.clients.change(stage.id, {}, { subscribe: ["a", "b"] });
  const first = await stage.connect({ manualAck: true });
  expect(first.sink.events.map(({ topic }) => topic)).toEqual(["a"]);
  await stage.lose(first);
  await stage.lose(await stage.connect({ since: "now" }));
  expect(await stage.states(taken, event)).toEqual(["expired", "expired"]);
  const last = await stage.publish();
  await stage.relay.clients.change(stage.id, { set: ["a", "b"] });
  await goBack(stage);
  await stage.lose(await stage.connect({ since: { id: last }, manualAck: true }));
  expect(await stage.state(taken)).not.toBe("confirmed");
});
