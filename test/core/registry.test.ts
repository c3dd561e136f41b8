import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import type { Audience } from "../../src/core/audience.js";
import type { ClientRecord } from "../../src/core/client.js";
import { ZERO } from "../../src/core/id.js";
import type { Reader, ReaderConnection } from "../../src/core/reader.js";
import { Registry } from "../../src/core/registry.js";
import { matchesTopic } from "../../src/core/topics.js";
import { clientRecord } from "../support/engine.js";
import { longestTurn } from "../support/turns.js";

function record(id: string, topics: readonly string[]): ClientRecord {
  return clientRecord({ id, userId: id, topics }, ZERO);
}

function registry(): Registry {
  const made = new Registry(Date.now, () => undefined);
  onTestFinished(() => made.stop());
  return made;
}

const CONNECTION = { close: () => undefined } as unknown as ReaderConnection;

function match(clients: Registry, topic: string): { all: Audience; connected: Audience } {
  const { all, connected } = clients.match({ id: ZERO, time: 0, topic, message: "1" });
  return { all, connected };
}

const subscription = fc.constantFrom("a", "a.b", "a.c", "a.*", "*.b", ">", "*.*", "a.>");
const topic = fc.constantFrom("a", "a.b", "a.c", "x.b", "x");
const step = fc.record({
  do: fc.constantFrom("hold", "drop", "connect", "disconnect", "publish"),
  id: fc.constantFrom("1", "2", "3", "4"),
  topics: fc.uniqueArray(subscription, { maxLength: 4 }),
  topic,
});

test("a topic reaches those who subscribe to it now, and no list changes that was handed out", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const clients = registry();
      const given: { audience: Audience; id: string; copy: readonly Reader[] }[] = [];
      for (const { do: what, id, topics, topic } of steps) {
        const reader = clients.get(id);
        if (what === "hold") clients.hold(record(id, topics));
        else if (what === "drop" && reader) clients.drop(reader);
        else if (what === "connect" && reader) clients.attach(reader, CONNECTION);
        else if (what === "disconnect" && reader) clients.detach(reader);
        else if (what === "publish") {
          const { all, connected } = match(clients, topic);
          const matching = [...clients.all()].filter((one) => one.topics.some((name) => matchesTopic(name, topic)));
          expect(all.clients.map((one) => one.id).sort()).toEqual(matching.map((one) => one.id).sort());
          expect(new Set(connected.clients)).toEqual(new Set(matching.filter((one) => one.connection)));
          given.push(...[all, connected].map((each) => ({ audience: each, id: each.id, copy: [...each.clients] })));
        }
      }
      const named = new Map<string, readonly Reader[]>();
      for (const { audience, id, copy } of given) {
        expect([audience.id, audience.clients]).toEqual([id, copy]);
        // The same id always means the same clients.
        expect(named.get(id) ?? copy).toEqual(copy);
        named.set(id, copy);
      }
    }),
    { numRuns: 1000 },
  );
});

test("all topics that the same subscriptions match share one list, of one pattern and of several", () => {
  const clients = registry();
  for (let index = 0; index < 5000; index++) {
    clients.hold(record(String(index), index % 2 ? ["orders.>"] : ["orders.>", "orders.*"]));
  }
  const audiences = new Set<Audience>();
  for (let index = 0; index < 10_000; index++) audiences.add(match(clients, `orders.${index}`).all);
  for (let index = 0; index < 10_000; index++) audiences.add(match(clients, `orders.eu.${index}`).all);
  expect(audiences.size).toBe(1);
  expect([...audiences][0]?.clients).toHaveLength(5000);
});

test("who comes and goes, with many patterns, holds nobody up after very many topics were published to", async () => {
  const clients = registry();
  for (let index = 0; index < 5000; index++) clients.hold(record(String(index), ["w.>"]));
  const patterns = Array.from({ length: 1000 }, (_, index) => `w.*.${index}`);
  const longest = await longestTurn(async () => {
    for (let index = 0; index < 10_000; index++) {
      match(clients, `w.${index}.x`);
      if (index % 100 === 0) await new Promise(setImmediate);
    }
    for (let round = 0; round < 10; round++) {
      clients.hold(record("many", patterns));
      await new Promise(setImmediate);
      const reader = clients.get("many") as Reader;
      clients.attach(reader, CONNECTION);
      await new Promise(setImmediate);
      clients.drop(reader);
      await new Promise(setImmediate);
    }
  });
  expect(longest).toBeLessThan(10);
});
