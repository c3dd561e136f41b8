import { describe, expect, test } from "vitest";
import { TokenBucket } from "../../src/token-bucket.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { LIMIT_NAMES, type LimitName } from "../../src/core/errors.js";
import { Bare } from "../support/bare.js";
import { bearer, limited, startRelay, type TestRelay } from "../support/relay.js";
import { refusal } from "../support/socket.js";
import { openStream } from "../support/stream.js";

const KEY = "a-secret-that-nobody-guesses";
const keyed = { apiKeys: `a:${KEY},b:${KEY}2` };

/** Limits that are shown to be counted; the last test looks whether that is all of them. */
const shown = new Set<LimitName>();

async function expectCounted(relay: TestRelay, limit: LimitName, secret?: string): Promise<void> {
  shown.add(limit);
  expect(await limited(relay, limit, secret)).toBeGreaterThan(0);
}

async function metric(relay: TestRelay, name: string): Promise<string | undefined> {
  const text = await (await relay.fetch("/metrics")).text();
  return new RegExp(`^${name} (.*)$`, "m").exec(text)?.[1];
}

async function refusedWith(answer: Promise<Response>, status: number, code: string): Promise<string> {
  const response = await answer;
  const body = (await response.json()) as { code: string; detail: string };
  expect([response.status, body.code]).toEqual([status, code]);
  if (status === 429) expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
  return body.detail;
}

describe("what is too large is 413, is counted, and changes nothing", () => {
  test.each([
    ["body_bytes", "/register", JSON.stringify({ user_id: "x".repeat(2 ** 20) })],
    ["message_bytes", "/publish", { topic: "a", message: "x".repeat(70_000) }],
    ["batch_events", "/publish", Array.from({ length: 10_001 }, () => ({ topic: "a", message: 1 }))],
    [
      "batch_users",
      "/publish",
      Array.from({ length: 3 }, () => ({
        topic: "a",
        message: 1,
        user_ids: Array.from({ length: 7000 }, (_, id) => id),
      })),
    ],
  ] as const)("%s", async (limit, path, body) => {
    const relay = await startRelay();
    await refusedWith(relay.send("POST", path, body), 413, "too_large");
    await expectCounted(relay, limit);
  });

  test("message_bytes, of one item among many", async () => {
    const relay = await startRelay({ maxMessage: "1KiB" });
    const items = [1, "x".repeat(2000), 2].map((message) => ({ topic: "a", message }));
    const replies = (await (await relay.send("POST", "/publish", items)).json()) as object[];
    expect(replies).toMatchObject([{ matched: 0 }, { status: 413 }, { matched: 0 }]);
    await expectCounted(relay, "message_bytes");
  });

  test("frame_bytes closes with 1009", async () => {
    const relay = await startRelay({ maxMessage: "1KiB" });
    const client = await relay.connect((await relay.register({ user_id: 1 })).url);
    client.say("x".repeat(400 * 1024));
    expect((await client.closed).code).toBe(1009);
    await expectCounted(relay, "frame_bytes");
  });
});

test("json_depth: nesting is refused before it is read", async () => {
  const relay = await startRelay();
  const deep = `{"topic":"a","message":${"[".repeat(50_000)}${"]".repeat(50_000)}}`;
  await refusedWith(relay.send("POST", "/publish", deep), 400, "bad_request");
  await expectCounted(relay, "json_depth");
});

test("topics_per_client: 1,000, however they are added; and how long they are", async () => {
  const relay = await startRelay();
  const topics = Array.from({ length: 1001 }, (_, index) => `t${index}`);
  await refusedWith(relay.send("POST", "/register", { user_id: 1, topics }), 400, "bad_request");
  await expectCounted(relay, "topics_per_client");
  const { id, url } = await relay.register({ user_id: 1, topics: topics.slice(1) });
  await refusedWith(relay.send("PATCH", `/register/${id}`, { add: ["more"] }), 400, "bad_request");
  const client = await relay.connect(url);
  expect(await client.request("subscribe", { topics: ["more"] })).toMatchObject({ code: "bad_request" });
  client.say({ topics });
  expect(await client.json()).toMatchObject({ error: { code: "bad_request" } });
  expect(((await client.request("topics"))["topics"] as string[]).length).toBe(1000);
  await refusedWith(relay.send("POST", "/register", { user_id: 1, topics: ["t".repeat(256)] }), 400, "bad_request");
});

test("topics_per_client: 10,000 segments in all patterns of a client, and any number in its topics", async () => {
  const relay = await startRelay();
  const deep = (index: number): string => `${index}.${"a.".repeat(97)}*.*`;
  const patterns = Array.from({ length: 100 }, (_, index) => deep(index));
  const topics = Array.from({ length: 100 }, (_, index) => `t.${deep(index).replaceAll("*", "b")}`);
  const refused = await relay.send("POST", "/register", { user_id: 1, topics: [...patterns, ">"] });
  expect(await refused.text()).toContain(
    "a client has at most 10000 segments in all its patterns: this would be 10001",
  );
  expect(refused.status).toBe(400);
  await expectCounted(relay, "topics_per_client");
  const { id } = await relay.register({ user_id: 1, topics: [...patterns, ...topics] });
  await refusedWith(relay.send("PATCH", `/register/${id}`, { add: ["*"] }), 400, "bad_request");
  expect((await relay.send("PATCH", `/register/${id}`, { add: ["*"], remove: [deep(0)] })).status).toBe(200);
});

test("total_topics: the topics of all clients have a budget, and those who take less are not refused", async () => {
  const relay = await startRelay({ totalTopics: "1MiB" });
  const many = (name: string): string[] =>
    Array.from({ length: 1000 }, (_, index) => `${name}.${index}.`.padEnd(255, "x"));
  const made = [];
  for (let user_id = 0; user_id < 3; user_id++) made.push(await relay.register({ user_id, topics: many("a") }));
  const id = made[0]?.id;
  const detail = await refusedWith(relay.send("POST", "/register", { user_id: 4, topics: many("b") }), 429, "too_many");
  expect(detail).toContain("1048576 bytes");
  await expectCounted(relay, "total_topics");
  const before = Number(await metric(relay, "relay_topic_bytes"));
  expect(before).toBeGreaterThan(3 * 255_000);
  // What it had before is kept until it is known that nothing is owed for that.
  for (const topics of [["a"], ["b"]]) {
    expect((await relay.send("PATCH", `/register/${id}`, { topics })).status).toBe(200);
  }
  expect(Number(await metric(relay, "relay_topic_bytes"))).toBeLessThan(before - 255_000);
  await relay.register({ user_id: 4, topics: many("b") });
  for (let user_id = 0; user_id <= 4; user_id++) await relay.send("DELETE", `/users/${user_id}`);
  expect(await metric(relay, "relay_topic_bytes")).toBe("0");
});

test("clients and clients_per_user: a flood of registrations ends at the limit, connected or not", async () => {
  const relay = await startRelay({ maxClients: 5, maxClientsPerUser: 3 });
  const made = await Promise.all(Array.from({ length: 20 }, () => relay.send("POST", "/register", { user_id: 1 })));
  expect(made.filter(({ status }) => status === 200)).toHaveLength(3);
  await refusedWith(relay.send("POST", "/register", { user_id: 1 }), 429, "too_many");
  await expectCounted(relay, "clients_per_user");
  for (const user_id of [2, 3]) await relay.register({ user_id });
  await refusedWith(relay.send("POST", "/register", { user_id: 4 }), 429, "too_many");
  expect((await refusal(relay.connect("/ws"))).status).toBe(429);
  await expectCounted(relay, "clients");
  await relay.send("DELETE", "/users/1");
  await relay.register({ user_id: 4 });
});

test("connections_per_address: WebSockets and streams, until one of them ends", async () => {
  const relay = await startRelay({ maxConnections: 3 });
  const { url, stream_url } = await relay.register({ user_id: 1 });
  // What is refused does not count.
  for (let count = 0; count < 5; count++) expect((await relay.fetch("/stream/unknown")).status).toBe(404);
  const first = await relay.connect("/echo");
  await relay.connect("/ws");
  const stream = await openStream(stream_url);
  for (const path of ["/ws", "/echo", url]) expect((await refusal(relay.connect(path))).status).toBe(429);
  await refusedWith(relay.fetch(new URL((await relay.register({ user_id: 2 })).stream_url).pathname), 429, "too_many");
  expect(stream.rest).not.toContain("ended");
  await expectCounted(relay, "connections_per_address");
  await first.close();
  await expect
    .poll(async () =>
      relay.connect("/echo").then(
        () => "open",
        () => "refused",
      ),
    )
    .toBe("open");
});

test("publishes: a key that is too fast waits, and others do not", async () => {
  const relay = await startRelay({ ...keyed, publishRate: 10 });
  const items = Array.from({ length: 8 }, () => ({ topic: "a", message: 1 }));
  const publish = async (secret: string): Promise<Response> => relay.send("POST", "/publish", items, bearer(secret));
  expect([(await publish(KEY)).status, (await publish(KEY)).status]).toEqual([200, 200]);
  expect(await refusedWith(publish(KEY), 429, "too_many")).toContain("10 events a second");
  expect((await publish(`${KEY}2`)).status).toBe(200);
  await expectCounted(relay, "publishes", KEY);
});

test("publishes: each user that an event names counts", async () => {
  const relay = await startRelay({ ...keyed, publishRate: 1000 });
  const users = Array.from({ length: 900 }, (_, id) => id);
  const event = { topic: "a", message: 1, user_ids: users };
  const publish = async (secret: string, body: unknown): Promise<Response> =>
    relay.send("POST", "/publish", body, bearer(secret));
  for (const [secret, body] of [
    [KEY, event],
    [`${KEY}2`, [event]],
  ] as const) {
    expect([(await publish(secret, body)).status, (await publish(secret, body)).status]).toEqual([200, 200]);
    expect(await refusedWith(publish(secret, body), 429, "too_many")).toContain("1000 events a second");
    expect((await publish(secret, { ...event, user_ids: [1] })).status).toBe(200);
  }
});

test("publishes: events that are refused count, in a request of one too", async () => {
  const relay = await startRelay({ ...keyed, publishRate: 1 });
  const statuses: number[] = [];
  for (let count = 0; count < 5; count++) {
    statuses.push((await relay.send("POST", "/publish", { topic: "" }, bearer(KEY))).status);
  }
  expect(statuses.slice(0, 2)).toEqual([400, 400]);
  expect(statuses).toContain(429);
});

test("idempotency_keys: a key whose room is full is told when there is more, and others go on", async () => {
  const retention = { age: 3_600_000, count: 1000, bytes: 2 ** 26 };
  const relay = await startRelay(keyed, undefined, new MemoryEngine(retention, 100_000));
  const publish = async (secret: string, key: string): Promise<Response> => {
    const headers = { ...bearer(secret), "idempotency-key": key };
    return relay.send("POST", "/publish", { topic: "a", message: 1 }, headers);
  };
  let count = 0;
  let answer = await publish(KEY, "0");
  for (; answer.status === 200; answer = await publish(KEY, `${count}`)) count++;
  expect(count).toBeGreaterThan(500);
  expect(answer.status).toBe(429);
  const seconds = Number(answer.headers.get("retry-after"));
  expect(seconds).toBeGreaterThan(500);
  expect(seconds).toBeLessThanOrEqual(600);
  await refusedWith(publish(KEY, "more"), 429, "too_many");
  expect(await (await publish(KEY, "0")).json()).toMatchObject({ duplicate: true });
  expect((await publish(`${KEY}2`, "more")).status).toBe(200);
  await expectCounted(relay, "idempotency_keys", KEY);
});

test("requests: strangers who are too fast wait, those with a key do not; a relay of this machine's own has no such limit", async () => {
  const relay = await startRelay({ ...keyed, requestRate: 1 });
  const statuses = async (headers = {}): Promise<Set<number>> => {
    const answers = Array.from({ length: 15 }, () => relay.send("GET", "/metrics", undefined, headers));
    return new Set((await Promise.all(answers)).map(({ status }) => status));
  };
  expect(await statuses({ ...bearer("wrong") })).toEqual(new Set([401, 429]));
  expect(await statuses(bearer(KEY))).toEqual(new Set([200]));
  await refusedWith(relay.send("GET", "/metrics"), 429, "too_many");
  await expectCounted(relay, "requests", KEY);
  const own = await startRelay({ requestRate: 1 });
  for (let count = 0; count < 15; count++) expect((await own.fetch("/health")).status).toBe(200);
});

test("failed_auths: who has failed too often waits", async () => {
  const relay = await startRelay(keyed);
  const tries = Array.from({ length: 150 }, () => relay.send("GET", "/metrics", undefined, bearer("wrong")));
  expect(new Set((await Promise.all(tries)).map(({ status }) => status))).toEqual(new Set([401, 429]));
  await expect.poll(async () => (await relay.send("GET", "/metrics", undefined, bearer(KEY))).status).toBe(200);
  await expectCounted(relay, "failed_auths", KEY);
});

test("frames: a client that is too fast is told, and at last closed; bad_frames too", async () => {
  const relay = await startRelay({ frameRate: 10 });
  const client = await relay.connect((await relay.register({ user_id: 1 })).url);
  for (let count = 0; count < 200; count++) client.say("ping");
  expect((await client.closed).code).toBe(4429);
  expect(client.all.filter((frame) => frame === "pong").length).toBeGreaterThanOrEqual(10);
  expect(JSON.parse(client.all.at(-1) ?? "")).toMatchObject({ type: "error", error: { code: "too_many" } });
  await expectCounted(relay, "frames");
  await expectCounted(relay, "bad_frames");
});

test("replay_events: a long replay is interrupted, and goes on with the next connection", async () => {
  const relay = await startRelay({ maxReplay: 1000 });
  const items = Array.from({ length: 3000 }, (_, index) => ({ topic: "cats", message: index }));
  await relay.send("POST", "/publish", items);
  const { id } = await relay.register({ user_id: 1 });
  const received: number[] = [];
  let query = "?since=0&";
  for (let connection = 0; connection < 5 && received.length < 3000; connection++) {
    const client = await relay.connect(`/ws/${id}${query}format=json`);
    const last = connection < 2 ? (await client.closed).code : undefined;
    if (last === undefined) await client.take(1 + 3000 - received.length);
    else expect(last).toBe(4429);
    const events = client.all.map((frame) => JSON.parse(frame) as { type: string; id: string; message: number });
    for (const event of events) if (event.type === "event") received.push(event.message);
    // It has answered the close frame: so it has all that came before that.
    query = "?";
  }
  expect(received).toEqual(items.map(({ message }) => message));
  await expectCounted(relay, "replay_events");
});

test("a replay that is shorter than what is read at a time goes on too", async () => {
  const relay = await startRelay({ maxReplay: 5 });
  const { id } = await relay.register({ user_id: 1 });
  for (let message = 0; message < 18; message++) await relay.publish({ topic: "cats", message });
  const first = await relay.connect(`/ws/${id}`);
  await first.take(18);
  await first.close();
  const again = await relay.connect(`/ws/${id}?since=0`);
  expect((await again.closed).code).toBe(4429);
  const rest = await relay.connect(`/ws/${id}`);
  const received = again.all.length;
  expect(await rest.settled()).toEqual(Array.from({ length: 18 - received }, (_, index) => String(received + index)));
});

test.each([
  ["", undefined],
  [" with an idempotency key", "k"],
])("waits of publishers%s that have gone make room for others", async (_name, key) => {
  const relay = await startRelay({ maxWaits: 2 });
  const { url } = await relay.register({ user_id: 1 });
  await Bare.webSocket(relay.http, new URL(url).pathname);
  const event = { topic: "cats", message: "hi" };
  const gone = new AbortController();
  const headers = { "content-type": "application/json", ...(key !== undefined && { "idempotency-key": key }) };
  const init = { method: "POST", headers, body: JSON.stringify(event), signal: gone.signal };
  const waiting = [1, 2].map(() => relay.fetch("/publish?wait=30", init).catch(() => "gone"));
  const status = async (): Promise<number> => (await relay.send("POST", "/publish?wait=0", event)).status;
  await expect.poll(status).toBe(429);
  gone.abort();
  await Promise.all(waiting);
  await expect.poll(status).toBe(200);
  if (key === undefined) return;
  const again = await relay.publish(event, "?wait=0", { "idempotency-key": key });
  expect(again).toMatchObject({ duplicate: true, sent: 1, confirmed: 0 });
});

test("waits: so many publishers may wait, and what is refused is not published", async () => {
  const relay = await startRelay({ maxWaits: 2 });
  const { url } = await relay.register({ user_id: 1 });
  const bare = await Bare.webSocket(relay.http, new URL(url).pathname);
  const event = { topic: "cats", message: "xyzzy" };
  const waiting = [1, 2].map(() => relay.publish(event, "?wait=2"));
  const before = await relay.publish(event);
  await refusedWith(relay.send("POST", "/publish?wait=2", event), 429, "too_many");
  await expectCounted(relay, "waits");
  expect(before).toMatchObject({ sent: 1 });
  for (const { confirmed } of await Promise.all(waiting)) expect(confirmed).toBe(0);
  expect(bare.text.split("xyzzy").length - 1).toBe(3);
  await relay.publish(event, "?wait=0");
});

test("replacements: after three, a newer connection is let in, and waits while the present one goes on", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1, topics: ["t"] });
  for (let count = 0; count < 3; count++) await relay.connect(url);
  const present = await relay.connect(url);
  const newcomer = await relay.connect(url);
  await expect.poll(() => limited(relay, "replacements")).toBe(1);
  await relay.publish({ topic: "t", message: "1" });
  expect([await present.next(), newcomer.all]).toEqual(["1", []]);
  await expectCounted(relay, "replacements");
});

test(
  "total_buffer: all slow connections together hold no more than total-buffer, and get everything",
  { timeout: 60_000 },
  async () => {
    const relay = await startRelay({ totalBuffer: "1MiB", maxBuffer: "1MiB" });
    const connections: Bare[] = [];
    for (let user_id = 0; user_id < 20; user_id++) {
      const { url } = await relay.register({ user_id, topics: ["t"] });
      const bare = await Bare.webSocket(relay.http, `${new URL(url).pathname}?ack=manual`);
      bare.socket.pause();
      connections.push(bare);
    }
    const message = "x".repeat(60_000);
    for (let count = 0; count < 200; count++) await relay.publish({ topic: "t", message });
    const buffered = Number(await metric(relay, "relay_buffered_bytes"));
    expect(buffered).toBeGreaterThan(0);
    // Each connection may have one frame waiting, whatever waits for the others.
    expect(buffered).toBeLessThan(2 ** 20 + 20 * 64 * 1024 + 2 ** 20);
    await expectCounted(relay, "total_buffer");
    for (const { socket } of connections) socket.resume();
    const events = ({ text }: Bare): number => text.split(message).length - 1;
    await expect.poll(() => connections.map(events), { timeout: 30_000 }).toEqual(connections.map(() => 200));
    await expect.poll(() => metric(relay, "relay_buffered_bytes")).toBe("0");
  },
);

test("every limit there is was shown to be counted", () => {
  // It needs a process of its own: test/process/connections.test.ts.
  shown.add("open_files");
  expect([...shown].sort()).toEqual([...LIMIT_NAMES].sort());
});

test("a bucket lets through its burst, then its rate, and more than it holds when it is full", async () => {
  const bucket = new TokenBucket(10, 1000);
  expect(Array.from({ length: 10 }, () => bucket.take())).toEqual(Array.from({ length: 10 }, () => 0));
  const large = new TokenBucket(10, 1000);
  expect(large.take(1000)).toBe(0);
  const wait = large.take();
  expect(wait).toBeGreaterThan(0.9);
  expect(wait).toBeLessThan(1);
});
