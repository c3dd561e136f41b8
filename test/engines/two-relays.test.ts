import { expect, onTestFinished, test, vi } from "vitest";
import { type EventId, parseId } from "../../src/core/id.js";
import { Relay } from "../../src/core/relay.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { relaySettings } from "../support/settings.js";
import { testTwoRelays } from "./two-relays.js";
import { sameProcess } from "./two-relays/site.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

testTwoRelays("in one process", async () => sameProcess(new MemoryEngine(RETENTION)));

test("whom an event matched is not said when a relay goes while the others are asked", async () => {
  const engine = new MemoryEngine(RETENTION);
  const [here, gone] = [await Relay.start(engine, relaySettings()), await Relay.start(engine, relaySettings())];
  onTestFinished(() => here.stop());
  await gone.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
  const [reply] = await here.publisher.publish([{ topic: "a", message: "1" }]);
  expect(reply).toMatchObject({ matched: 1, waiting: 1 });
  const ask = engine.peers.ask.bind(engine.peers);
  vi.spyOn(engine.peers, "ask").mockImplementationOnce(async (...asked) => {
    await gone.stop();
    return ask(...asked);
  });
  const { deliveries } = await here.publisher.receipt(parseId(reply?.id ?? "") as EventId);
  expect(deliveries).toBeUndefined();
});
