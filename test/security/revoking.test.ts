import { expect, test } from "vitest";
import { Bare, upgrade } from "../support/bare.js";
import { startRelay } from "../support/relay.js";
import { openStream } from "../support/stream.js";

test("removing a user ends all of its connections within a second, and leaves others alone", async () => {
  const relay = await startRelay();
  const other = await relay.connect((await relay.register({ user_id: 2 })).url);
  const clients = await Promise.all(Array.from({ length: 20 }, () => relay.register({ user_id: 1 })));
  const sockets = await Promise.all(clients.slice(1).map(({ url }) => relay.connect(`${url}?format=json`)));
  const stream = await openStream(clients[0]?.stream_url ?? "");
  const start = performance.now();
  expect(await (await relay.send("DELETE", "/users/1")).json()).toEqual({ removed: 20 });
  expect(new Set((await Promise.all(sockets.map(({ closed }) => closed))).map(({ code }) => code))).toEqual(
    new Set([4404]),
  );
  await expect(stream.take(10)).rejects.toThrow("response ended");
  expect(performance.now() - start).toBeLessThan(1000);
  for (const { all } of sockets) {
    expect(JSON.parse(all.at(-1) ?? "")).toMatchObject({
      data: { event: "disconnected", code: 4404, reconnect: false },
    });
  }
  expect(await other.settled()).toEqual([]);
});

test("also of those that do not read, or do not answer", async () => {
  const relay = await startRelay();
  const items = Array.from({ length: 400 }, (_, index) => ({
    topic: "cats",
    message: String(index).padStart(20_000, "x"),
  }));
  for (let at = 0; at < items.length; at += 100) await relay.send("POST", "/publish", items.slice(at, at + 100));
  const paths = ["ws", "stream"].map(async (kind) => `/${kind}/${(await relay.register({ user_id: 1 })).id}?since=0`);
  const [socket, stream] = [await Bare.open(relay.http), await Bare.open(relay.http)];
  socket.write(`${upgrade((await paths[0]) ?? "")}\r\n\r\n`);
  stream.write(`GET ${(await paths[1]) ?? ""} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  await Promise.all([socket.until("101"), stream.until("200")]);
  for (const { socket: paused } of [socket, stream]) paused.pause();
  const open = async (): Promise<number> =>
    new Promise((resolve) => relay.app.server.getConnections((_, count) => resolve(count)));
  const before = await open();
  await relay.send("DELETE", "/users/1");
  await expect.poll(open, { timeout: 1500 }).toBeLessThanOrEqual(before - 2);
});

test("what is refused for its host registers nobody", async () => {
  const relay = await startRelay({ insecureOpen: true });
  const bare = await Bare.open(relay.http);
  const body = '{"user_id":1}';
  const head = `POST /register HTTP/1.1\r\nHost: a/b\r\nContent-Type: application/json\r\nConnection: close`;
  bare.write(`${head}\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  expect(await bare.closed).toMatch(/^HTTP\/1.1 400 /);
  expect(await (await relay.send("DELETE", "/users/1")).json()).toEqual({ removed: 0 });
});
