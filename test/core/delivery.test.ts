import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { Relay } from "../../src/core/relay.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { anySteps, idOf, Model } from "../support/model.js";
import { open, type Opened, turns } from "../support/sink.js";
import { relaySettings } from "../support/settings.js";

const ROOMY = { age: 3_600_000, count: 1_000_000, bytes: 1_000_000_000 };

// Little, so that it overflows.
const SETTINGS = { ...relaySettings(), maxBuffer: 400 };

test("a client gets exactly what matches after its cursor, in order, once, whatever happens meanwhile", async () => {
  await fc.assert(
    fc.asyncProperty(anySteps(false), async (steps) => {
      const relay = await Relay.start(new MemoryEngine(ROOMY), SETTINGS);
      try {
        const { id, cursor } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
        const model = new Model({ relay, restart: async () => undefined }, id, cursor);
        for (const action of steps) await model.perform(action);
        await model.finish();
      } finally {
        await relay.stop();
      }
    }),
    { numRuns: 300 },
  );
});

test("readers that got the same share one buffer, written once per turn", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), relaySettings());
  const opened: Opened[] = [];
  const writes: Buffer[] = [];
  for (let user = 1; user <= 3; user++) {
    const { id } = await relay.clients.register({ userId: user, topics: ["a"], ttl: 300 });
    const one = await open(relay, id);
    await turns();
    const { sink } = one;
    const write = sink.write.bind(sink);
    sink.write = (bytes) => {
      writes.push(bytes);
      write(bytes);
    };
    opened.push(one);
  }
  await relay.publisher.publish([1, 2, 3].map((n) => ({ topic: "a", message: String(n) })));
  expect(writes).toHaveLength(3);
  expect(new Set(writes).size).toBe(1);
  for (const { sink } of opened) expect(sink.events.map(({ message }) => message)).toEqual([1, 2, 3]);
  await relay.stop();
});

test("readers that got the same share one buffer, also of a long burst while their pongs are on the way", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), relaySettings());
  onTestFinished(() => relay.stop());
  const writes: Buffer[] = [];
  for (let user = 1; user <= 3; user++) {
    const { id } = await relay.clients.register({ userId: user, topics: ["a"], ttl: 300 });
    const { sink } = await open(relay, id);
    await turns();
    sink.write = (bytes) => void writes.push(bytes);
  }
  // A ping goes along, and is not answered yet.
  await relay.publisher.publish([{ topic: "a", message: "0" }]);
  // Clients differ in what they got since their last ping.
  const own = [2, 3, 3].map((userId) => ({ users: [userId], topic: "a", message: "0" }));
  await relay.publisher.publish(own);
  writes.length = 0;
  await relay.publisher.publish(Array.from({ length: 1000 }, (_, index) => ({ topic: "a", message: String(index) })));
  const bytes = [...new Set(writes)].reduce((sum, { length }) => sum + length, 0);
  const all = writes.reduce((sum, { length }) => sum + length, 0);
  expect(bytes / all).toBeCloseTo(1 / 3);
});

test("many topic changes while a client is away lose nothing that it is owed", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), relaySettings());
  const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
  for (let round = 0; round < 200; round++) await relay.clients.change(id, { set: [`t${round}`] });
  await relay.publisher.publish([
    { topic: "t199", message: "1" },
    { topic: "a", message: "2" },
  ]);
  const { sink } = await open(relay, id);
  await turns();
  expect(sink.frames[0]?.data?.["gap"]).toBe(false);
  expect(sink.events.map(({ message }) => message)).toEqual([1]);
  await relay.stop();
});

test("a client that goes back while its topics are being changed stays where it went", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), relaySettings());
  const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
  const [first] = await relay.publisher.publish([{ topic: "a", message: "1" }]);
  const had = await open(relay, id);
  had.connection.ack(idOf(first?.id));
  await relay.connections.closed(had.connection);
  await relay.clients.change(id, { set: ["a", "b"] });
  await relay.publisher.publish([{ topic: "other", message: "2" }]);
  const changed = relay.clients.change(id, { set: ["a", "c"] });
  const back = await open(relay, id, { since: "start" });
  await relay.connections.closed(back.connection);
  await changed;
  const { sink } = await open(relay, id);
  await turns();
  expect(sink.events.map(({ message }) => message)).toEqual([1]);
  await relay.stop();
});

test("many topic changes lose nothing that a client is owed from before, also when it is connected and does not read", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), relaySettings());
  onTestFinished(() => relay.stop());
  const [away, stalled] = await Promise.all(
    [1, 2].map((userId) => relay.clients.register({ userId, topics: ["a"], ttl: 300 })),
  );
  const { sink, connection } = await open(relay, stalled?.id ?? "");
  await turns();
  sink.stalled = true;
  await relay.publisher.publish([{ topic: "a", message: '"owed"' }]);
  for (let round = 0; round < 1000; round++) {
    for (const client of [away, stalled]) await relay.clients.change(client?.id ?? "", { set: [`t${round}`] });
    // Now and then it is owed something else.
    if (round % 20 === 0) await relay.publisher.publish([{ topic: `t${round}`, message: String(round) }]);
  }
  await relay.connections.closed(connection);
  const owed = ["owed", ...Array.from({ length: 50 }, (_, index) => index * 20)];
  for (const client of [away, stalled]) {
    const back = await open(relay, client?.id ?? "");
    await turns(200);
    expect(back.sink.frames[0]?.data?.["gap"]).toBe(false);
    expect(back.sink.events.map(({ message }) => message)).toEqual(owed);
  }
});

test("more changes than can wait are said on an open connection too, at the place where something is missing", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), { ...relaySettings(), maxBuffer: 400 });
  onTestFinished(() => relay.stop());
  const { id } = await relay.clients.register({ userId: 1, topics: ["t"], ttl: 300 });
  const { sink } = await open(relay, id);
  await turns();
  sink.stalled = true;
  for (let round = 0; round < 400; round++) {
    await relay.publisher.publish([{ topic: "t", message: String(round) }]);
    await relay.clients.change(id, { set: round % 2 ? ["t"] : ["t", "u"] });
  }
  sink.resume();
  await turns(2000);
  const said = sink.frames.map((frame) => (frame.type === "event" ? "event" : frame.data?.["event"]));
  expect(said.filter((what) => what === "gap")).toEqual(["gap"]);
  const got = sink.events.map(({ message }) => Number(message));
  const missing = 400 - got.length;
  const gap = said.indexOf("gap") - 1;
  expect(got).toEqual(Array.from({ length: got.length }, (_, index) => (index < gap ? index : index + missing)));
  expect(missing).toBeGreaterThan(0);
  expect(missing).toBeLessThan(150);
});

test("more changes than can wait, each with something owed, are said as a gap", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), relaySettings());
  const { id } = await relay.clients.register({ userId: 1, topics: ["t"], ttl: 300 });
  for (let round = 0; round < 300; round++) {
    await relay.publisher.publish([{ topic: "t", message: String(round) }]);
    await relay.clients.change(id, { set: round % 2 ? ["t"] : ["t", "u"] });
  }
  const { sink } = await open(relay, id);
  await turns(600);
  expect(sink.frames[0]?.data?.["gap"]).toBe(true);
  expect(sink.events.map(({ message }) => message)).toEqual(Array.from({ length: 255 }, (_, index) => index + 45));
  await relay.stop();
});

async function relayWith(topics: string[], retention = ROOMY) {
  const relay = await Relay.start(new MemoryEngine(retention), relaySettings());
  onTestFinished(() => relay.stop());
  const { id } = await relay.clients.register({ userId: 1, topics, ttl: 300 });
  const state = async (event: string | undefined) => {
    const { deliveries } = await relay.publisher.receipt(idOf(event));
    return deliveries?.map((delivery) => delivery.state);
  };
  return { relay, id, state };
}

test("a replay that is interrupted goes on where it was", async () => {
  const { relay, id } = await relayWith(["a"]);
  const [first] = await relay.publisher.publish([
    { topic: "a", message: "1" },
    { topic: "a", message: "2" },
  ]);
  const one = await open(relay, id);
  await turns();
  one.connection.ponged(one.sink.pings.at(-1) ?? "");
  const two = await open(relay, id, { since: { id: idOf(first?.id) } });
  await turns();
  expect(two.sink.events.map(({ message }) => message)).toEqual([2]);
  await relay.clients.change(id, { add: ["b"] });
  await relay.connections.closed(two.connection);
  const three = await open(relay, id);
  await turns();
  expect(three.sink.events.map(({ message }) => message)).toEqual([2]);
});

test("what is not delivered is not called confirmed: beyond the log, before it, never kept, replaced, left out", async () => {
  const { relay, id, state } = await relayWith(["a"], { ...ROOMY, count: 3 });
  const publish = async (more: object = {}) =>
    (await relay.publisher.publish([{ topic: "a", message: "1", ...more }]))[0]?.id;
  const beyond = await publish();
  const ahead = await open(relay, id, { since: { id: { ms: 9e12, seq: 0 } } });
  await turns();
  // Until it confirms that it was told of the gap, the next connection gets it.
  expect(await state(beyond)).toEqual(["waiting"]);
  ahead.connection.ponged(ahead.sink.pings.at(-1) ?? "");
  expect(await state(beyond)).toEqual(["expired"]);
  await relay.connections.closed((await open(relay, id)).connection);
  const trimmed = await publish();
  for (let n = 0; n < 3; n++) await publish();
  expect(await state(trimmed)).toEqual(["expired"]);
  const { sink, connection } = await open(relay, id);
  await turns();
  connection.ponged(sink.pings.at(-1) ?? "");
  expect(await state(trimmed)).toEqual(["expired"]);
  const never = await publish({ ttl: 0 });
  const replaced = await publish({ key: "k" });
  await publish({ key: "k" });
  expect([await state(never), await state(replaced)]).toEqual([["sent"], ["sent"]]);
  await relay.connections.closed(connection);
  const again = await open(relay, id);
  await turns();
  again.connection.ponged(again.sink.pings.at(-1) ?? "");
  expect([await state(never), await state(replaced)]).toEqual([["expired"], ["expired"]]);
});

test("what is written to a socket that is closing is not sent, and comes with the next connection", async () => {
  const { relay, id } = await relayWith(["a"]);
  const one = await open(relay, id);
  await turns();
  one.sink.open = false;
  const [reply] = await relay.publisher.publish([{ topic: "a", message: "1" }]);
  expect(reply).toMatchObject({ matched: 1, sent: 0, waiting: 1 });
  await relay.connections.closed(one.connection);
  const two = await open(relay, id);
  await turns();
  expect(two.sink.events.map(({ message }) => message)).toEqual([1]);
});

test("events of one request that replace each other are counted as what they are", async () => {
  const { relay } = await relayWith(["a"]);
  const draft = { topic: "a", message: "1", key: "k" };
  expect(await relay.publisher.publish([draft, draft])).toMatchObject([
    { matched: 1, sent: 0, waiting: 0 },
    { matched: 1, sent: 0, waiting: 1 },
  ]);
});

test("a hundred thousand frames in one turn are no harm", async () => {
  const { relay, id } = await relayWith(["a"]);
  const { sink } = await open(relay, id);
  await turns();
  const drafts = Array.from({ length: 20_000 }, (_, n) => ({ topic: "a", message: String(n) }));
  await Promise.all(Array.from({ length: 5 }, () => relay.publisher.publish(drafts)));
  for (let turn = 0; turn < 1000 && sink.events.length < 100_000; turn++) await turns(1);
  expect(sink.events).toHaveLength(100_000);
});

test("a gap that came about while a client was away is said, also when its topics were changed since", async () => {
  const relay = await Relay.start(new MemoryEngine({ ...ROOMY, count: 2 }), relaySettings());
  const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
  await relay.publisher.publish([{ topic: "a", message: "1" }]);
  await relay.clients.change(id, { set: ["b"] });
  await relay.publisher.publish([1, 2, 3].map((n) => ({ topic: "z", message: String(n) })));
  await relay.clients.change(id, { add: ["c"] });
  const { sink } = await open(relay, id);
  await turns();
  expect(sink.frames[0]?.data?.["gap"]).toBe(true);
  await relay.stop();
});
