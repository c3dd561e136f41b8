import { expect, test } from "vitest";
import { startRelay } from "../support/relay.js";
import { testEngine } from "./conformance.js";
import type { MakeLog } from "./conformance/support.js";
import { PlainEngine } from "./plain-engine.js";

const make: MakeLog = async ({ count } = {}) => {
  const engine = new PlainEngine(count);
  return { open: async () => engine, close: () => engine.close() };
};

testEngine("plain, from outside", make, []);

test("a relay on an engine from outside delivers, resumes, changes clients and knows duplicates", async () => {
  const relay = await startRelay({}, undefined, new PlainEngine());
  const { id, url } = await relay.register({ user_id: 1, topics: ["a"] });
  const waiting = await relay.publish({ topic: "a", message: "before" });
  expect(waiting).toMatchObject({ matched: 1, sent: 0, waiting: 1 });

  const client = await relay.connect(url);
  expect(await client.next()).toBe("before");
  const once = { "idempotency-key": "k" };
  const sent = await relay.publish({ topic: "a", message: "live" }, "?wait=10", once);
  expect(sent).toMatchObject({ sent: 1, confirmed: 1 });
  expect(await relay.publish({ topic: "a", message: "live" }, "", once)).toMatchObject({
    id: sent.id,
    duplicate: true,
  });
  expect(await client.next()).toBe("live");
  await client.drop();

  expect((await relay.send("PATCH", `/register/${id}`, { topics: ["b.*"] })).status).toBe(200);
  for (const topic of ["a", "b.1", "b.2"]) await relay.publish({ topic, message: topic, key: "k" });
  await relay.publish({ topic: "b.1", message: "newer", key: "k" });
  const again = await relay.connect(url);
  expect(await again.take(2)).toEqual(["b.2", "newer"]);

  expect(await (await relay.send("GET", `/events/${waiting.id}`)).json()).toMatchObject({ matched: 1, confirmed: 1 });
  expect((await relay.send("GET", "/ready")).status).toBe(200);
  expect(await (await relay.send("DELETE", `/register/${id}`)).json()).toEqual({ removed: true });
  expect((await again.closed).code).toBe(4404);
});

test("the next relay on it has the clients of the one before, and what they were not sent", async () => {
  const engine = new PlainEngine();
  const first = await startRelay({}, undefined, engine);
  const { id } = await first.register({ user_id: 1, topics: ["a"] });
  await first.publish({ topic: "a", message: "kept" });
  await first.close();
  const second = await startRelay({}, undefined, engine);
  expect(await (await second.connect(`/ws/${id}`)).next()).toBe("kept");
});
