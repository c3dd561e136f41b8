import { afterEach, expect, onTestFinished, test, vi } from "vitest";
import { Relay } from "../../src/core/relay.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { clientRecord, Listener, putClient } from "../support/engine.js";
import { relaySettings } from "../support/settings.js";
import { lineEncoders, MemorySink, turns } from "../support/sink.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

afterEach(() => void vi.restoreAllMocks());

function clientId(index: number): string {
  return index.toString(16).padStart(32, "0");
}

/** From now on each look at the clock ends a turn. */
function everyLookEndsATurn(): void {
  let now = performance.now();
  vi.spyOn(performance, "now").mockImplementation(() => (now += 100));
}

async function addClients(engine: MemoryEngine, node: string, from: number, count: number): Promise<void> {
  for (let index = from; index < from + count; index++) {
    await putClient(engine, clientRecord({ id: clientId(index), node, topics: ["a"], userId: `$${index + 1}` }));
  }
}

test("the clients of a relay that goes while it takes over others are taken over", async () => {
  const engine = new MemoryEngine(RETENTION);
  const gone = await Listener.on(engine);
  const heir = await Listener.on(engine);
  const last = await Listener.on(engine);
  await addClients(engine, gone.node, 0, 20);
  await addClients(engine, heir.node, 20, 20);
  everyLookEndsATurn();
  const leaving = gone.leave();
  // The handing over has come as far as this when its heir goes, too.
  await turns(3);
  const leavingToo = heir.leave();
  await Promise.all([leaving, leavingToo]);
  expect(new Set(last.inherited.map(({ id }) => id)).size).toBe(40);
});

test("counts are true or absent while clients are taken over in several turns", async () => {
  const engine = new MemoryEngine(RETENTION);
  const gone = await Listener.on(engine);
  const heir = await Relay.start(engine, relaySettings());
  const other = await Relay.start(engine, relaySettings());
  onTestFinished(async () => void (await Promise.all([heir.stop(), other.stop()])));
  await addClients(engine, gone.node, 0, 20);
  everyLookEndsATurn();
  const leaving = gone.leave();
  await turns(2);
  vi.restoreAllMocks();
  const [reply] = await other.publisher.publish([{ topic: "a", message: "1" }]);
  await leaving;
  expect([20, undefined]).toContain(reply?.matched);
});

test("no number of an anonymous user is given twice while clients are taken over in several turns", async () => {
  const engine = new MemoryEngine(RETENTION);
  const gone = await Listener.on(engine);
  await addClients(engine, gone.node, 0, 20);
  await gone.leave();
  everyLookEndsATurn();
  const starting = Relay.start(engine, relaySettings());
  await turns(2);
  vi.restoreAllMocks();
  const second = await Relay.start(engine, relaySettings());
  const { userId } = await second.clients.registerAnonymous(60);
  const first = await starting;
  onTestFinished(async () => void (await Promise.all([first.stop(), second.stop()])));
  expect(userId).toBe("$21");
});

test("a relay leaves, however many others publish", async () => {
  const engine = new MemoryEngine({ ...RETENTION, count: 100 });
  const leaving = await Listener.on(engine);
  await Listener.on(engine);
  const drafts = Array.from({ length: 50 }, () => ({ topic: "a", message: "1" }));
  everyLookEndsATurn();
  const publishers = { areAtWork: true };
  const publish = async (): Promise<void> => {
    while (publishers.areAtWork) await engine.append(drafts);
  };
  const publishing = [publish()];
  await turns(5);
  publishing.push(publish());
  await turns(5);
  let hasLeft = false;
  const left = leaving.leave().then(() => (hasLeft = true));
  await turns(1000);
  const inTime = hasLeft;
  publishers.areAtWork = false;
  await Promise.all([...publishing, left]);
  expect(inTime).toBe(true);
});

test("a client of ttl 0 whose relay is gone is forgotten, also when another relay changes it meanwhile", async () => {
  const engine = new MemoryEngine(RETENTION);
  const gone = await Listener.on(engine);
  const heir = await Relay.start(engine, relaySettings());
  const other = await Relay.start(engine, relaySettings());
  onTestFinished(async () => void (await Promise.all([heir.stop(), other.stop()])));
  await putClient(engine, clientRecord({ id: clientId(1), node: gone.node, topics: ["a"], ttl: 0 }));
  await gone.leave();
  await other.clients.change(clientId(1), { add: ["b"] }).catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  expect(heir.clients.count).toBe(0);
});

test("a client that is just connecting to a relay that leaves is held by one that is there", async () => {
  const engine = new MemoryEngine(RETENTION);
  const [leaving, staying] = [await Relay.start(engine, relaySettings()), await Relay.start(engine, relaySettings())];
  onTestFinished(() => staying.stop());
  const { id } = await staying.clients.register({ userId: 1, topics: ["a"], ttl: 1 });
  const find = engine.find.bind(engine);
  vi.spyOn(engine, "find").mockImplementationOnce(async (who) => {
    await leaving.stop();
    return find(who);
  });
  const sink = new MemorySink();
  await leaving.connections.open(id, sink, lineEncoders.json).catch(() => undefined);
  sink.open = false;
  const [reply] = await staying.publisher.publish([{ topic: "a", message: "1" }]);
  const { count } = staying.clients;
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const left = await engine.find({ client: id });
  expect({ matched: reply?.matched, count, left: left.length }).toEqual({ matched: 1, count: 1, left: 0 });
});

test("a client that is just registered at a relay that leaves is held by one that is there", async () => {
  const engine = new MemoryEngine(RETENTION);
  const [leaving, staying] = [await Relay.start(engine, relaySettings()), await Relay.start(engine, relaySettings())];
  onTestFinished(() => staying.stop());
  const ask = engine.peers.ask.bind(engine.peers);
  vi.spyOn(engine.peers, "ask").mockImplementationOnce(async (...asked) => {
    await leaving.stop();
    return ask(...asked);
  });
  const registered = await leaving.clients.register({ userId: 1, topics: ["a"], ttl: 1 }).catch(() => undefined);
  const [reply] = await staying.publisher.publish([{ topic: "a", message: "1" }]);
  expect(reply?.matched).toBe(registered ? 1 : 0);
});

test("the clients of two relays that go one after the other are taken over", async () => {
  const engine = new MemoryEngine(RETENTION);
  const heir = await Listener.on(engine);
  const [one, two] = [await Listener.on(engine), await Listener.on(engine)];
  await addClients(engine, one.node, 0, 8);
  await addClients(engine, two.node, 8, 12);
  await addClients(engine, one.node, 20, 4);
  await addClients(engine, two.node, 24, 8);
  everyLookEndsATurn();
  const leaving = one.leave();
  await turns(5);
  await Promise.all([leaving, two.leave()]);
  expect(new Set(heir.inherited.map(({ id }) => id)).size).toBe(32);
});
