import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { RelayError } from "../../src/core/errors.js";
import { Relay } from "../../src/core/relay.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { relaySettings } from "../support/settings.js";
import { open } from "../support/sink.js";

const RETENTION = { age: 3_600_000, count: 200, bytes: 2 ** 26 };

function names(count: number, name: string): string[] {
  return Array.from({ length: count }, (_, index) => `${name}.${index}.`.padEnd(100, "x"));
}

test("when the topics of all clients take too much, what a client has can still be taken from it", async () => {
  const relay = await Relay.start(new MemoryEngine(RETENTION), { ...relaySettings(), totalTopics: 1_100_000 });
  onTestFinished(() => relay.stop());
  const topics = names(900, "a");
  const { id } = await relay.clients.register({ userId: 1, topics, ttl: 300 });
  await relay.publisher.publish([{ topic: topics[0] as string, message: "1" }]);
  const fill = async (): Promise<void> => {
    for (;;) await relay.clients.register({ userId: 2, topics: names(100, "b"), ttl: 300 });
  };
  await expect(fill()).rejects.toMatchObject({ code: "too_many", limit: "total_topics" });
  await relay.clients.change(id, { remove: topics.slice(5, 6) });
  await relay.clients.change(id, {}, { subscribe: topics.slice(1) });
  await relay.clients.change(id, {}, { subscribe: [] });
  await expect(relay.clients.change(id, { add: names(900, "c") })).rejects.toBeInstanceOf(RelayError);
});

test(
  "what the topics take is known exactly, whatever clients do and wherever they go",
  { timeout: 60_000 },
  async () => {
    const topics = fc.uniqueArray(
      fc.nat(80).map((number) => `t.${number}`.padEnd(4 + (number % 2) * 60, "x")),
      { maxLength: 60 },
    );
    const step = fc.record({ what: fc.nat(7), which: fc.nat(), where: fc.nat(1), topics, isStalled: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 50, maxLength: 200 }), async (steps) => {
        const engine = new MemoryEngine(RETENTION);
        const relays = [
          await Relay.start(engine, relaySettings()),
          await Relay.start(engine, relaySettings()),
        ] as const;
        const ids: string[] = [];
        for (const { what, which, where, topics: some, isStalled } of steps) {
          const relay = relays[where as 0 | 1];
          const id = ids[which % Math.max(1, ids.length)];
          if (what === 0 || id === undefined) {
            ids.push((await relay.clients.register({ userId: which % 5, topics: some, ttl: 300 })).id);
            continue;
          }
          const { clients, publisher } = relay;
          const steps: (() => Promise<unknown>)[] = [
            () => clients.change(id, { set: some }),
            () => clients.change(id, { add: some.slice(0, 5), remove: some.slice(5) }),
            () => clients.change(id, {}, { subscribe: isStalled ? some : [">"], publish: some }),
            () => clients.change(id, { join: some[0] ?? "x" }),
            () => publisher.publish([{ topic: some[0] ?? "x", message: "1" }]),
            async () => ((await open(relay, id)).sink.stalled = isStalled),
          ];
          // Some may not do what they ask for.
          await steps[what % steps.length]?.().catch((error: unknown) => expect(error).toBeInstanceOf(RelayError));
        }
        for (const id of ids) await relays[0].clients.remove(id);
        expect(relays.map(({ clients }) => clients.weight)).toEqual([0, 0]);
        for (const relay of relays) await relay.stop();
      }),
      { numRuns: 20 },
    );
  },
);
