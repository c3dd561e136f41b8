import { expect, onTestFinished, test } from "vitest";
import type { PublishOptions } from "../../src/core/publisher.js";
import { Relay } from "../../src/core/relay.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { relaySettings } from "../support/settings.js";
import { open } from "../support/sink.js";
import { until } from "../support/turns.js";

/** Several publishers of the same request wait for a client that has the event and has not confirmed it. */
async function stage(signals: readonly (AbortSignal | undefined)[]) {
  const relay = await Relay.start(new MemoryEngine({ age: 3_600_000, count: 1000, bytes: 2 ** 26 }), relaySettings());
  onTestFinished(() => relay.stop());
  const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
  const { sink, connection } = await open(relay, id);
  const publish = async (options: PublishOptions) => {
    const once = { owner: "", key: "k", fingerprint: "f" };
    return (await relay.publisher.publish([{ topic: "a", message: "1" }], { once, ...options }))[0];
  };
  const waiting = signals.map((signal) => publish({ wait: 30_000, signal }));
  const answered = new Set<unknown>();
  for (const one of waiting) void one.then(() => answered.add(one));
  await until(() => sink.pings.length > 0);
  return { waiting, answered, publish, confirm: () => connection.ponged(sink.pings.at(-1) ?? "") };
}

test("a wait that publishers of the same idempotency key share goes on as long as one of them is there", async () => {
  const leaves = new AbortController();
  const { waiting, answered, confirm } = await stage([leaves.signal, new AbortController().signal]);
  leaves.abort();
  await new Promise(setImmediate);
  expect(answered.size).toBe(0);
  confirm();
  expect(await waiting[1]).toMatchObject({ sent: 1, confirmed: 1, duplicate: true });
});

test("it ends when all of them have gone, and the reply that is kept is what stands then", async () => {
  const gone = [new AbortController(), new AbortController()];
  const { waiting, publish, confirm } = await stage(gone.map(({ signal }) => signal));
  for (const each of gone) each.abort();
  expect(await waiting[0]).toMatchObject({ sent: 1, confirmed: 0 });
  confirm();
  expect(await publish({ wait: 30_000 })).toMatchObject({ sent: 1, confirmed: 0, duplicate: true });
});
