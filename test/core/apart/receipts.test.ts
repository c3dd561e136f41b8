import { expect, onTestFinished, test, vi } from "vitest";
import { parseId, type EventId } from "../../../src/core/id.js";
import { Relay } from "../../../src/core/relay.js";
import { openLmdbEngine } from "../../../src/engines/lmdb/index.js";
import { MemoryEngine } from "../../../src/engines/memory.js";
import { temporaryDirectory } from "../../support/directory.js";
import { relaySettings } from "../../support/settings.js";
import { open, turns } from "../../support/sink.js";
import { SlowEngine } from "../../support/slow-engine.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

async function publish(relay: Relay, more: object = {}): Promise<EventId> {
  const [reply] = await relay.publisher.publish([{ topic: "x", message: "1", ...more }]);
  return parseId(reply?.id ?? "") as EventId;
}

async function stateAt(relay: Relay, event: EventId): Promise<string | undefined> {
  return (await relay.publisher.receipt(event)).deliveries?.[0]?.state;
}

test("a relay that came after an event says of it what is true, or nothing", async () => {
  const engine = await openLmdbEngine({ directory: temporaryDirectory(), retention: RETENTION });
  const here = await Relay.start(engine, relaySettings());
  const { id } = await here.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  const { connection } = await open(here, id, { manualAck: true });
  const [kept, short] = [await publish(here), await publish(here, { ttl: 1 })];
  const late = await Relay.start(engine, relaySettings());
  onTestFinished(async () => {
    await Promise.all([here.stop(), late.stop()]);
    await engine.close();
  });
  const before = await stateAt(late, kept);
  await new Promise((resolve) => setTimeout(resolve, 1100));
  const after = await stateAt(late, short);
  connection.ack(short);
  expect(await stateAt(here, kept)).toBe("confirmed");
  expect(await stateAt(here, short)).toBe("confirmed");
  // It says `waiting` of what was sent, and `expired` of what is confirmed a moment later.
  expect({ before, after }).toEqual({
    before: expect.toBeOneOf(["sent", undefined]),
    after: expect.toBeOneOf(["sent", undefined]),
  });
});

test("an event is not said to be expired that another relay has sent to the client that moved there", async () => {
  const log = new MemoryEngine(RETENTION);
  const [a, b] = [await Relay.start(log, relaySettings()), await Relay.start(log, relaySettings())];
  onTestFinished(async () => void (await Promise.all([a.stop(), b.stop()])));
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  const event = await publish(a, { ttl: 1 });
  const { sink, connection } = await open(b, id, { manualAck: true });
  await turns(20);
  expect(sink.events).toHaveLength(1);
  await new Promise((resolve) => setTimeout(resolve, 1100));
  const state = await stateAt(a, event);
  connection.ack(event);
  await b.connections.keepProgress();
  expect(await stateAt(a, event)).toBe("confirmed");
  expect(["sent", undefined]).toContain(state);
});

test("an event is not said to be sent that was replaced when it was read, before this relay followed that", async () => {
  const log = new MemoryEngine(RETENTION);
  const slow = new SlowEngine(log);
  const a = await Relay.start(slow, relaySettings());
  onTestFinished(() => a.stop());
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  const event = await publish(a, { key: "k" });
  // So many that the tail does not have the event any more.
  for (let round = 0; round < 30; round++) {
    await a.publisher.publish(Array.from({ length: 100 }, () => ({ topic: "y", message: "1" })));
  }
  // A reading may come sooner than an entry that was ordered before it: the contract binds only `append` and `find`.
  vi.spyOn(slow, "read").mockImplementationOnce(async (query) => {
    slow.down.hold();
    await log.append([{ topic: "x", message: "2", key: "k" }]);
    return log.read(query);
  });
  const { sink, connection } = await open(a, id, { manualAck: true });
  await turns(100);
  connection.ack(connection.position);
  slow.down.release();
  await turns(20);
  expect(sink.events.map(({ message }) => message)).toEqual([2]);
  connection.ack(connection.position);
  expect(["expired", undefined]).toContain(await stateAt(a, event));
});

test("an event does not wait for a client that has moved to another relay and was removed there", async () => {
  const log = new MemoryEngine(RETENTION);
  const [a, b] = [await Relay.start(log, relaySettings()), await Relay.start(log, relaySettings())];
  onTestFinished(async () => void (await Promise.all([a.stop(), b.stop()])));
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  const event = await publish(a);
  const { connection } = await open(b, id, { manualAck: true });
  await turns(20);
  connection.ack(event);
  await b.clients.remove(id);
  expect(["confirmed", undefined]).toContain(await stateAt(a, event));
});
