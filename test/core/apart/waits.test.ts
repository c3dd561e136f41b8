import { expect, onTestFinished, test } from "vitest";
import { Relay } from "../../../src/core/relay.js";
import { MemoryEngine } from "../../../src/engines/memory.js";
import { relaySettings } from "../../support/settings.js";
import { open, turns } from "../../support/sink.js";
import { SlowEngine } from "../../support/slow-engine.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

/** A publisher waits here for a client there, which does not confirm. */
async function waiting() {
  const log = new MemoryEngine(RETENTION);
  const [a, b] = [await Relay.start(log, relaySettings()), await Relay.start(log, relaySettings())];
  onTestFinished(async () => void (await Promise.all([a.stop(), b.stop()])));
  const { id } = await b.clients.register({ userId: 1, topics: ["x"], ttl: 300 });
  await open(b, id, { manualAck: true });
  const abort = new AbortController();
  const began = performance.now();
  const publishing = a.publisher.publish([{ topic: "x", message: "1" }], { wait: 2000, signal: abort.signal });
  await turns(20);
  const answered = async (): Promise<number> => {
    await publishing;
    return performance.now() - began;
  };
  return { a, abort, answered };
}

test("a wait ends when nobody is there any more to be answered, also for clients of another relay", async () => {
  const { abort, answered } = await waiting();
  abort.abort();
  expect(await answered()).toBeLessThan(1000);
});

test("a relay that ends answers its publishers that wait, also for clients of another relay", async () => {
  const { a, answered } = await waiting();
  await a.stop();
  expect(await answered()).toBeLessThan(1000);
});

test("a publisher is told of the event that was published, also when another relay dies while it is asked", async () => {
  const log = new MemoryEngine(RETENTION);
  const slow = new SlowEngine(log);
  const a = await Relay.start(log, relaySettings());
  const b = await Relay.start(slow, relaySettings());
  onTestFinished(async () => void (await Promise.all([a.stop(), b.stop().catch(() => undefined)])));
  slow.down.hold();
  const publishing = a.publisher.publish([{ topic: "x", message: "1" }]);
  publishing.catch(() => undefined);
  await turns(20);
  await slow.kill();
  await expect(publishing).resolves.toHaveLength(1);
});
