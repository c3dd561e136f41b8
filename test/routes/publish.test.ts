import { expect, test } from "vitest";
import type { Problem } from "../../src/protocol.js";
import { type Receipt, startRelay, type TestRelay } from "../support/relay.js";

async function jsonClient(relay: TestRelay, body: object = { user_id: 1 }) {
  const { url } = await relay.register(body);
  const client = await relay.connect(url, ["relay.v1.json"]);
  await client.next();
  return client;
}

test("counts are of those who were meant, who have it, and who will get it", async () => {
  const relay = await startRelay();
  await relay.connect((await relay.register({ user_id: 1 })).url);
  const away = await relay.register({ user_id: 1 });
  await relay.register({ user_id: 2 });
  await relay.register({ user_id: 1, topics: ["dogs"] });
  expect(await relay.publish({ user_id: 1, topic: "cats", message: "x" })).toMatchObject({
    matched: 2,
    sent: 1,
    waiting: 1,
  });
  expect(await relay.publish({ user_ids: [1, "1", 2], topic: "cats", message: "y" })).toMatchObject({
    matched: 3,
    sent: 1,
  });
  expect(await relay.publish({ topic: "cats", message: "z" })).toMatchObject({ matched: 3, sent: 1, waiting: 2 });
  expect(await relay.publish({ topic: "birds", message: "z" })).toMatchObject({ matched: 0, sent: 0, waiting: 0 });
  const back = await relay.connect(away.url);
  expect(await back.take(3)).toEqual(["x", "y", "z"]);
});

test("a client gets an event once, however many subscriptions match", async () => {
  const relay = await startRelay();
  const client = await jsonClient(relay, { user_id: 1, topics: ["a.b", "a.*", ">", "*.b"] });
  expect(await relay.publish({ user_ids: [1, "1"], topic: "a.b", message: 1 })).toMatchObject({ matched: 1, sent: 1 });
  expect(await relay.publish({ topic: "a.b", message: 2 })).toMatchObject({ matched: 1, sent: 1 });
  expect([await client.json(), await client.json(), await client.settled()]).toMatchObject([
    { message: 1 },
    { message: 2 },
    [],
  ]);
});

test.each([
  ["text"],
  [""],
  [0],
  [null],
  [false],
  [[1, [2]]],
  [{ a: { b: "ä" } }],
  [{ __proto__x: 1 }],
  ["\u0000\ud83d"],
])("the message %j arrives as it was", async (message) => {
  const relay = await startRelay();
  const json = await jsonClient(relay);
  const raw = await relay.connect((await relay.register({ user_id: 1 })).url);
  await relay.publish({ topic: "cats", message });
  expect((await json.json())["message"]).toEqual(message);
  const expected = typeof message === "string" ? message.toWellFormed() : JSON.stringify(message);
  expect(await raw.next()).toBe(expected);
});

test("numbers arrive as they were written, however long", async () => {
  const relay = await startRelay();
  const raw = await relay.connect((await relay.register({ user_id: 1 })).url);
  const message = '{"id":12345678901234567890,"price":1.50,"10":1,"2":2}';
  const body = `{"topic": "cats", "message": ${message.replaceAll(",", " ,\n")}}`;
  await relay.send("POST", "/publish", body);
  await relay.send("POST", "/publish", `[1, ${body}]`);
  await relay.send("POST", "/publish", body.replaceAll("\n", ""), { "content-type": "application/x-ndjson" });
  const lobby = await relay.connect("/ws");
  lobby.say(`{"id":"1","type":"request","action":"publish","payload":${body}}`);
  expect(await raw.take(4)).toEqual([message, message, message, message]);
});

test("an event says who it is for, and to each one only that", async () => {
  const relay = await startRelay();
  const one = await jsonClient(relay);
  const bob = await jsonClient(relay, { user_id: "bob" });
  const { id } = await relay.publish({ user_ids: [1, "bob"], topic: "cats", message: 1 });
  const event = { type: "event", id, topic: "cats", message: 1, time: expect.stringMatching(/Z$/) as string };
  expect(await one.json()).toEqual({ ...event, user_id: 1 });
  expect(await bob.json()).toEqual({ ...event, user_id: "bob" });
  await relay.publish({ topic: "cats", message: 2 });
  expect(await one.json()).not.toHaveProperty("user_id");
});

test("ttl: not delivered after its time, and 0 only to those connected", async () => {
  const relay = await startRelay();
  const away = await relay.register({ user_id: 1 });
  const here = await relay.connect((await relay.register({ user_id: 1 })).url);
  await here.settled();
  expect(await relay.publish({ topic: "cats", message: "now", ttl: 0 })).toMatchObject({
    matched: 1,
    sent: 1,
    waiting: 0,
  });
  const { id } = await relay.publish({ topic: "cats", message: "soon", ttl: 1 });
  await relay.publish({ topic: "cats", message: "later", ttl: 60 });
  await new Promise((resolve) => setTimeout(resolve, 1100));
  expect(await (await relay.connect(away.url)).next()).toBe("later");
  expect(await here.take(3)).toEqual(["now", "soon", "later"]);
  const receipt = (await (await relay.send("GET", `/events/${id}`)).json()) as {
    clients: { id: string; state: string }[];
  };
  expect(receipt.clients.find((client) => client.id === away.id)?.state).toBe("expired");
});

test("key: a later event replaces an earlier one for whoever has not received it", async () => {
  const relay = await startRelay();
  const away = await relay.register({ user_id: 1 });
  const here = await relay.connect((await relay.register({ user_id: 1 })).url);
  await here.settled();
  const cart = (message: number, more: object = {}) =>
    relay.publish({ user_id: 1, topic: "cats", key: "cart", message, ...more });
  const first = await cart(1);
  await cart(2, { user_id: undefined });
  await cart(3);
  expect(await here.take(3)).toEqual(["1", "2", "3"]);
  const back = await relay.connect(away.url);
  expect(await back.take(2)).toEqual(["2", "3"]);
  const receipt = await (await relay.send("GET", `/events/${first.id}`)).json();
  expect(receipt).toMatchObject({ key: "cart", matched: 2, expired: 1, waiting: 0 });
});

test("many at once: a reply for each, in order, and what is wrong with one does not touch the others", async () => {
  const relay = await startRelay();
  const client = await relay.connect((await relay.register({ user_id: 1 })).url);
  const items = [{ topic: "cats", message: 1 }, { topic: "cats" }, 7, { topic: "cats", message: 2 }];
  const array = (await (await relay.send("POST", "/publish", items)).json()) as (Receipt & Problem)[];
  const lines = await relay.send("POST", "/publish", `${items.map((item) => JSON.stringify(item)).join("\n")}\n\n{`, {
    "content-type": "application/x-ndjson",
  });
  expect(lines.headers.get("content-type")).toContain("application/x-ndjson");
  const replies = (await lines.text())
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Receipt & Problem);
  for (const answers of [array, replies.slice(0, 4)]) {
    expect(answers).toMatchObject([
      { matched: 1, sent: 1 },
      { status: 400, code: "bad_request", errors: [{ path: "message", message: "is required" }] },
      { status: 400 },
      { matched: 1, sent: 1 },
    ]);
  }
  expect(replies[4]).toMatchObject({ status: 400, detail: expect.stringContaining("JSON") as string });
  expect(await client.take(4)).toEqual(["1", "2", "1", "2"]);
  expect(await (await relay.send("POST", "/publish", [])).json()).toEqual([]);
});

test("?wait answers when all who were sent it have confirmed", async () => {
  const relay = await startRelay();
  const client = await relay.connect((await relay.register({ user_id: 1 })).url);
  await relay.register({ user_id: 1 });
  const start = Date.now();
  const receipt = await relay.publish({ topic: "cats", message: 1 }, "?wait=10");
  expect(receipt).toMatchObject({ matched: 2, sent: 1, waiting: 1, confirmed: 1 });
  expect(Date.now() - start).toBeLessThan(5000);
  expect(await relay.publish({ topic: "birds", message: 1 }, "?wait=10")).toMatchObject({ matched: 0, confirmed: 0 });
  await client.close();
});

test("?wait gives up in time on who does not confirm", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  await relay.connect(`${url}?ack=manual&format=json`);
  expect(await relay.publish({ topic: "cats", message: 1 }, "?wait=0.2")).toMatchObject({ sent: 1, confirmed: 0 });
});

test("Idempotency-Key: the first reply again, and nothing is published", async () => {
  const relay = await startRelay();
  const client = await relay.connect((await relay.register({ user_id: 1 })).url);
  const body = { topic: "cats", message: "once" };
  const all = await Promise.all(Array.from({ length: 10 }, () => relay.publish(body, "", { "idempotency-key": "k" })));
  const first = all.find(({ duplicate }) => !duplicate);
  expect(all.filter(({ duplicate }) => duplicate)).toEqual(
    Array.from({ length: 9 }, () => ({ ...first, duplicate: true })),
  );
  await client.close();
  expect(await relay.publish(body, "", { "idempotency-key": "k" })).toEqual({ ...first, duplicate: true });
  const other = await relay.send("POST", "/publish", { ...body, message: "twice" }, { "idempotency-key": "k" });
  expect([other.status, ((await other.json()) as Problem).code]).toEqual([422, "idempotency_key_reused"]);
  expect(client.rest).toEqual(["once"]);
  const many = [body, { topic: "cats" }];
  const answers = async () => (await relay.send("POST", "/publish", many, { "idempotency-key": "m" })).json();
  const [receipt, problem] = (await answers()) as [Receipt, Problem];
  expect(await answers()).toEqual([{ ...receipt, duplicate: true }, problem]);
});

test("GET /events/ID tells what became of an event for each client", async () => {
  const relay = await startRelay();
  const confirmed = await relay.register({ user_id: 1 });
  const sent = await relay.register({ user_id: "bob" });
  const waiting = await relay.register({ user_id: 1 });
  const removed = await relay.register({ user_id: 1 });
  await relay.connect(confirmed.url);
  await relay.connect(`${sent.url}?ack=manual`);
  const { id } = await relay.publish({ user_ids: [1, "bob"], topic: "cats", message: 1, ttl: 60 }, "?wait=0.3");
  await relay.send("DELETE", `/register/${removed.id}`);
  const receipt = (await (await relay.send("GET", `/events/${id}`)).json()) as { clients: unknown[] };
  expect(receipt).toMatchObject({
    id,
    topic: "cats",
    user_ids: [1, "bob"],
    ttl: 60,
    matched: 4,
    sent: 1,
    confirmed: 1,
  });
  expect(receipt.clients).toHaveLength(4);
  for (const [client, state] of [
    [confirmed, "confirmed"],
    [sent, "sent"],
    [waiting, "waiting"],
    [removed, "expired"],
  ] as const) {
    expect(receipt.clients).toContainEqual({ id: client.id, user_id: client.user_id, state });
  }
  for (const unknown of ["1-0", "nonsense"]) expect((await relay.send("GET", `/events/${unknown}`)).status).toBe(404);
});

test("what the log no longer has, and whose time is up, is not waiting", async () => {
  const relay = await startRelay({ retentionCount: 2 });
  await relay.register({ user_id: 1 });
  const { id } = await relay.publish({ topic: "cats", message: 0 });
  for (let n = 1; n <= 2; n++) await relay.publish({ topic: "cats", message: n });
  expect(await (await relay.send("GET", `/events/${id}`)).json()).toMatchObject({ waiting: 0, expired: 1 });
});

test("?wait does not wait for a client that is removed meanwhile", async () => {
  const relay = await startRelay();
  const { id, url } = await relay.register({ user_id: 1 });
  const client = await relay.connect(`${url}?ack=manual`);
  const waiting = relay.publish({ topic: "cats", message: 1 }, "?wait=30");
  await client.next();
  await relay.send("DELETE", `/register/${id}`);
  expect(await waiting).toMatchObject({ sent: 1, confirmed: 0 });
});

test("CloudEvents come in structured, in batches and in binary mode, and go out as CloudEvents", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1, topics: [">"] });
  const client = await relay.connect(url, ["cloudevents.json"]);
  expect(client.socket.protocol).toBe("cloudevents.json");
  const event = {
    specversion: "1.0",
    id: "A1",
    source: "/shop",
    type: "order.paid",
    subject: "orders.1",
    data: { n: 1 },
  };
  const structured = await relay.send("POST", "/publish", event, { "content-type": "application/cloudevents+json" });
  expect(await structured.json()).toMatchObject({ matched: 1, sent: 1 });
  expect(await client.json()).toMatchObject({ ...event, relayid: expect.stringMatching(/^\d+-\d+$/) as string });
  const batch = [
    { ...event, relayuser: "1" },
    { ...event, subject: undefined },
    { ...event, relayuser: "2" },
  ];
  const answers = await relay.send("POST", "/publish", batch, { "content-type": "application/cloudevents-batch+json" });
  expect(await answers.json()).toMatchObject([
    { matched: 1 },
    { status: 400, errors: [{ path: "subject" }] },
    { matched: 0 },
  ]);
  expect(await client.json()).toMatchObject({ id: "A1", relayuser: "1" });
  const headers = {
    "ce-specversion": "1.0",
    "ce-id": "B%20%C3%A4",
    "ce-source": "/shop",
    "ce-type": "note",
    "ce-subject": "notes",
  };
  await relay.send("POST", "/publish", "hello", { ...headers, "content-type": "text/plain" });
  expect(await client.json()).toMatchObject({
    id: "B ä",
    subject: "notes",
    data: "hello",
    datacontenttype: "text/plain",
  });
  await relay.send("POST", "/publish", { a: 1 }, headers);
  expect(await client.json()).toMatchObject({ data: { a: 1 }, datacontenttype: "application/json" });
  await relay.send(
    "POST",
    "/publish",
    { ...event, data: undefined },
    { "content-type": "application/cloudevents+json" },
  );
  expect(await client.json()).toMatchObject({ id: "A1", data: null });
  await relay.publish({ topic: "plain", message: 5 });
  expect(await client.json()).toMatchObject({ specversion: "1.0", subject: "plain", data: 5 });
});
