import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, onTestFinished, test, vi } from "vitest";
import { Bare } from "../support/bare.js";
import { startLoggedRelay, startRelay } from "../support/relay.js";
import { openSocket, refusal } from "../support/socket.js";

/** A masked text frame (RFC 6455 section 5.2), with a mask of zeros. */
function frame(text: string): Buffer {
  const payload = Buffer.from(text);
  const head = Buffer.alloc(14);
  head[0] = 0x81;
  head[1] = 0x80 | 127;
  head.writeBigUInt64BE(BigInt(payload.length), 2);
  return Buffer.concat([head, payload]);
}

function echoOf(bytes: number): string {
  return JSON.stringify({ id: 1, type: "request", action: "echo", payload: { message: "x".repeat(bytes) } });
}

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** Bytes that this process holds, in the heap and outside of it. */
function held(): number {
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** Writes until the other end takes nothing more. */
async function fill({ socket }: Bare, bytes: Buffer): Promise<void> {
  for (let stuck = 0; stuck < 20;) {
    const before = socket.bytesWritten - socket.writableLength;
    if (socket.writableLength < 2 ** 20) socket.write(bytes);
    await new Promise((resolve) => setTimeout(resolve, 10));
    stuck = socket.bytesWritten - socket.writableLength > before ? 0 : stuck + 1;
  }
}

test("echoes that a client never reads cost little more than max-buffer", { timeout: 60_000 }, async () => {
  const relay = await startRelay({ frameRate: 1_000_000, maxBuffer: "1MiB" });
  const grown: number[] = [];
  // What is made once for all connections is not the first one's.
  for (let user_id = 0; user_id < 2; user_id++) {
    const { url } = await relay.register({ user_id });
    const bare = await Bare.webSocket(relay.http, new URL(url).pathname);
    bare.socket.pause();
    const before = held();
    await fill(bare, frame(echoOf(300_000)));
    grown.push(held() - before);
  }
  expect(Math.min(...grown)).toBeLessThan(4 * 2 ** 20);
});

test("after a change of long topics a client waits, and nobody else does; a burst of long frames is not refused", async () => {
  const relay = await startRelay({ frameRate: 100 });
  const topics = Array.from({ length: 990 }, (_, index) => `${index}.`.padEnd(255, "x"));
  const { url } = await relay.register({ user_id: 1, topics });
  const client = await relay.connect(url);
  const began = performance.now();
  for (let count = 0; count < 8; count++) {
    const answer = await client.request(count % 2 ? "unsubscribe" : "subscribe", { topics: ["more"] });
    expect(answer).toHaveProperty("topics");
  }
  // Of 200 frames at once a connection takes 50, and each change 62: the eighth waits for about 290 of them.
  expect(performance.now() - began).toBeGreaterThan(2500);
  const other = await relay.connect((await relay.register({ user_id: 2 })).url);
  const message = "x".repeat(40_000);
  for (let count = 0; count < 40; count++)
    other.say({ id: count, type: "request", action: "publish", payload: { topic: "t", message } });
  for (const answer of await other.take(40)) expect(JSON.parse(answer)).toHaveProperty("data.id");
});

test("connections count as frames", async () => {
  const relay = await startRelay({ frameRate: 100 });
  const { url } = await relay.register({ user_id: 1 });
  const again = async (): Promise<void> => {
    for (let count = 0; count < 20; count++) await (await relay.connect(url)).close();
  };
  const refused = await refusal(again());
  expect(refused.status).toBe(429);
  expect(refused.body).toContain("100 frames a second");
});

test("a user that the relay numbers is named by nobody else", async () => {
  const relay = await startRelay();
  const lobby = await relay.connect("/ws");
  const hello = (await lobby.json()) as { data: { user_id: string } };
  expect(hello.data.user_id).toBe("$1");
  await lobby.request("subscribe", { topics: ["orders"] });
  expect(await relay.publish({ user_id: 1, topic: "orders", message: "for user 1 alone" })).toMatchObject({
    matched: 0,
  });
  expect(await lobby.settled()).toEqual([]);
  for (const [path, body] of [
    ["/register", { user_id: "$1" }],
    ["/publish", { user_id: "$1", topic: "orders", message: 1 }],
    ["/publish", { user_ids: [1, "$1"], topic: "orders", message: 1 }],
  ] as const) {
    expect((await relay.send("POST", path, body)).status).toBe(400);
  }
  await relay.register({ user_id: "$1x" });
  expect(await (await relay.send("DELETE", "/users/$1")).json()).toEqual({ removed: 1 });
});

test("of many messages in the lobby a few are logged, and how many are not", async () => {
  const { lines, ws } = await startLoggedRelay();
  const lobby = await openSocket(`${ws}/ws?format=raw`);
  for (let count = 0; count < 1000; count++) lobby.say("ping");
  await lobby.take(1000);
  const messages = (): Record<string, unknown>[] => lines.filter(({ msg }) => msg === "message");
  expect(messages().length).toBeLessThan(200);
  let said = 1000;
  // The next line that is written tells of those that were not.
  await expect
    .poll(async () => {
      said++;
      await lobby.settled();
      return messages().reduce((sum, { unlogged = 0 }) => sum + 1 + Number(unlogged), 0) - said;
    })
    .toBe(0);
});

test("a client that waits for its long frames is heard, and is not closed as silent", async () => {
  const relay = await startRelay({ frameRate: 10, pingInterval: "1s" });
  const client = await relay.connect((await relay.register({ user_id: 1 })).url);
  const message = "x".repeat(60_000);
  for (let id = 0; id < 8; id++) client.say({ id, type: "request", action: "echo", payload: { message } });
  for (const answer of await client.take(8)) expect(JSON.parse(answer)).toHaveProperty("data.echo");
});

test("frames that come while the relay closes their connection cost no more than the client's rate allows", async () => {
  const relay = await startRelay({ frameRate: 100 });
  const { url } = await relay.register({ user_id: 1 });
  const older = await relay.connect(url);
  await older.settled();
  // It does not answer the close frame before it has sent all.
  older.socket.pause();
  await relay.connect(url);
  const parse = vi.spyOn(JSON, "parse");
  onTestFinished(() => parse.mockRestore());
  const keys = Array.from({ length: 20_000 }, (_, index) => [`k${index}`, 1]);
  const long = JSON.stringify(Object.fromEntries(keys));
  for (let count = 0; count < 20; count++) older.say(long);
  older.socket.resume();
  expect(await older.closed).toMatchObject({ code: 4409 });
  const parsed = parse.mock.calls.filter(([text]) => text === long).length * long.length;
  // The burst is two seconds' worth, and 3 seconds is the longest that it may take.
  expect(parsed).toBeLessThan(5 * 100 * 4096);
});
