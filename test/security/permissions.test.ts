import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkAllowed, coverOf } from "../../src/core/permissions.js";
import { matchesTopic } from "../../src/core/topics.js";
import { Bare } from "../support/bare.js";
import { startRelay, type TestRelay } from "../support/relay.js";
import { openStream } from "../support/stream.js";
import type { Frames } from "../support/socket.js";

const SECRET = "a-secret-that-nobody-guesses";

async function withKeys(): Promise<TestRelay> {
  return startRelay({ apiKeys: `a:${SECRET}` }, SECRET);
}

async function connected(relay: TestRelay, body: object): Promise<Frames> {
  const { url } = await relay.register({ user_id: 1, topics: [], ...body });
  const client = await relay.connect(`${url}?format=json`);
  await client.next();
  return client;
}

function forbidden(name: string): object {
  return { code: "forbidden", message: expect.stringContaining(JSON.stringify(name)) as string };
}

describe("a pattern covers", () => {
  test.each([
    ["a", "a", true],
    ["a", "b", false],
    ["a.*", "a.b", true],
    ["a.*", "a.*", true],
    ["a.*", "a.>", false],
    ["a.*", "a.b.c", false],
    ["a.*", "a", false],
    ["a.>", "a.b", true],
    ["a.>", "a.*", true],
    ["a.>", "a.*.c", true],
    ["a.>", "a.>", true],
    ["a.>", "a.b.>", true],
    ["a.>", "a", false],
    ["a.>", ">", false],
    ["*", ">", false],
    ["*", "*", true],
    ["*", "$broadcast", false],
    ["*.b", "a.*", false],
    ["*.*", "*.b", true],
    [">", "a.>", true],
    [">", "$broadcast", true],
    ["$broadcast", "$broadcast", true],
    ["a.b", "a.*", false],
  ])("%j: %j %j", (pattern, name, expected) => expect(coverOf([pattern])(name)).toBe(expected));

  test("what it says: every topic that a covered subscription matches, it matches too", () => {
    const segment = fc.constantFrom("a", "b", "*");
    const pattern = fc
      .tuple(fc.array(segment, { minLength: 1, maxLength: 4 }), fc.boolean())
      .map(([segments, open]) => [...segments, ...(open ? [">"] : [])].join("."));
    const topic = fc.array(fc.constantFrom("a", "b", "c"), { minLength: 1, maxLength: 5 }).map((all) => all.join("."));
    fc.assert(
      fc.property(pattern, pattern, topic, (allowed, subscription, name) => {
        if (!coverOf([allowed])(subscription) || !matchesTopic(subscription, name)) return;
        expect(matchesTopic(allowed, name)).toBe(true);
      }),
      { numRuns: 5000 },
    );
  });

  test("in a time that does not depend on how hostile they are", () => {
    const deep = Array.from({ length: 127 }, () => "*").join(".");
    const patterns = Array.from({ length: 100 }, (_, index) => `${deep.slice(0, 2 * index + 1)}.>`);
    const covers = coverOf([...patterns, `${deep}.x`]);
    const names = Array.from({ length: 1000 }, (_, index) => `${"a.".repeat(126)}${index}`);
    const start = performance.now();
    for (const name of names) covers(name);
    const hostile = performance.now() - start;
    const again = performance.now();
    for (const name of names) coverOf(["b"])(name);
    // Backtracking would be beyond all measure; this is to catch that, and not to measure.
    expect(hostile).toBeLessThan(5000 + 1000 * (performance.now() - again));
  });

  test("an error names at most so many", () => {
    const names = Array.from({ length: 1000 }, (_, index) => `t${index}`);
    expect(() => checkAllowed({ subscribe: [], publish: [] }, "subscribe", names)).toThrow(/"t9" and 990 more/);
  });
});

describe("what a client may do that was registered without saying so", () => {
  test("everything, in the open mode", async () => {
    const client = await connected(await startRelay(), {});
    expect(await client.request("subscribe", { topics: ["a.>"] })).toEqual({ topics: ["a.>"] });
    expect(await client.request("publish", { topic: "b", message: 1 })).toHaveProperty("id");
    expect(await client.request("broadcast", { message: 1 })).toHaveProperty("id");
  });

  test("subscribe to anything and publish nothing, with keys", async () => {
    const client = await connected(await withKeys(), {});
    expect(await client.request("subscribe", { topics: ["a.>", ">"] })).toEqual({ topics: ["a.>", ">"] });
    expect(await client.request("publish", { topic: "b", message: 1 })).toMatchObject(forbidden("b"));
    expect(await client.request("broadcast", { message: 1 })).toMatchObject(forbidden("$broadcast"));
    client.say({ type: "join", room: "room" });
    await client.next();
    client.say({ type: "chat", content: "hi" });
    expect(await client.json()).toMatchObject({ type: "error", error: forbidden("room") });
  });

  test("what is left unsaid of one is as it would be without the other", async () => {
    const client = await connected(await withKeys(), { allow: { publish: ["chat.>"] } });
    expect(await client.request("subscribe", { topics: ["a"] })).toEqual({ topics: ["a"] });
  });
});

describe("a topic that is not allowed refuses the whole request, and is named", () => {
  const allow = { subscribe: ["orders.*"], publish: ["chat.>"] };

  test("initial topics", async () => {
    const relay = await withKeys();
    const answer = await relay.send("POST", "/register", { user_id: 1, topics: ["orders.1", "secret"], allow });
    expect(answer.status).toBe(403);
    expect(await answer.json()).toMatchObject({
      code: "forbidden",
      detail: expect.stringContaining('"secret"') as string,
    });
    const pattern = await relay.send("POST", "/register", { user_id: 1, topics: ["orders.>"], allow });
    expect(pattern.status).toBe(403);
    expect((await relay.register({ user_id: 1, topics: ["orders.*"], allow })).topics).toEqual(["orders.*"]);
  });

  test("default topics are those that are allowed", async () => {
    const relay = await startRelay({ apiKeys: `a:${SECRET}`, defaultTopics: "cats,orders.1" }, SECRET);
    expect((await relay.register({ user_id: 1, allow })).topics).toEqual(["orders.1"]);
    expect((await relay.register({ user_id: 1 })).topics).toEqual(["cats", "orders.1"]);
  });

  test("changes by the backend", async () => {
    const relay = await withKeys();
    const { id } = await relay.register({ user_id: 1, topics: ["orders.1"], allow });
    for (const change of [{ topics: ["orders.2", "x"] }, { add: ["orders.3", "x"], remove: ["orders.1"] }]) {
      const answer = await relay.send("PATCH", `/register/${id}`, change);
      expect([answer.status, await answer.json()]).toEqual([403, expect.objectContaining({ code: "forbidden" })]);
    }
    expect(await (await relay.send("GET", `/register/${id}`)).json()).toMatchObject({ topics: ["orders.1"], allow });
  });

  test("changes by the client: frames, join and subscribe", async () => {
    const client = await connected(await withKeys(), { topics: ["orders.1"], allow });
    client.say({ topics: ["orders.2", "x"] });
    expect(await client.json()).toMatchObject({ type: "error", error: forbidden("x") });
    client.say({ type: "join", room: "x" });
    expect(await client.json()).toMatchObject({ type: "error", error: forbidden("x") });
    expect(await client.request("subscribe", { topics: ["orders.2", ">"] })).toMatchObject(forbidden(">"));
    expect(await client.request("topics")).toEqual({ topics: ["orders.1"] });
  });

  test("publish, broadcast and chat", async () => {
    const relay = await withKeys();
    const reader = await connected(relay, { topics: [">"] });
    const client = await connected(relay, { allow: { subscribe: ["chat.>", "quiet"], publish: ["chat.>"] } });
    expect(await client.request("publish", { topic: "orders.1", message: 1 })).toMatchObject(forbidden("orders.1"));
    expect(await client.request("broadcast", { message: 1 })).toMatchObject(forbidden("$broadcast"));
    for (const room of ["chat.a", "quiet"]) {
      client.say({ type: "join", room });
      await client.next();
    }
    client.say({ type: "chat", content: "to one of them I may not" });
    expect(await client.json()).toMatchObject({ type: "error", error: forbidden("quiet") });
    client.say({ type: "leave", room: "quiet" });
    await client.next();
    client.say({ type: "chat", content: "hi" });
    expect(await reader.json()).toMatchObject({ topic: "chat.a", message: "hi" });
    expect(await reader.settled()).toEqual([]);
  });

  test("broadcast by its name, or with everything", async () => {
    const relay = await withKeys();
    for (const publish of [["$broadcast"], [">"]]) {
      const client = await connected(relay, { allow: { publish } });
      expect(await client.request("broadcast", { message: 1 })).toHaveProperty("id");
    }
    const client = await connected(relay, { allow: { publish: ["*", "*.>"] } });
    expect(await client.request("broadcast", { message: 1 })).toMatchObject(forbidden("$broadcast"));
  });
});

describe("permissions that are taken away", () => {
  test("end the subscriptions that go further, at once, for what was published before too, and on replay", async () => {
    const relay = await withKeys();
    const { id } = await relay.register({ user_id: 1, topics: ["orders.1", "secret", ">"] });
    await relay.publish({ topic: "secret", message: "before" });
    await relay.publish({ topic: "orders.1", message: "order" });
    const patched = await relay.send("PATCH", `/register/${id}`, { allow: { subscribe: ["orders.*"] } });
    expect(await patched.json()).toMatchObject({ topics: ["orders.1"], allow: { subscribe: ["orders.*"] } });
    await relay.publish({ topic: "secret", message: "after" });
    const owed = await relay.connect(`/ws/${id}`);
    expect([await owed.next(), await owed.settled()]).toEqual(["order", []]);
    await owed.close();
    const replay = await relay.connect(`/ws/${id}?since=0`);
    expect([await replay.next(), await replay.settled()]).toEqual(["order", []]);
    const stream = await openStream(`${relay.http}/stream/${id}?since=0`, { accept: "application/x-ndjson" });
    expect(await stream.next()).toBe('"order"');
    expect(stream.rest).toEqual([]);
  });

  test("leave receipts true: what was taken away is expired, also after a replay, and what was not is confirmed", async () => {
    const relay = await withKeys();
    const { id } = await relay.register({ user_id: 1, topics: ["a", "b", "*.c"] });
    const topics = ["a", "b", "a.c", "b.c"];
    const receipts = await Promise.all(topics.map(async (topic) => relay.publish({ topic, message: topic })));
    const states = async (): Promise<unknown[]> =>
      Promise.all(
        receipts.map(async (receipt) => {
          const answer = await relay.send("GET", `/events/${receipt.id}`);
          return ((await answer.json()) as { clients: { state: string }[] }).clients[0]?.state;
        }),
      );
    await relay.send("PATCH", `/register/${id}`, { allow: { subscribe: ["a", "a.*"] } });
    expect(await states()).toEqual(["waiting", "expired", "expired", "expired"]);
    for (const query of ["", "?since=0"]) {
      const client = await relay.connect(`/ws/${id}${query}`);
      expect(await client.next()).toBe("a");
      await expect.poll(states).toEqual(["confirmed", "expired", "expired", "expired"]);
      expect(await client.settled()).toEqual([]);
      await client.close();
    }
  });

  test("take what was sent and did not arrive, and nothing that did", async () => {
    const relay = await withKeys();
    const { id } = await relay.register({ user_id: 1, topics: ["k"] });
    const live = await relay.connect(`/ws/${id}`);
    const patch = async (subscribe: string[]): Promise<unknown> =>
      relay.send("PATCH", `/register/${id}`, { allow: { subscribe }, ...(subscribe.includes("a") && { add: ["a"] }) });
    const state = async (event: string): Promise<unknown> => {
      const answer = await relay.send("GET", `/events/${event}`);
      return ((await answer.json()) as { clients: { state: string }[] }).clients[0]?.state;
    };
    const arrived: string[] = [];
    for (let round = 0; round < 20; round++) {
      arrived.push((await relay.publish({ topic: "k", message: round })).id);
      await patch(["k"]);
      await patch(["k", "a"]);
    }
    expect(await relay.publish({ topic: "k", message: "last" }, "?wait=10")).toMatchObject({ confirmed: 1 });
    expect(new Set(await Promise.all(arrived.map(state)))).toEqual(new Set(["confirmed"]));
    await live.close();
    const deaf = await Bare.webSocket(relay.http, `/ws/${id}`);
    const { id: sent } = await relay.publish({ topic: "a", message: "sent" });
    expect(await state(sent)).toBe("sent");
    await patch(["k"]);
    deaf.socket.destroy();
    await expect.poll(async () => state(sent)).toBe("expired");
    const back = await relay.connect(`/ws/${id}`);
    expect(await relay.publish({ topic: "k", message: "x" }, "?wait=10")).toMatchObject({ confirmed: 1 });
    expect([await back.settled(), await state(sent)]).toEqual([["x"], "expired"]);
  });

  test("are not, when the change is refused", async () => {
    const relay = await withKeys();
    const { id } = await relay.register({ user_id: 1, topics: ["a"] });
    const deaf = await Bare.webSocket(relay.http, `/ws/${id}`);
    const { id: event } = await relay.publish({ topic: "a", message: "sent" });
    const change = { allow: { subscribe: ["b"] }, add: ["c"] };
    expect((await relay.send("PATCH", `/register/${id}`, change)).status).toBe(403);
    deaf.socket.destroy();
    await deaf.closed;
    const back = await relay.connect(`/ws/${id}`);
    expect(await back.next()).toBe("sent");
    const state = async (): Promise<unknown> => (await relay.send("GET", `/events/${event}`)).json();
    await expect.poll(state, { timeout: 5000 }).toMatchObject({ clients: [{ state: "confirmed" }] });
  });

  test("end rooms, and are no claim of delivery", async () => {
    const relay = await withKeys();
    const { id } = await relay.register({ user_id: 1, topics: ["secret"], allow: { publish: [">"] } });
    const { id: event } = await relay.publish({ topic: "secret", message: "for nobody now" });
    await relay.send("PATCH", `/register/${id}`, { allow: { subscribe: ["orders.*"], publish: [">"] } });
    const client = await relay.connect(`/ws/${id}?format=json`);
    await client.next();
    expect(await client.settled()).toEqual([]);
    const receipt = await (await relay.send("GET", `/events/${event}`)).json();
    expect(receipt).toMatchObject({ matched: 1, confirmed: 0, waiting: 0, expired: 1 });
    client.say({ type: "chat", content: "hi" });
    expect(await client.json()).toMatchObject({ type: "error", error: { code: "bad_request" } });
  });

  test("and given: from then on", async () => {
    const relay = await withKeys();
    const { id } = await relay.register({ user_id: 1, topics: [], allow: { subscribe: [] } });
    const client = await relay.connect(`/ws/${id}`);
    expect(await client.request("subscribe", { topics: ["a"] })).toMatchObject(forbidden("a"));
    await relay.send("PATCH", `/register/${id}`, { allow: { publish: ["b"] } });
    expect(await client.request("subscribe", { topics: ["a"] })).toMatchObject(forbidden("a"));
    const change = { allow: { subscribe: ["a"] }, add: ["a"] };
    expect((await relay.send("PATCH", `/register/${id}`, change)).status).toBe(200);
    await relay.publish({ topic: "a", message: "now" });
    expect(await client.next()).toBe("now");
  });
});

test.each([
  [{ subscribe: "a" }, "allow.subscribe"],
  [{ subscribe: ["a.>.b"] }, "allow.subscribe.0"],
  [{ subscribe: ["$other"] }, "allow.subscribe.0"],
  [{ publish: ["$other"] }, "allow.publish.0"],
  [{ publish: Array.from({ length: 101 }, () => "a") }, "allow.publish"],
  [{ read: ["a"] }, "allow.read"],
  [[], "allow"],
  [null, "allow"],
])("allow: %j is refused, at %s", async (allow, path) => {
  const relay = await startRelay();
  const answer = await relay.send("POST", "/register", { user_id: 1, allow });
  expect(answer.status).toBe(400);
  expect(((await answer.json()) as { errors: { path: string }[] }).errors.map((error) => error.path)).toEqual([path]);
});
