import { expect, onTestFinished, test, vi } from "vitest";
import { Relay } from "../../../src/core/relay.js";
import { MemoryEngine } from "../../../src/engines/memory.js";
import { relaySettings } from "../../support/settings.js";
import { open, turns } from "../../support/sink.js";
import { SlowEngine } from "../../support/slow-engine.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

test("progress that the log knows is not forgotten when another relay changes the client, and its relay dies", async () => {
  const log = new MemoryEngine(RETENTION);
  const slow = new SlowEngine(log);
  const a = await Relay.start(slow, relaySettings());
  const b = await Relay.start(log, relaySettings());
  onTestFinished(async () => void (await Promise.all([a.stop().catch(() => undefined), b.stop()])));
  const { id } = await a.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  const { sink, connection } = await open(a, id, { manualAck: true });
  await a.publisher.publish([{ topic: "x", message: "1" }]);
  expect(sink.events).toHaveLength(1);
  const find = log.find.bind(log);
  vi.spyOn(log, "find").mockImplementationOnce(async (who) => {
    const found = await find(who);
    // While the other relay waits for the answer, as on a slow disk.
    connection.ack(connection.position);
    await a.connections.keepProgress();
    return found;
  });
  const cursor = async () => (await find({ client: id }))[0]?.cursor;
  await b.clients.change(id, { add: ["y"] });
  await slow.kill();
  expect(await cursor()).toEqual(connection.position);
  const again = await open(b, id, { manualAck: true });
  await turns(20);
  expect(again.sink.events).toEqual([]);
});
