import { expect, test } from "vitest";
import { type Registered, startRelay } from "../support/relay.js";
import { refusal } from "../support/socket.js";

test("a registration says where to connect, and what it is", async () => {
  const relay = await startRelay({ defaultTopics: "cats, news.*" });
  const client = await relay.register({ user_id: "bob", topics: ["a", "b.>", "a"], ttl: 60 });
  expect(client).toEqual({
    url: `${relay.ws}/ws/${client.id}`,
    stream_url: `${relay.http}/stream/${client.id}`,
    id: client.id,
    user_id: "bob",
    topics: ["a", "b.>"],
    expires_in: 60,
  });
  expect(await relay.register({ user_id: 0 })).toMatchObject({ topics: ["cats", "news.*"], expires_in: 300 });
  expect((await relay.register({ user_id: 0, topics: [] })).topics).toEqual([]);
});

test("URLs have the host that the caller used, or the public one, and the prefix", async () => {
  const behind = await startRelay({ publicUrl: "https://relay.example/base/" });
  const { url, stream_url, id } = await behind.register({ user_id: 1 });
  expect([url, stream_url]).toEqual([`wss://relay.example/base/ws/${id}`, `https://relay.example/base/stream/${id}`]);
  const plain = await startRelay({ insecureOpen: true });
  const port = new URL(plain.http).port;
  const answer = await fetch(`http://localhost:${port}/register`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-forwarded-host": "evil.example", "x-forwarded-proto": "https" },
    body: '{"user_id":1}',
  });
  expect(((await answer.json()) as Registered).url).toMatch(new RegExp(`^ws://localhost:${port}/ws/`));
});

test("a client can be looked up, also by its dashed id, and is not to be cached", async () => {
  const relay = await startRelay();
  const { id } = await relay.register({ user_id: 1, ttl: 60 });
  const dashed = id.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-").toUpperCase();
  const answer = await relay.send("GET", `/register/${dashed}`);
  expect(answer.headers.get("cache-control")).toBe("no-store");
  expect(await answer.json()).toMatchObject({ id, user_id: 1, topics: ["cats"], expires_in: 60, connected: false });
  const socket = await relay.connect(`/ws/${dashed}`);
  await socket.settled();
  expect(await (await relay.send("GET", `/register/${id}`)).json()).toMatchObject({ connected: true });
});

test("topics are replaced, added and removed, and at most a thousand", async () => {
  const relay = await startRelay();
  const { id } = await relay.register({ user_id: 1 });
  const patch = async (change: object) => {
    const answer = await relay.send("PATCH", `/register/${id}`, change);
    return answer.status === 200 ? ((await answer.json()) as Registered).topics : answer.status;
  };
  expect(await patch({ topics: ["a", "b"] })).toEqual(["a", "b"]);
  expect(await patch({ add: ["c.*"], remove: ["a", "zzz"] })).toEqual(["b", "c.*"]);
  expect(await patch({ topics: ["a"], add: ["b"] })).toBe(400);
  const many = Array.from({ length: 1000 }, (_, index) => `t${index}`);
  expect(await patch({ add: many })).toBe(400);
  expect(await patch({ topics: many })).toHaveLength(1000);
  expect(await patch({ topics: [...many, "one more"] })).toBe(400);
});

test("removing says whether there was one, always with 200, and ends the connection", async () => {
  const relay = await startRelay();
  const { id, url } = await relay.register({ user_id: 1 });
  const socket = await relay.connect(url, ["relay.v1.json"]);
  await socket.next();
  expect(await (await relay.send("DELETE", `/register/${id}`)).json()).toEqual({ removed: true });
  expect(await socket.json()).toEqual({
    type: "notification",
    data: { event: "disconnected", code: 4404, reason: "client removed or expired", reconnect: false },
  });
  expect(await socket.closed).toMatchObject({ code: 4404 });
  for (const path of [`/register/${id}`, "/register/nonsense"]) {
    const answer = await relay.send("DELETE", path);
    expect([answer.status, await answer.json()]).toEqual([200, { removed: false }]);
  }
  for (const method of ["GET", "PATCH"]) {
    expect((await relay.send(method, `/register/${id}`, method === "PATCH" ? { topics: [] } : undefined)).status).toBe(
      404,
    );
  }
});

test("removing a user removes all its clients", async () => {
  const relay = await startRelay();
  const socket = await relay.connect((await relay.register({ user_id: 1 })).url);
  await relay.register({ user_id: "1" });
  const other = await relay.register({ user_id: 2 });
  expect(await (await relay.send("DELETE", "/users/1")).json()).toEqual({ removed: 2 });
  expect((await socket.closed).code).toBe(4404);
  expect((await relay.send("GET", `/register/${other.id}`)).status).toBe(200);
  expect(await (await relay.send("DELETE", "/users/1")).json()).toEqual({ removed: 0 });
});

test("a client without a connection is forgotten after its ttl; one with a connection is not", async () => {
  const relay = await startRelay();
  const gone = await relay.register({ user_id: 1, ttl: 1 });
  const kept = await relay.register({ user_id: 1, ttl: 1 });
  const socket = await relay.connect(kept.url);
  await socket.settled();
  // Nothing tells of being forgotten: the receipts' counts are what it is seen by.
  const deadline = Date.now() + 5000;
  while ((await relay.publish({ topic: "cats", message: 1 })).matched > 1) {
    if (Date.now() > deadline) throw new Error("not forgotten");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  expect((await refusal(relay.connect(gone.url))).status).toBe(404);
  expect((await relay.send("GET", `/register/${gone.id}`)).status).toBe(404);
  await socket.close();
  const again = await relay.connect(kept.url);
  await again.settled();
});

test("a newer connection of the same client replaces the older", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const older = await relay.connect(url);
  const newer = await relay.connect(url);
  expect(await older.closed).toMatchObject({ code: 4409 });
  expect(await relay.publish({ topic: "cats", message: "x" })).toMatchObject({ matched: 1, sent: 1 });
  expect(await newer.next()).toBe("x");
});
