import { once } from "node:events";
import net from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { formatId } from "../../src/core/id.js";
import { temporaryDirectory } from "../support/directory.js";
import { startRelay, type TestRelay } from "../support/relay.js";
import { type Frames, refusal } from "../support/socket.js";

async function publishMany(relay: TestRelay, count: number, topic = "cats"): Promise<string[]> {
  const ids: string[] = [];
  for (let n = 0; n < count; n++) ids.push((await relay.publish({ topic, message: n })).id);
  return ids;
}

/** The first frame of a `json` connection. */
async function greeting(client: Frames) {
  return (await client.json<{ data: { cursor: string; gap: boolean; topics: string[] } }>()).data;
}

async function messages(client: Frames, count: number): Promise<unknown[]> {
  return (await client.take(count)).map((frame) => (JSON.parse(frame) as { message: unknown }).message);
}

test("the format is chosen by subprotocol, or by query, and is raw otherwise", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const chosen = async (query: string, protocols?: string[]) => {
    const client = await relay.connect(url + query, protocols);
    await client.settled();
    await relay.publish({ topic: "cats", message: "m", ttl: 0 });
    const frame = await client.next();
    await client.close();
    return [client.socket.protocol, frame === "m" ? "raw" : frame.includes("specversion") ? "cloudevents" : "json"];
  };
  expect(await chosen("")).toEqual(["", "raw"]);
  expect(await chosen("?format=json")).toEqual(["", "json"]);
  expect(await chosen("?format=cloudevents")).toEqual(["", "cloudevents"]);
  expect(await chosen("", ["x", "relay.v1.json"])).toEqual(["relay.v1.json", "json"]);
  expect(await chosen("?format=raw", ["cloudevents.json"])).toEqual(["cloudevents.json", "cloudevents"]);
});

test("an offered list with none known selects none, and the format is raw", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const { request } = await import("node:http");
  const upgrade = request(url.replace("ws:", "http:"), {
    headers: {
      connection: "upgrade",
      upgrade: "websocket",
      "sec-websocket-version": "13",
      "sec-websocket-key": Buffer.alloc(16).toString("base64"),
      "sec-websocket-protocol": "chat, superchat",
    },
  }).end();
  const [response, socket] = (await once(upgrade, "upgrade")) as [{ headers: object }, { destroy(): void }];
  expect(response.headers).not.toHaveProperty("sec-websocket-protocol");
  socket.destroy();
});

test("unknown, malformed and expired ids are refused with 404 before any WebSocket", async () => {
  const relay = await startRelay();
  for (const id of ["0".repeat(32), "nonsense", "%00", "__proto__"]) {
    const { status, body } = await refusal(relay.connect(`/ws/${id}`));
    expect([status, (JSON.parse(body) as { code: string }).code]).toEqual([404, "not_found"]);
  }
});

test("what is published between register and connect arrives", async () => {
  const relay = await startRelay();
  await publishMany(relay, 1);
  const { url } = await relay.register({ user_id: 1 });
  await publishMany(relay, 3);
  expect(await (await relay.connect(url)).take(3)).toEqual(["0", "1", "2"]);
});

test("the same URL goes on where the client stopped, and repeats what was not confirmed", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const first = await relay.connect(`${url}?format=json`);
  expect(await greeting(first)).toMatchObject({ gap: false, topics: ["cats"] });
  const confirmed = await relay.publish({ topic: "cats", message: "confirmed" }, "?wait=10");
  expect(confirmed.confirmed).toBe(1);
  await first.drop();
  await relay.publish({ topic: "cats", message: "missed" });
  const second = await relay.connect(`${url}?format=json&ack=manual`);
  expect((await greeting(second)).cursor).toBe(confirmed.id);
  expect(await messages(second, 1)).toEqual(["missed"]);
  await second.drop();
  const third = await relay.connect(`${url}?format=json`);
  expect((await greeting(third)).cursor).toBe(confirmed.id);
  expect(await messages(third, 1)).toEqual(["missed"]);
});

test("since: an id, a time back, the start, the head; and Last-Event-ID", async () => {
  const relay = await startRelay();
  const ids = await publishMany(relay, 4);
  const { url } = await relay.register({ user_id: 1 });
  const from = async (query: string, headers: Record<string, string> = {}) => {
    const client = await relay.connect(`${url}?format=json&ack=manual${query}`, [], headers);
    expect((await greeting(client)).gap).toBe(false);
    const frames = await client.settled();
    await client.close();
    return frames.map((frame) => (JSON.parse(frame) as { message: unknown }).message);
  };
  expect(await from("&since=0")).toEqual([0, 1, 2, 3]);
  expect(await from(`&since=${ids[1]}`)).toEqual([2, 3]);
  expect(await from("&since=10m")).toEqual([0, 1, 2, 3]);
  expect(await from("&since=now")).toEqual([]);
  expect(await from("", { "Last-Event-ID": ids[2] ?? "" })).toEqual([3]);
  // As an EventSource does that was opened with `since` and comes back: what it has is in the header.
  expect(await from("&since=now", { "Last-Event-ID": ids[2] ?? "" })).toEqual([3]);
});

test("since goes over the topics that a client has now", async () => {
  const relay = await startRelay();
  await relay.publish({ topic: "dogs", message: "old" });
  const { id, url } = await relay.register({ user_id: 1 });
  await relay.publish({ topic: "cats", message: "owed" });
  await relay.send("PATCH", `/register/${id}`, { topics: ["dogs"] });
  expect(await (await relay.connect(`${url}?since=0`)).take(2)).toEqual(["old", "owed"]);
});

test.each(["yesterday", "1-", "-1", "10", "10y", "99999999999999999999-0", "1-0-0"])(
  "since=%s is refused with 400",
  async (since) => {
    const relay = await startRelay();
    const { url } = await relay.register({ user_id: 1 });
    const { status, body } = await refusal(relay.connect(`${url}?since=${since}`));
    expect([status, JSON.parse(body)]).toMatchObject([400, { errors: [{ path: "since" }] }]);
  },
);

test.each(["?format=xml", "?ack=no"])("%s is refused with 400", async (query) => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  expect((await refusal(relay.connect(url + query))).status).toBe(400);
});

test("gaps are said: events that the log no longer has", async () => {
  const relay = await startRelay({ retentionCount: 2 });
  const { url, stream_url } = await relay.register({ user_id: 1 });
  const [first] = await publishMany(relay, 5);
  const client = await relay.connect(`${url}?format=json`);
  expect(client.headers["relay-gap"]).toBe("true");
  expect((await greeting(client)).gap).toBe(true);
  expect(await messages(client, 2)).toEqual([3, 4]);
  const fine = await relay.connect(`${url}?format=json&since=now`);
  expect([fine.headers["relay-gap"], (await greeting(fine)).gap]).toEqual([undefined, false]);
  // Said by the headers alone where the format has no words for it; for every `since` that reaches too far back.
  for (const since of ["0", "10m", first, "9999999999999-0", "1-0"]) {
    const raw = await relay.connect(`${url}?since=${since}`);
    expect([since, raw.headers["relay-gap"]]).toEqual([since, since === "10m" || since ? "true" : undefined]);
  }
  const stream = await fetch(`${stream_url}?since=0`);
  expect(stream.headers.get("relay-gap")).toBe("true");
  await stream.body?.cancel();
});

test("ack by hand moves the cursor, and pongs do not", async () => {
  const relay = await startRelay();
  const { id, url } = await relay.register({ user_id: 1 });
  const first = await relay.connect(`${url}?format=json&ack=manual`);
  await greeting(first);
  const ids = await publishMany(relay, 3);
  await first.take(3);
  expect(await first.request("ack", { id: ids[1] })).toEqual({ id: ids[1] });
  expect(await first.request("ack", { id: "9999999999999-0" })).toMatchObject({ code: "bad_request" });
  expect(await first.request("ack", { id: "x" })).toMatchObject({ code: "bad_request" });
  await first.drop();
  const second = await relay.connect(`${url}?format=json`);
  expect((await greeting(second)).cursor).toBe(ids[1]);
  expect(await messages(second, 1)).toEqual([2]);
  expect(await (await relay.send("GET", `/register/${id}`)).json()).toMatchObject({ connected: true });
});

test("an ack that was sent before the client could read that the relay shuts down counts", async () => {
  const engine = { engine: "lmdb", dataDir: temporaryDirectory() } as const;
  const relay = await startRelay(engine);
  const { id, url } = await relay.register({ user_id: 1 });
  const slow = await relay.connect(`${url}?format=json&ack=manual`);
  await greeting(slow);
  const other = await relay.connect((await relay.register({ user_id: 2 })).url);
  const [first = ""] = await publishMany(relay, 1);
  await slow.take(1);
  slow.socket.pause();
  const closing = relay.close();
  await other.closed;
  slow.say({ id: 1, type: "request", action: "ack", payload: { id: first } });
  slow.socket.resume();
  expect((await slow.closed).code).toBe(1012);
  await closing;
  const again = await startRelay(engine);
  const back = await again.connect(`${again.ws}/ws/${id}`);
  expect(await back.settled()).toEqual([]);
});

test("acks count also when the relay closed the connection while it opened it", async () => {
  const relay = await startRelay({ maxReplay: 10 });
  const { url } = await relay.register({ user_id: 1, topics: ["t"] });
  const first = await relay.connect(url);
  for (let count = 1; count < 20; count++) await relay.publish({ topic: "t", message: "again" });
  await relay.publish({ topic: "t", message: "again" }, "?wait=5");
  await first.close();
  const back = new WebSocket(`${url}?format=json&ack=manual&since=0`);
  back.on("message", (data) => {
    const { type, id } = JSON.parse((data as Buffer).toString()) as { type: string; id: string };
    const ack = { id: 1, type: "request", action: "ack", payload: { id } };
    if (type === "event") back.send(JSON.stringify(ack));
  });
  // All 20 come with the first read of the log, and are a long replay here.
  expect(await once(back, "close")).toMatchObject([4429, Buffer.from("a long replay: come back to go on")]);
  const next = await relay.connect(url);
  expect(await next.settled()).toEqual([]);
});

test("a pong for what was not sent confirms nothing", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const client = await relay.connect(`${url}?format=json&ack=manual`);
  await greeting(client);
  client.socket.pong("9999999999999-0");
  client.socket.pong("nonsense");
  client.socket.pong(Buffer.alloc(125, 255));
  await publishMany(relay, 1);
  await client.take(1);
  await client.drop();
  const again = await relay.connect(url);
  expect(await again.next()).toBe("0");
});

test("topics over the socket: replaced, added, removed, listed; raw is not answered, json is", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const client = await relay.connect(`${url}?format=json`);
  await greeting(client);
  client.say({ topics: ["dogs", "birds"] });
  expect(await client.json()).toEqual({ type: "notification", data: { event: "topics", topics: ["dogs", "birds"] } });
  expect(await client.request("subscribe", { topics: ["a.>"] })).toEqual({ topics: ["dogs", "birds", "a.>"] });
  expect(await client.request("unsubscribe", { topics: ["dogs"] })).toEqual({ topics: ["birds", "a.>"] });
  expect(await client.request("topics")).toEqual({ topics: ["birds", "a.>"] });
  const raw = await relay.connect(url);
  raw.say({ topics: ["dogs"] });
  expect(await raw.settled()).toEqual([]);
  await relay.publish({ topic: "birds", message: 1 });
  await relay.publish({ topic: "dogs", message: 2 });
  expect(await raw.next()).toBe("2");
});

test("publish over the socket gives the receipt", async () => {
  const relay = await startRelay();
  const client = await relay.connect("/ws");
  await greeting(client);
  const other = await relay.connect((await relay.register({ user_id: "bob" })).url);
  await other.settled();
  const receipt = await client.request("publish", { topic: "cats", message: { a: 1 }, user_id: "bob" });
  expect(receipt).toMatchObject({ matched: 1, sent: 1, waiting: 0 });
  expect(await other.next()).toBe('{"a":1}');
  expect(await client.request("publish", { topic: "a.*", message: 1 })).toMatchObject({
    code: "bad_request",
    message: expect.stringContaining("payload.topic") as string,
  });
});

test("frames that are not understood are answered, and change nothing", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const client = await relay.connect(url);
  const bad: [string, RegExp][] = [
    ["", /empty/],
    ["hello", /JSON/],
    ["[]", /object/],
    ["null", /object/],
    ["{}", /type/],
    ['{"topics":"cats"}', /topics/],
    ['{"topics":["a",""]}', /topics\.1/],
    ['{"topics":["a"],"more":1}', /more/],
    [JSON.stringify({ topics: ["x".repeat(256)] }), /topics\.0/],
    [JSON.stringify({ topics: Array.from({ length: 1001 }, (_, n) => `t${n}`) }), /topics/],
    ['{"topics":["$broadcast"]}', /reserved/],
    ['{"type":"request","id":"1","action":"none"}', /action/],
    ['{"type":"request","action":"echo","payload":{"message":1}}', /id/],
    ['{"type":"join","room":"a.*"}', /room/],
    ['{"type":"chat","content":1}', /content/],
    ['{"type":"chat","content":"hi"}', /room/],
    ["[".repeat(1000) + "]".repeat(1000), /nested/],
    [`{"topics":${"[".repeat(50_000)}`, /nested/],
  ];
  for (const [frame, message] of bad) {
    client.say(frame);
    const { type, error } = await client.json<{ type: string; error: { code: string; message: string } }>();
    expect([type, error.code, error.message]).toEqual(["error", "bad_request", expect.stringMatching(message)]);
  }
  client.socket.send(Buffer.from([1, 2, 3]));
  expect(await client.json()).toMatchObject({
    type: "error",
    error: { message: expect.stringMatching(/binary/) as string },
  });
  await relay.publish({ topic: "cats", message: "still subscribed" });
  expect(await client.next()).toBe("still subscribed");
});

test("a flood of bad frames is closed with 4429", async () => {
  const relay = await startRelay();
  const client = await relay.connect((await relay.register({ user_id: 1 })).url);
  for (let n = 0; n < 1000; n++) client.say("nonsense");
  expect((await client.closed).code).toBe(4429);
});

test("a frame that is too big closes with 1009, invalid UTF-8 with 1007, and others notice nothing", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const bystander = await relay.connect("/ws?format=raw");
  const big = await relay.connect(url);
  big.say("x".repeat(500_000));
  expect((await big.closed).code).toBe(1009);
  const invalid = await relay.connect(url);
  invalid.socket.send(Buffer.from([0xff, 0xfe]), { binary: false });
  expect((await invalid.closed).code).toBe(1007);
  bystander.say("fine");
  expect(await bystander.next()).toBe("fine");
});

test("a thousand tiny fragments are not put together", async () => {
  const relay = await startRelay();
  const client = await relay.connect((await relay.register({ user_id: 1 })).url);
  for (let n = 0; n < 1000; n++) client.socket.send("x", { fin: false });
  expect((await client.closed).code).toBe(1008);
});

test("/ws: broadcasts reach every connection of it, whatever else it subscribes to; objects are frames", async () => {
  const relay = await startRelay();
  const raw = await relay.connect("/ws?format=raw");
  const json = await relay.connect("/ws");
  expect((await greeting(json)).topics).toEqual(["$broadcast"]);
  json.say({ topics: ["cats"] });
  expect(await json.json()).toMatchObject({ data: { topics: ["cats"] } });
  await raw.settled();
  for (const text of ["hello", "123", "[1]", '"quoted"', "", "two\nlines", "{hello}", '{"a":1} trailing']) {
    raw.say(text);
    expect(await raw.next()).toBe(text);
    expect(await json.json()).toMatchObject({ topic: "$broadcast", message: text });
  }
  raw.say('{"no":"frame"}');
  expect(await raw.json()).toMatchObject({ type: "error" });
  expect(await json.settled()).toEqual([]);
  expect((await relay.send("POST", "/publish", { topic: "$broadcast", message: 1 })).status).toBe(400);
});

test("/ws: the client is forgotten with its connection, unless it asks for a ttl", async () => {
  const relay = await startRelay();
  const short = await relay.connect("/ws");
  const { connection_id: gone } = (await short.json<{ data: { connection_id: string } }>()).data;
  await short.close();
  const long = await relay.connect("/ws?ttl=60");
  const { connection_id: kept } = (await long.json<{ data: { connection_id: string } }>()).data;
  await long.close();
  const raw = await relay.connect("/ws?format=raw");
  raw.say("meanwhile");
  await raw.next();
  expect((await refusal(relay.connect(`/ws/${gone}`))).status).toBe(404);
  const back = await relay.connect(`/ws/${kept}`);
  expect(await back.next()).toBe("meanwhile");
  expect((await refusal(relay.connect("/ws?ttl=999999999"))).status).toBe(400);
});

/** A WebSocket by hand: what a client library would not do. */
async function bareSocket(url: string, first = Buffer.alloc(0)): Promise<net.Socket> {
  const { hostname, port, pathname } = new URL(url);
  const socket = net.connect({ port: Number(port), host: hostname, noDelay: true });
  onTestFinished(() => void socket.destroy());
  const head = [
    `GET ${pathname} HTTP/1.1`,
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    `Sec-WebSocket-Key: ${Buffer.alloc(16).toString("base64")}`,
    "Sec-WebSocket-Version: 13",
  ].join("\r\n");
  socket.write(Buffer.concat([Buffer.from(`${head}\r\n\r\n`), first]));
  return socket;
}

async function received(socket: net.Socket, text: string): Promise<string> {
  let all = "";
  for await (const chunk of socket) {
    all += (chunk as Buffer).toString("latin1");
    if (all.includes(text)) return all;
  }
  throw new Error(`ended after ${all}`);
}

const PING_FRAME = Buffer.from([0x81, 0x84, 0, 0, 0, 0, ...Buffer.from("ping")]);

test("frames that come with the handshake are not lost", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  expect(await received(await bareSocket(url, PING_FRAME), "pong")).toContain("\x81\x04pong");
});

test("a frame may come in many small pieces", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const socket = await bareSocket(url);
  await once(socket, "readable");
  const payload = Buffer.from(
    JSON.stringify({ topics: Array.from({ length: 500 }, (_, n) => `topic-${n}-${"x".repeat(100)}`) }),
  );
  const header = Buffer.from([0x81, 0xfe, payload.length >> 8, payload.length & 255, 0, 0, 0, 0]);
  const frame = Buffer.concat([header, payload]);
  for (let at = 0; at < frame.length; at += 500) {
    await new Promise((resolve) => socket.write(frame.subarray(at, at + 500), resolve));
    await new Promise(setImmediate);
  }
  socket.write(PING_FRAME);
  expect(await received(socket, "pong")).not.toContain("error");
  expect(await relay.publish({ topic: `topic-499-${"x".repeat(100)}`, message: 1 })).toMatchObject({ matched: 1 });
});

test("a client that never reads keeps nobody waiting, costs bounded memory, and gets everything once it reads", async () => {
  const relay = await startRelay({ maxBuffer: "64KiB", retentionBytes: "256MiB" });
  const slow = await relay.connect((await relay.register({ user_id: "slow" })).url);
  const quick = await relay.connect((await relay.register({ user_id: "quick" })).url);
  slow.socket.pause();
  const count = 600;
  const big = (n: number) => `${n} ${"x".repeat(50_000)}`;
  let waiting = 0;
  for (let n = 0; n < count; n += 20) {
    const items = Array.from({ length: 20 }, (_, index) => ({ topic: "cats", message: big(n + index) }));
    const receipts = (await (await relay.send("POST", "/publish", items)).json()) as {
      sent: number;
      waiting: number;
    }[];
    expect(receipts.every(({ sent }) => sent >= 1)).toBe(true);
    waiting += receipts.filter((receipt) => receipt.waiting === 1).length;
    for (const frame of await quick.take(20))
      expect(frame).toHaveLength(big(n).length + (n >= 10 || frame[1] === " " ? 0 : 1));
  }
  expect(waiting).toBeGreaterThan(count / 2);
  slow.socket.resume();
  for (let n = 0; n < count; n++) expect((await slow.next()).startsWith(`${n} x`)).toBe(true);
});

test("a reader that falls behind the log is told: json by a notification, raw by a close and the next header", async () => {
  const relay = await startRelay({ maxBuffer: "16KiB", retentionCount: 10, maxMessage: "1MiB" });
  const raw = await relay.register({ user_id: 1 });
  const slow = {
    raw: await relay.connect(raw.url),
    json: await relay.connect((await relay.register({ user_id: 2 })).url + "?format=json"),
  };
  await greeting(slow.json);
  for (const client of Object.values(slow)) client.socket.pause();
  let last = "";
  for (let n = 0; n < 100; n++)
    last = (await relay.publish({ topic: "cats", message: `${n} ${"x".repeat(500_000)}` })).id;
  for (const client of Object.values(slow)) client.socket.resume();
  const said: string[] = [];
  for (;;) {
    const frame = await slow.json.json<{ id?: string; data?: { event: string } }>();
    said.push(frame.data?.event ?? "event");
    if (frame.id === last) break;
  }
  expect(said.filter((what) => what === "gap")).toHaveLength(1);
  expect((await slow.raw.closed).code).toBe(1013);
  const again = await relay.connect(raw.url);
  expect(again.headers["relay-gap"]).toBe("true");
  expect((await again.take(1))[0]).toMatch(/^9\d x/);
  const third = await relay.connect(raw.url);
  expect(third.headers["relay-gap"]).toBeUndefined();
});

test("ids are given out above the clock of before", async () => {
  const relay = await startRelay();
  const before = Date.now();
  const { id } = await relay.publish({ topic: "cats", message: 1 });
  expect(Number(id.split("-")[0])).toBeGreaterThanOrEqual(before);
  expect(formatId({ ms: 1, seq: 2 })).toBe("1-2");
});
