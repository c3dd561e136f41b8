import { expect, test } from "vitest";
import { MemoryEngine } from "../../src/engines/memory.js";
import { python } from "../support/python.js";
import { limited, startLoggedRelay, startRelay, type TestRelay } from "../support/relay.js";
import type { Frames } from "../support/socket.js";
import { openStream } from "../support/stream.js";

/** Takes over three times. @returns the connection that has the client */
async function contest(relay: TestRelay, url: string): Promise<Frames> {
  let older = await relay.connect(url);
  for (let count = 0; count < 3; count++) {
    const newer = await relay.connect(url);
    expect(await older.closed).toMatchObject({ code: 4409 });
    older = newer;
  }
  return older;
}

/** A newcomer is there, and waits. */
async function waiting(relay: TestRelay, count = 1): Promise<void> {
  await expect.poll(() => limited(relay, "replacements")).toBe(count);
}

test("newcomers wait, sockets and streams alike, and the last one that is still there takes over", async () => {
  const relay = await startRelay();
  const { url, stream_url, id } = await relay.register({ user_id: 1, topics: ["t"] });
  const present = await contest(relay, url);
  const started = performance.now();
  const stream = await openStream(`${stream_url}?format=json`, { accept: "application/x-ndjson" });
  const next = await relay.connect(url);
  const gone = await relay.connect(url);
  const goneStream = await openStream(stream_url);
  await waiting(relay, 4);
  next.say("ping");
  await gone.close();
  goneStream.close();
  await relay.publish({ topic: "t", message: "meanwhile" });
  expect(await present.next()).toBe("meanwhile");
  // The present connection is not disturbed, and answers as ever.
  expect(await present.settled()).toEqual([]);
  expect(JSON.parse(await stream.next())).toMatchObject({ data: { event: "disconnected", code: 4409 } });
  await expect(stream.next()).rejects.toThrow("response ended");
  expect(await present.closed).toMatchObject({ code: 4409 });
  expect(performance.now() - started).toBeGreaterThan(4000);
  expect(performance.now() - started).toBeLessThan(7000);
  // What it said while it waited is answered now.
  while ((await next.next()) !== "pong");
  await relay.publish({ topic: "t", message: "then" });
  expect(await next.next()).toBe("then");
  expect(await (await relay.send("GET", `/register/${id}`)).json()).toMatchObject({ connected: true });
});

test("a newcomer that waits goes on at once when the present connection ends, and loses nothing", async () => {
  const relay = await startRelay();
  const { url, stream_url } = await relay.register({ user_id: 1, topics: ["t"] });
  const present = await contest(relay, url);
  const stream = await openStream(stream_url, { accept: "application/x-ndjson" });
  await waiting(relay);
  const started = performance.now();
  await present.drop();
  await relay.publish({ topic: "t", message: "after" });
  expect(await stream.next()).toBe('"after"');
  expect(performance.now() - started).toBeLessThan(2000);
});

test("a newcomer that sent much and went away while it waited takes nothing over", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1, topics: ["t"] });
  const present = await contest(relay, url);
  const stays = await relay.connect(url);
  await waiting(relay);
  const gone = await relay.connect(url);
  await waiting(relay, 2);
  // More than the relay reads before it answers.
  for (let count = 0; count < 1000; count++) gone.say("ping".padEnd(1000));
  await gone.drop();
  await present.settled();
  await present.drop();
  expect(await stays.settled()).toEqual([]);
});

test("a newcomer that waits is closed with 4404 when its client is removed", async () => {
  const relay = await startRelay();
  const { url, id } = await relay.register({ user_id: 1 });
  await contest(relay, url);
  const newcomer = await relay.connect(url);
  await waiting(relay);
  await relay.send("DELETE", `/register/${id}`);
  expect(await newcomer.closed).toMatchObject({ code: 4404 });
});

test("a newcomer that waits is closed with 1012 when the relay ends", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const present = await contest(relay, url);
  const newcomer = await relay.connect(url);
  await waiting(relay);
  const closing = relay.close();
  for (const { closed } of [present, newcomer]) expect(await closed).toMatchObject({ code: 1012 });
  await closing;
});

const clients = python();

test.skipIf(!clients)(
  "three loops of Python's websockets on one URL: few connections, few log lines, nothing lost",
  async () => {
    const { lines, relay, ws } = await startLoggedRelay();
    const { id } = await relay.clients.register({ userId: 1, topics: ["t"], ttl: 60 });
    const duel = clients?.run("duel.py", `${ws}/ws/${id}`, "3");
    let said = "";
    duel?.stdout?.on("data", (chunk: Buffer) => (said += chunk.toString()));
    const count = (word: string): number => said.split("\n").filter((line) => line.startsWith(word)).length;
    // All three are there, the first four connections are made, and those that lost theirs wait.
    await expect.poll(() => count("open"), { timeout: 10_000 }).toBe(6);
    const published: string[] = [];
    // Until the next replacement, and somewhat longer.
    while (count("open") < 8) {
      const message = `m${published.length}`;
      published.push(message);
      await relay.publisher.publish([{ topic: "t", message: JSON.stringify(message) }]);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await expect.poll(() => new Set(said.match(/m\d+/g))).toEqual(new Set(published));
    expect(count("open")).toBe(8);
    const logged = (message: string): number => lines.filter(({ msg }) => msg === message).length;
    expect([logged("connected"), logged("disconnected")]).toEqual([3, 3]);
    const reports = lines.filter(({ level }) => level === 40);
    expect(reports).toEqual([expect.objectContaining({ client: `${id.slice(0, 8)}…`, user_id: 1, replacements: 3 })]);
  },
);

test("a newcomer that takes over may send as much as any other from then on", async () => {
  const engine = new MemoryEngine({ age: 3600, count: 1000, bytes: 2 ** 20 });
  const relay = await startRelay({}, undefined, engine);
  const { url } = await relay.register({ user_id: 1 });
  const present = await contest(relay, url);
  // Going back is a change of its client, which the engine is to take.
  const next = await relay.connect(`${url}?since=0`);
  await waiting(relay);
  // The engine takes its time for the replacement.
  const append = engine.append.bind(engine);
  let goOn = (): void => undefined;
  const held = new Promise<void>((resolve) => (goOn = resolve));
  const asked = new Promise<void>((resolve) => {
    engine.append = async (...what) => {
      resolve();
      await held;
      return append(...what);
    };
  });
  await present.drop();
  await asked;
  for (let count = 0; count < 100; count++) next.say("ping");
  const other = await relay.connect(`${relay.ws}/echo`);
  other.say("all before was read");
  await other.next();
  goOn();
  expect(await next.take(100)).toEqual(Array.from({ length: 100 }, () => "pong"));
});
