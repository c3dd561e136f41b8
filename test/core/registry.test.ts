import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import type { ClientRecord } from "../../src/core/client.js";
import { ZERO } from "../../src/core/id.js";
import type { Reader, ReaderConnection } from "../../src/core/reader.js";
import { Registry } from "../../src/core/registry.js";
import { matchesTopic } from "../../src/core/topics.js";
import { longestTurn } from "../support/turns.js";

function record(id: string, topics: readonly string[]): ClientRecord {
  const subscriptions = [{ from: ZERO, topics }];
  const kept = { cursor: ZERO, confirmed: ZERO, received: [], sent: [], narrowed: [] };
  return { id, userId: id, subscriptions, rooms: [], ttl: 300, node: "here", ...kept };
}

function registry(): Registry {
  const made = new Registry(Date.now, () => undefined);
  onTestFinished(() => made.stop());
  return made;
}

const CONNECTION = { close: () => undefined } as unknown as ReaderConnection;

function match(clients: Registry, topic: string): { readers: readonly Reader[]; connected: readonly Reader[] } {
  const { readers, connected } = clients.match({ id: ZERO, time: 0, topic, message: "1" });
  return { readers, connected };
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
      const given: { list: readonly Reader[]; copy: readonly Reader[] }[] = [];
      for (const { do: what, id, topics, topic } of steps) {
        const reader = clients.get(id);
        if (what === "hold") clients.hold(record(id, topics));
        else if (what === "drop" && reader) clients.drop(reader);
        else if (what === "connect" && reader) clients.attach(reader, CONNECTION);
        else if (what === "disconnect" && reader) clients.detach(reader);
        else if (what === "publish") {
          const { readers, connected } = match(clients, topic);
          const all = [...clients.all()].filter((one) => one.topics.some((name) => matchesTopic(name, topic)));
          expect(readers.map((one) => one.id).sort()).toEqual(all.map((one) => one.id).sort());
          expect(new Set(connected)).toEqual(new Set(all.filter((one) => one.connection)));
          given.push(...[readers, connected].map((list) => ({ list, copy: [...list] })));
        }
      }
      for (const { list, copy } of given) expect(list).toEqual(copy);
    }),
    { numRuns: 1000 },
  );
});

test("all topics that the same subscriptions match share one list, of one pattern and of several", () => {
  const clients = registry();
  for (let index = 0; index < 5000; index++) {
    clients.hold(record(String(index), index % 2 ? ["orders.>"] : ["orders.>", "orders.*"]));
  }
  const lists = new Set<readonly Reader[]>();
  for (let index = 0; index < 10_000; index++) lists.add(match(clients, `orders.${index}`).readers);
  for (let index = 0; index < 10_000; index++) lists.add(match(clients, `orders.eu.${index}`).readers);
  expect(lists.size).toBe(1);
  expect([...lists][0]).toHaveLength(5000);
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
