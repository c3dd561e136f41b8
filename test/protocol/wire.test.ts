import { describe, expect, test } from "vitest";
import {
  ACTIONS,
  type Action,
  clientFrame,
  clientRemoved,
  clientState,
  cloudEvent,
  eventRecord,
  health,
  readiness,
  receipt,
  receipts,
  registered,
  restarting,
  userRemoved,
} from "../../src/protocol.js";
import { bearer, startRelay } from "../support/relay.js";
import { openStream } from "../support/stream.js";
import { act, bodyOf, exactly, frameOf, kindOf, next, problemOf } from "../support/wire.js";

const NDJSON = { "content-type": "application/x-ndjson" };

describe("every body is one that the protocol describes, and has nothing else in it", () => {
  test("of registrations and their changes", async () => {
    const relay = await startRelay();
    await bodyOf(registered, relay.send("POST", "/register", { user_id: "ada" }));
    const allow = { subscribe: ["cats.>"], publish: ["cats.*"] };
    const { id } = await bodyOf(
      registered,
      relay.send("POST", "/register", { user_id: 1, topics: ["cats.>"], ttl: 60, allow }),
    );
    const path = `/register/${id}`;
    expect((await bodyOf(clientState, relay.send("GET", path))).connected).toBe(false);
    await bodyOf(clientState, relay.send("PATCH", path, { add: ["cats.a"], allow: { publish: [] } }));
    for (const removed of [true, false]) {
      expect(await bodyOf(clientRemoved, relay.send("DELETE", path))).toEqual({ removed });
    }
    expect(await bodyOf(userRemoved, relay.send("DELETE", "/users/ada"))).toEqual({ removed: 1 });
    const lobby = await relay.connect("/ws");
    const greeting = await next(lobby, "connected");
    const anonymous = greeting.type === "notification" && greeting.data.event === "connected" && greeting.data;
    expect(anonymous && anonymous.user_id).toBe("$1");
    await bodyOf(clientState, relay.send("GET", `/register/${anonymous && anonymous.connection_id}`));
  });

  test("of receipts, in every form of publishing", async () => {
    const relay = await startRelay();
    const { url } = await relay.register({ user_id: 1, topics: ["cats"] });
    await relay.connect(url);
    const event = { topic: "cats", message: { a: 1 } };
    const publish = (body: unknown, query = "", headers = {}) => relay.send("POST", `/publish${query}`, body, headers);
    await bodyOf(receipt, publish(event));
    const waited = await bodyOf(receipt, publish(event, "?wait=10"));
    expect(waited).toEqual({ id: waited.id, matched: 1, sent: 1, waiting: 0, confirmed: 1 });
    const key = { "idempotency-key": "k" };
    const first = await bodyOf(receipt, publish(event, "", key));
    expect(await bodyOf(receipt, publish(event, "", key))).toEqual({ ...first, duplicate: true });
    const items = [event, { topic: "" }, event];
    const replies = await bodyOf(receipts, publish(items));
    const lines = await (await publish(items.map((item) => JSON.stringify(item)).join("\n"), "", NDJSON)).text();
    const read = exactly(
      receipts,
      lines
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as unknown),
    );
    for (const each of [replies, read]) expect(each.map((reply) => "id" in reply)).toEqual([true, false, true]);
    const cloud = { specversion: "1.0", id: "1", source: "/s", type: "t", subject: "cats", data: 1, relayuser: "1" };
    await bodyOf(receipt, publish(cloud, "", { "content-type": "application/cloudevents+json" }));
    await bodyOf(receipts, publish([cloud], "", { "content-type": "application/cloudevents-batch+json" }));
    const binary = { "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-subject": "cats" };
    await bodyOf(receipt, publish("1", "", binary));
  });

  test("of what became of an event, and for a key that may not know the clients", async () => {
    const keys = { apiKeys: "all:all-secret:register+publish+admin,p:publish-secret:publish" };
    const relay = await startRelay(keys, "all-secret");
    await relay.register({ user_id: 1, topics: ["cats"] });
    await relay.register({ user_id: 2, topics: ["cats"] });
    for (const more of [{}, { user_id: 1 }, { user_ids: [1, 2], ttl: 60, key: "k" }]) {
      const { id } = await relay.publish({ topic: "cats", message: 1, ...more });
      const whole = await bodyOf(eventRecord, relay.send("GET", `/events/${id}`));
      expect(whole).toMatchObject({ id, topic: "cats", ...more, sent: 0 });
      const partly = await bodyOf(eventRecord, relay.send("GET", `/events/${id}`, undefined, bearer("publish-secret")));
      expect(partly.clients?.map((client) => client.id.length)).toEqual(whole.clients?.map(() => 9));
    }
  });

  test("of health checks and problems", async () => {
    const relay = await startRelay({ apiKeys: "p:publish-secret:publish" }, "publish-secret");
    await bodyOf(health, relay.send("GET", "/health"));
    await bodyOf(readiness, relay.send("GET", "/ready"));
    const wrong = await problemOf(relay.send("POST", "/publish", { topic: "", message: 1, nonsense: 1 }));
    expect(wrong.errors?.map(({ path }) => path).sort()).toEqual(["nonsense", "topic"]);
    const answers = [
      relay.fetch("/publish", { method: "POST" }),
      relay.send("POST", "/register", {}),
      relay.send("GET", "/events/1-1"),
      relay.send("PUT", "/publish"),
      relay.send("POST", "/publish", "x", { "content-type": "text/plain" }),
      relay.send("POST", "/publish", { topic: "a", message: "x".repeat(100_000) }),
      relay.send("GET", `/ws/${"0".repeat(32)}`),
    ];
    const codes = (await Promise.all(answers.map(problemOf))).map(({ code }) => code);
    const expected = ["unauthorized", "forbidden", "not_found", "method_not_allowed", "unsupported_media_type"];
    expect(codes).toEqual([...expected, "too_large", "not_found"]);
    const once = { "idempotency-key": "k" };
    await relay.publish({ topic: "a", message: 1 }, "", once);
    const reused = await problemOf(relay.send("POST", "/publish", { topic: "a", message: 2 }, once));
    expect(reused.code).toBe("idempotency_key_reused");
  });
});

describe("every frame of the format json is one that the protocol describes, and has nothing else in it", () => {
  test("the answers to all actions", async () => {
    const relay = await startRelay();
    const client = await relay.connect("/ws");
    await next(client, "connected");
    const payloads: Record<Action, (done: unknown[]) => unknown> = {
      echo: () => ({ message: [1] }),
      broadcast: () => ({ message: "hi" }),
      get_connections: () => undefined,
      subscribe: () => ({ topics: ["cats", "dogs"] }),
      unsubscribe: () => ({ topics: ["dogs"] }),
      topics: () => ({}),
      publish: () => ({ topic: "cats", message: 1 }),
      ack: (done) => ({ id: (done.at(-1) as { id: string }).id }),
    };
    const done: unknown[] = [];
    for (const action of Object.keys(ACTIONS) as Action[]) done.push(await act(client, action, payloads[action](done)));
    expect(done).toHaveLength(8);
  });

  test("what follows the other frames of clients, and events for one user", async () => {
    const relay = await startRelay();
    const { url } = await relay.register({ user_id: 1, topics: [] });
    const client = await relay.connect(`${url}?format=json`);
    await next(client, "connected");
    const frames = [
      [{ topics: ["cats"] }, "topics"],
      [{ type: "join", room: "den" }, "topics"],
      [{ type: "chat", content: "hi" }, "event"],
      [{ type: "leave", room: "den" }, "topics"],
    ] as const;
    for (const [frame, answer] of frames) {
      client.say(exactly(clientFrame, frame));
      await next(client, answer);
    }
    await relay.publish({ topic: "cats", message: null, user_id: 1 });
    expect(await next(client, "event")).toMatchObject({ user_id: 1, message: null });
    for (const bad of ["{", { type: "nonsense" }, { id: 7, type: "request", action: "nonsense" }]) {
      client.say(bad);
      await next(client, "error");
    }
  });

  test("a gap on an open connection", async () => {
    const relay = await startRelay({ maxBuffer: "16KiB", retentionCount: 10, maxMessage: "1MiB" });
    const { url } = await relay.register({ user_id: 1 });
    const client = await relay.connect(`${url}?format=json`);
    await next(client, "connected");
    client.socket.pause();
    let last = "";
    for (let n = 0; n < 60; n++) last = (await relay.publish({ topic: "cats", message: "x".repeat(500_000) })).id;
    client.socket.resume();
    const kinds = new Set<string>();
    for (let id = ""; id !== last;) {
      const frame = frameOf(await client.next());
      kinds.add(kindOf(frame));
      if (frame.type === "event") id = frame.id;
    }
    expect(kinds).toEqual(new Set(["event", "gap"]));
  });

  test("the last words before the relay closes, with the code that it closes with", async () => {
    const relay = await startRelay();
    const open = async (user_id: number) => {
      const { id, url } = await relay.register({ user_id });
      const client = await relay.connect(`${url}?format=json`);
      await next(client, "connected");
      return { id, url, client };
    };
    const [removed, replaced, flooded, restarted] = [await open(1), await open(2), await open(3), await open(4)];
    await relay.send("DELETE", `/register/${removed.id}`);
    await relay.connect(replaced.url);
    for (let n = 0; n < 60; n++) flooded.client.say("{");
    const refused = { client: await relay.connect(`/ws/${removed.id}`, ["relay.v1.json"]) };
    const { stream_url } = await relay.register({ user_id: 5 });
    const stream = await openStream(stream_url);
    for (const { client } of [removed, replaced, flooded, refused]) await client.closed;
    await relay.close();
    for (const { client } of [removed, replaced, flooded, refused, restarted]) {
      const { code } = await client.closed;
      const frames = client.all.map(frameOf);
      expect(frames.at(-1)).toMatchObject({ type: "notification", data: { event: "disconnected", code } });
    }
    await expect(stream.take(100)).rejects.toThrow("response ended");
    const words = /^event: restarting\nretry: \d+\ndata: (.*)$/m.exec(stream.all.join("\n"))?.[1] ?? "";
    exactly(restarting, JSON.parse(words));
  });
});

test("events in the format cloudevents are CloudEvents as one publishes them", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const client = await relay.connect(`${url}?format=cloudevents`);
  await relay.publish({ topic: "cats", message: { a: 1 }, user_id: 1 });
  const event = cloudEvent.parse(await client.json());
  expect(event).toMatchObject({ subject: "cats", data: { a: 1 }, relayuser: "1" });
  expect(cloudEvent.safeParse({ ...event, id: 1 }).success).toBe(false);
});
