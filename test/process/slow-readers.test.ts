import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { expect, test } from "vitest";
import { python, type Python } from "../support/python.js";
import { startRelay, type TestRelay } from "../support/relay.js";

const clients = python();

/** Real clients that handle one event after the other: some get to a ping only behind the events before it. */
const READERS = [
  { library: "websockets", count: 500, seconds: 0.01, size: 10 },
  // More than the library reads ahead: it answers the pings among what it has read, and then none for long.
  { library: "websockets", count: 500, seconds: 0.01, size: 1000 },
  { library: "websockets.sync", count: 500, seconds: 0.01, size: 10 },
  { library: "websocket-client", count: 500, seconds: 0.01, size: 10 },
  // More time for one event than between two pings.
  { library: "websocket-client", count: 3, seconds: 2.2, size: 10 },
];

/** @returns what the next connection of a client's URL is sent, when the client has handled all events */
async function read(relay: TestRelay, user: number, { library, count, seconds, size }: (typeof READERS)[number]) {
  const { url } = await relay.register({ user_id: user, topics: ["a"] });
  const messages = Array.from({ length: count }, (_, index) => `event ${index} ${"x".repeat(size)}`);
  const events = messages.map((message) => ({ user_id: user, topic: "a", message }));
  const receipts = (await (await relay.send("POST", "/publish", events)).json()) as { id: string }[];
  const child = (clients as Python).run("slow_reader.py", library, url, String(seconds));
  const printed: string[] = [];
  createInterface(child.stdout as Readable).on("line", (line) => printed.push(line));
  await expect.poll(() => printed.length, { timeout: 20_000, interval: 100 }).toBe(count);
  expect(printed).toEqual(messages);
  const confirmed = async (): Promise<unknown> => {
    const response = await relay.send("GET", `/events/${receipts.at(-1)?.id}`);
    return ((await response.json()) as { confirmed: number }).confirmed;
  };
  await expect.poll(confirmed, { timeout: 10_000 }).toBe(1);
  child.kill();
  await once(child, "close");
  return (await relay.connect(url)).settled();
}

test.skipIf(!clients)("slow sequential readers keep their connection, and are sent nothing twice", async () => {
  const relay = await startRelay({ pingInterval: "1s" });
  let connections = 0;
  relay.app.server.on("upgrade", () => connections++);
  const again = await Promise.all(READERS.map((reader, user) => read(relay, user, reader)));
  expect(again).toEqual(READERS.map(() => []));
  // Each once, and once more to see what would be sent again.
  expect(connections).toBe(2 * READERS.length);
});

test.skipIf(!clients)("with manual acks, a client that dies has each event handled at least once", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1, topics: ["a"] });
  const messages = Array.from({ length: 600 }, (_, index) => `event ${index}`);
  await relay.send(
    "POST",
    "/publish",
    messages.map((message) => ({ topic: "a", message })),
  );
  const handled: string[] = [];
  const start = (count: number): ChildProcess => {
    const child = (clients as Python).run("manual_ack.py", url, String(count));
    createInterface(child.stdout as Readable).on("line", (line) => handled.push(line));
    return child;
  };
  await once(start(118), "close");
  expect(handled).toHaveLength(118);
  start(Infinity);
  await expect.poll(() => handled.at(-1), { timeout: 10_000 }).toBe(messages.at(-1));
  // What it acknowledged last may have been lost with its connection: then these come twice.
  expect([...new Set(handled)]).toEqual(messages);
});
