import { expect, onTestFinished, test, vi } from "vitest";
import { type ClientRecord, topicsOf } from "../../../src/core/client.js";
import { Relay } from "../../../src/core/relay.js";
import type { SettingsInput } from "../../../src/config.js";
import { MemoryEngine } from "../../../src/engines/memory.js";
import { relaySettings } from "../../support/settings.js";
import { MemorySink, lineEncoders, open, turns } from "../../support/sink.js";
import { until } from "../../support/turns.js";
import { SlowEngine } from "../../support/slow-engine.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

async function pair(settings: SettingsInput = {}, log = new MemoryEngine(RETENTION)) {
  const engines = [new SlowEngine(log), new SlowEngine(log)] as const;
  const [a, b] = [
    await Relay.start(engines[0], relaySettings(settings)),
    await Relay.start(engines[1], relaySettings(settings)),
  ];
  onTestFinished(async () => {
    for (const engine of engines) engine.down.release();
    await Promise.all([a.stop(), b.stop()]);
  });
  return { log, a, b, slowA: engines[0], slowB: engines[1] };
}

async function topicsIn(log: MemoryEngine, client: string): Promise<readonly string[]> {
  const [record] = await log.find({ client });
  return topicsOf(record as ClientRecord);
}

test("a change that was acknowledged is made, also where the relay has not followed the change before it", async () => {
  const { log, a, b, slowA } = await pair();
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  slowA.down.hold();
  await b.clients.change(id, { set: ["y"] });
  const changing = a.clients.change(id, { set: ["x"] });
  await turns();
  slowA.down.release();
  const changed = await changing;
  expect(topicsOf(changed)).toEqual(["x"]);
  expect(await topicsIn(log, id)).toEqual(["x"]);
});

test("the connection that came last is the one that stays", async () => {
  const { a, b, slowA } = await pair();
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  await open(a, id);
  slowA.down.hold();
  const second = await open(b, id);
  const opening = open(a, id);
  await turns();
  slowA.down.release();
  const third = await opening;
  await turns(20);
  expect(second.sink.closed?.code).toBe(4409);
  expect(third.sink.closed).toBeUndefined();
});

test("of two connections that come at the same time at two relays, one is told that it was replaced", async () => {
  const { a, b, slowA, log } = await pair();
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  const append = log.append.bind(log);
  // The answer to the claim here and the entry of the claim there come in one piece.
  const claimed = vi.spyOn(log, "append").mockImplementationOnce((...args) => {
    slowA.down.hold();
    return append(...args);
  });
  const opening = a.connections.open(id, new MemorySink(), lineEncoders.json);
  await until(() => claimed.mock.calls.length > 0);
  const there = await open(b, id);
  slowA.down.release();
  const result = await opening.then(
    () => "opened",
    ({ code }: { code: string }) => code,
  );
  await turns();
  expect(there.sink.closed).toBeUndefined();
  // The socket is closed with 4404 then: "register anew".
  expect(result).not.toBe("not_found");
});

test("of two requests that remove one client, one has removed it", async () => {
  const { a, b } = await pair();
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  const removed = await Promise.all([b.clients.remove(id), a.clients.remove(id)]);
  expect(removed.filter(Boolean)).toHaveLength(1);
});

test("a relay does not take more clients of a user than it may, when they come at the same time", async () => {
  const { a } = await pair({ maxClientsPerUser: 3 });
  const registering = Array.from({ length: 20 }, () => a.clients.register({ userId: 1, topics: ["x"], ttl: 300 }));
  const results = await Promise.allSettled(registering);
  expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(3);
});

test("a client that is away is found, also where the relay has not followed that it came back elsewhere", async () => {
  const { a, b, slowA } = await pair();
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 5 });
  slowA.down.hold();
  await open(b, id);
  vi.spyOn(slowA, "now").mockImplementation(() => Date.now() + 10_000);
  const getting = a.clients.change(id, { add: ["y"] });
  getting.catch(() => undefined);
  await turns();
  slowA.down.release();
  await expect(getting).resolves.toMatchObject({ id });
});

test("what was confirmed on one relay does not come again on another one", async () => {
  const { a, b } = await pair();
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  const first = await open(a, id, { manualAck: true });
  await a.publisher.publish([{ topic: "x", message: "1" }]);
  const cursor = first.connection.position;
  expect(first.sink.events).toHaveLength(1);
  expect(first.connection.ack(cursor)).toBe(true);
  const second = await open(b, id, { manualAck: true });
  await turns(20);
  expect(second.sink.events).toEqual([]);
});

test("a publisher that waits is told of a confirmation at the relay where the client has moved to", async () => {
  const { a, b } = await pair();
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  await open(a, id, { manualAck: true });
  const publishing = a.publisher.publish([{ topic: "x", message: "1" }], { wait: 500 });
  await turns(20);
  const second = await open(b, id, { manualAck: true });
  await turns(20);
  expect(second.sink.events).toHaveLength(1);
  second.connection.ack(second.connection.position);
  const [reply] = await publishing;
  expect([1, undefined]).toContain(reply?.confirmed);
});
