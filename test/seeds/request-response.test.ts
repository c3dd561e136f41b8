// The request/response/notification server: its messages as they stand.
import { expect, test } from "vitest";
import { startRelay } from "../support/relay.js";

test("connected, echo, broadcast, get_connections", async () => {
  const relay = await startRelay();
  const one = await relay.connect("/ws");
  const connected = await one.json<{ data: { connection_id: string } }>();
  expect(connected).toMatchObject({ type: "notification", data: { event: "connected", user_id: "$1", gap: false } });
  expect(connected.data.connection_id).toMatch(/^[\da-f]{32}$/);
  const two = await relay.connect("/ws");
  expect(await two.json()).toMatchObject({ data: { event: "connected", user_id: "$2" } });

  one.say({ id: "msg-123", type: "request", action: "echo", payload: { message: "Hello" } });
  expect(await one.json()).toEqual({ id: "msg-123", type: "response", data: { echo: "Hello" } });
  one.say({ id: "1", type: "request", action: "echo", payload: { message: "test" } });
  expect(await one.json()).toEqual({ id: "1", type: "response", data: { echo: "test" } });
  one.say({ id: "3", type: "request", action: "get_connections", payload: {} });
  expect(await one.json()).toEqual({ id: "3", type: "response", data: { connections: 2 } });

  one.say({ id: "2", type: "request", action: "broadcast", payload: { message: "Hello everyone!" } });
  const answers = [await one.json(), await one.json()];
  expect(answers).toContainEqual(expect.objectContaining({ id: "2", type: "response" }));
  expect(answers).toContainEqual(expect.objectContaining({ type: "event", message: "Hello everyone!" }));
  expect(await two.json()).toMatchObject({ type: "event", topic: "$broadcast", message: "Hello everyone!" });
});

test("errors are answered, with the request's id", async () => {
  const relay = await startRelay();
  const client = await relay.connect("/ws");
  await client.json();
  client.say({ id: "9", type: "request", action: "dance", payload: {} });
  expect(await client.json()).toMatchObject({ id: "9", type: "error", error: { code: "bad_request" } });
  client.say({ id: "10", type: "request", action: "echo", payload: {} });
  expect(await client.json()).toMatchObject({ id: "10", type: "error" });
  client.say("{");
  expect(await client.json()).toMatchObject({ type: "error", error: { code: "bad_request" } });
});

test("150 connections at once, all of them reached", async () => {
  const relay = await startRelay();
  const clients = await Promise.all(Array.from({ length: 150 }, () => relay.connect("/ws")));
  const connected = await Promise.all(clients.map((client) => client.json<{ data: { user_id: number } }>()));
  expect(new Set(connected.map(({ data }) => data.user_id)).size).toBe(150);
  expect(await clients[0]?.request("get_connections")).toEqual({ connections: 150 });
  clients[1]?.say({ id: "b", type: "request", action: "broadcast", payload: { message: "all" } });
  for (const client of clients) {
    const frame = await client.json<{ type: string }>();
    expect(frame.type === "event" ? frame : await client.json()).toMatchObject({ message: "all" });
  }
  await Promise.all(clients.slice(1).map((client) => client.close()));
  expect(await clients[0]?.request("get_connections")).toEqual({ connections: 1 });
});

test("a page at /, and /health", async () => {
  const relay = await startRelay();
  const page = await relay.fetch("/");
  expect([page.status, page.headers.get("content-type")]).toEqual([200, "text/html; charset=utf-8"]);
  expect(await page.text()).toContain("<title>topic-relay</title>");
  expect(await (await relay.fetch("/health")).json()).toEqual({ status: "ok" });
});
