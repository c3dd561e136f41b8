// The lesson with an echo server, a chat room, a heartbeat and typed JSON messages.
import { once } from "node:events";
import { expect, test } from "vitest";
import { startRelay } from "../support/relay.js";

test("the echo server returns what it gets", async () => {
  const relay = await startRelay();
  const socket = await relay.connect("/echo");
  for (const text of ["hello", "", "ping", '{"a":1}', "ä🐈"]) {
    socket.say(text);
    expect(await socket.next()).toBe(text);
  }
  const echoed = once(socket.socket, "message");
  socket.socket.send(Buffer.from([0, 255, 1]));
  expect(await echoed).toEqual([Buffer.from([0, 255, 1]), true]);
});

test("the chat room: join, chat, leave", async () => {
  const relay = await startRelay();
  const ann = await relay.connect("/ws");
  const bob = await relay.connect("/ws");
  const cat = await relay.connect("/ws");
  for (const each of [ann, bob, cat]) await each.settled();
  for (const each of [ann, bob]) {
    each.say({ type: "join", room: "x" });
    expect(await each.json()).toMatchObject({ type: "notification", data: { event: "topics", topics: ["x"] } });
  }
  ann.say({ type: "chat", content: "hi" });
  for (const each of [ann, bob]) expect(await each.json()).toMatchObject({ topic: "x", message: "hi" });
  bob.say({ type: "leave", room: "x" });
  await bob.settled();
  ann.say({ type: "chat", content: "still here" });
  expect(await ann.json()).toMatchObject({ message: "still here" });
  expect([await bob.settled(), await cat.settled()]).toEqual([[], []]);
  bob.say({ type: "chat", content: "to nobody" });
  expect(await bob.json()).toMatchObject({ type: "error", error: { code: "bad_request" } });
  bob.say("not json");
  expect(await bob.json()).toMatchObject({ type: "error", error: { code: "bad_request" } });
  expect(await bob.settled()).toEqual([]);
});

test("the heartbeat: pings come, and who does not answer is ended", async () => {
  const relay = await startRelay({ pingInterval: 1000 });
  const alive = await relay.connect((await relay.register({ user_id: 1 })).url);
  const { url } = await relay.register({ user_id: 2 });
  const { WebSocket } = await import("ws");
  const silent = new WebSocket(url, { autoPong: false });
  const [code] = (await once(silent, "close")) as [number];
  expect(code).toBe(4408);
  await once(alive.socket, "ping");
  expect(alive.socket.readyState).toBe(WebSocket.OPEN);
});
