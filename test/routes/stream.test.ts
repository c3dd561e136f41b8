import net from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { startRelay, type TestRelay } from "../support/relay.js";
import { openStream, type Stream } from "../support/stream.js";

const ndjson = { accept: "application/x-ndjson" };

async function publish(relay: TestRelay, ...messages: unknown[]): Promise<string[]> {
  const ids: string[] = [];
  for (const message of messages) ids.push((await relay.publish({ topic: "cats", message })).id);
  return ids;
}

/** All that came, when the relay has ended the stream. */
async function ended(stream: Stream): Promise<string[]> {
  await expect(stream.take(100)).rejects.toThrow("response ended");
  return stream.all;
}

test("server-sent events: retry, ids, data, and headers that proxies heed", async () => {
  const relay = await startRelay();
  const { stream_url } = await relay.register({ user_id: 1 });
  const ids = await publish(relay, "between", { a: 1 });
  const stream = await openStream(stream_url);
  expect(stream.response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
  expect(stream.response.headers.get("cache-control")).toBe("no-store, no-transform");
  expect(stream.response.headers.get("x-accel-buffering")).toBe("no");
  expect(await stream.next()).toBe("retry: 2000");
  expect(await stream.next()).toBe(`id: ${ids[0]}\ndata: between`);
  expect(await stream.next()).toBe(`id: ${ids[1]}\ndata: {"a":1}`);
  const [live] = await publish(relay, "live");
  expect(await stream.next()).toBe(`id: ${live}\ndata: live`);
});

test("line breaks in messages stay inside their event", async () => {
  const relay = await startRelay();
  const { stream_url } = await relay.register({ user_id: 1 });
  const stream = await openStream(stream_url);
  await stream.next();
  const [id] = await publish(relay, "one\ntwo\r\nthree\rid: 0-0\n\ndata: forged");
  expect(await stream.next()).toBe(
    `id: ${id}\ndata: one\ndata: two\ndata: three\ndata: id: 0-0\ndata: \ndata: data: forged`,
  );
});

test("Last-Event-ID resumes, as EventSource does", async () => {
  const relay = await startRelay();
  const { stream_url } = await relay.register({ user_id: 1 });
  const ids = await publish(relay, 1, 2, 3);
  const stream = await openStream(stream_url, { "last-event-id": ids[1] ?? "" });
  expect(await stream.take(2)).toEqual(["retry: 2000", `id: ${ids[2]}\ndata: 3`]);
});

test("lines of JSON by Accept, in each format", async () => {
  const relay = await startRelay();
  const { stream_url } = await relay.register({ user_id: 1 });
  const [id] = await publish(relay, "two\nlines");
  const raw = await openStream(`${stream_url}?since=0`, ndjson);
  expect(raw.response.headers.get("content-type")).toBe("application/x-ndjson");
  expect(JSON.parse(await raw.next())).toBe("two\nlines");
  const json = await openStream(`${stream_url}?since=0&format=json`, ndjson);
  expect(JSON.parse(await json.next())).toMatchObject({
    type: "notification",
    data: { event: "connected", gap: false },
  });
  expect(JSON.parse(await json.next())).toMatchObject({ type: "event", id, message: "two\nlines" });
  const cloudevents = await openStream(`${stream_url}?since=0&format=cloudevents`, ndjson);
  expect(JSON.parse(await cloudevents.next())).toMatchObject({ specversion: "1.0", id, data: "two\nlines" });
});

test("a stream counts as sent, is replaced by a newer connection, and is not confirmed by being written", async () => {
  const relay = await startRelay();
  const { stream_url, id } = await relay.register({ user_id: 1 });
  const older = await openStream(`${stream_url}?format=json`, ndjson);
  await older.next();
  const receipt = await relay.publish({ topic: "cats", message: 1 }, "?wait=0.1");
  expect(receipt).toMatchObject({ sent: 1, confirmed: 0 });
  await older.next();
  const newer = await relay.connect(`/ws/${id}`);
  expect(JSON.parse(await older.next())).toMatchObject({ data: { event: "disconnected", code: 4409 } });
  await expect(older.next()).rejects.toThrow("response ended");
  expect(await newer.next()).toBe("1");
});

test("an idle stream is kept open by comments", async () => {
  const relay = await startRelay({ pingInterval: "1s" });
  const stream = await openStream((await relay.register({ user_id: 1 })).stream_url);
  expect(await stream.take(3)).toEqual(["retry: 2000", ":", ":"]);
});

test("the last words for an EventSource: restarting, with when to come back; after another connection, much later", async () => {
  const relay = await startRelay();
  const { stream_url, id } = await relay.register({ user_id: 1 });
  const streams = [await openStream(stream_url), await openStream(stream_url), await openStream(stream_url, ndjson)];
  const other = await relay.register({ user_id: 2 });
  streams.push(await openStream(other.stream_url));
  const gone = await openStream((await relay.register({ user_id: 3 })).stream_url);
  await relay.connect(`/ws/${id}`);
  await relay.send("DELETE", "/users/3");
  await relay.close();
  const [replaced, , lines, restarting] = await Promise.all(streams.map(async (stream) => ended(stream)));
  expect(replaced).toEqual(["retry: 2000", "retry: 3600000"]);
  expect(lines).toEqual([]);
  expect(await ended(gone)).toEqual(["retry: 2000"]);
  const [, last, ...more] = restarting ?? [];
  const said = /^event: restarting\nretry: (\d+)\ndata: {"retry_after_ms":(\d+)}$/.exec(last ?? "");
  const [retry, after] = [Number(said?.[1]), Number(said?.[2])];
  expect([retry, after <= 1000, more]).toEqual([Math.max(after, 500), true, []]);
});

test("a stream that is gone leaves its client waiting", async () => {
  const relay = await startRelay();
  const { stream_url, id } = await relay.register({ user_id: 1 });
  const stream = await openStream(stream_url);
  await stream.next();
  stream.close();
  const deadline = Date.now() + 5000;
  for (let connected = true; connected;) {
    ({ connected } = (await (await relay.send("GET", `/register/${id}`)).json()) as { connected: boolean });
    if (Date.now() > deadline) throw new Error("still connected");
  }
  expect(await relay.publish({ topic: "cats", message: 1 })).toMatchObject({ sent: 0, waiting: 1 });
});

test("what can not be a stream is refused", async () => {
  const relay = await startRelay();
  const { id } = await relay.register({ user_id: 1 });
  expect((await relay.fetch(`/stream/${"0".repeat(32)}`)).status).toBe(404);
  expect((await relay.fetch(`/stream/${id}?format=xml`)).status).toBe(400);
  expect((await relay.fetch(`/stream/${id}?since=soon`)).status).toBe(400);
  const head = await relay.fetch(`/stream/${id}`, { method: "HEAD" });
  expect([head.status, head.headers.get("allow")]).toEqual([405, "GET"]);
});

test("a stream that waits behind another response on its connection is refused", async () => {
  const relay = await startRelay();
  const [one, two] = [await relay.register({ user_id: 1 }), await relay.register({ user_id: 1 })];
  const { hostname, port } = new URL(relay.http);
  const socket = net.connect(Number(port), hostname);
  onTestFinished(() => void socket.destroy());
  for (const { id } of [one, two]) socket.write(`GET /stream/${id} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  const deadline = Date.now() + 5000;
  for (let sent = 0; sent === 0;) {
    ({ sent } = await relay.publish({ topic: "cats", message: 1 }));
    if (Date.now() > deadline) throw new Error("the first stream did not open");
  }
  expect(await relay.publish({ topic: "cats", message: 1 })).toMatchObject({ matched: 2, sent: 1, waiting: 1 });
});

test("a replay that is too much to be kept is told of in the header", async () => {
  const relay = await startRelay();
  const before = await relay.publish({ topic: "zero", message: 0 });
  const long = (name: string): string[] => Array.from({ length: 965 }, (_, n) => `${name}.${n}.`.padEnd(255, "x"));
  const { id } = await relay.register({ user_id: 1, topics: ["owed", ...long("first")] });
  await relay.publish({ topic: "owed", message: "owed" });
  for (const name of ["a", "b", "c", "d"]) await relay.send("PATCH", `/register/${id}`, { topics: long(name) });
  const stream = await openStream(`${relay.http}/stream/${id}?since=${before.id}&format=raw`);
  expect(stream.response.headers.get("relay-gap")).toBe("true");
});
