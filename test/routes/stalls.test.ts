import { expect, test } from "vitest";
import { Bare } from "../support/bare.js";
import { temporaryDirectory } from "../support/directory.js";
import { startRelay, type TestRelay } from "../support/relay.js";
import { longestTurn } from "../support/turns.js";

/** In units of `longestTurn`, a few milliseconds each. Before requests were read in turns, each of these took 35 to 400. */
const BOUND = 20;

/** Sends a request and waits for the end of its answer; nothing is done with that here, where it would count too. */
async function request(relay: TestRelay, path: string, type: string, body: string, closing: string): Promise<void> {
  const bare = await Bare.open(relay.http);
  bare.write(`POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${type}\r\nConnection: close\r\n`);
  bare.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n`);
  bare.write(body);
  const text = await bare.closed;
  expect(text.slice(0, 12)).toBe(`HTTP/1.1 ${closing}`);
}

const JSON_TYPE = "application/json";
const many = <T>(count: number, item: (index: number) => T): T[] => Array.from({ length: count }, (_, n) => item(n));

test.each([
  [
    "10,000 events with 20 faults each",
    JSON.stringify(many(10_000, () => ({ topic: "", user_ids: many(20, () => -1) }))),
    "200",
  ],
  [
    "10,000 events on topics of their own",
    JSON.stringify(many(10_000, (n) => ({ topic: `t.${n}`, message: n }))),
    "200",
  ],
  ["a message of four million numbers", `{"topic":"a","message":[${"1,".repeat(4_000_000)}1]}`, "413"],
  ["eight million empty lines", "\n".repeat(8_000_000), "200"],
  ["four million empty arrays", `[${"[],".repeat(2_700_000)}[]]`, "413"],
])("a request to publish %s does not hold up others", { timeout: 60_000 }, async (name, body, status) => {
  const relay = await startRelay();
  const type = name.includes("lines") ? "application/x-ndjson" : JSON_TYPE;
  expect(await longestTurn(() => request(relay, "/publish", type, body, status))).toBeLessThan(BOUND);
});

test(
  "an idempotent request of 10,000 events, and its repetition, do not hold up others",
  { timeout: 60_000 },
  async () => {
    const relay = await startRelay();
    const body = JSON.stringify(many(10_000, (n) => ({ topic: "t", message: n })));
    let key = 0;
    const publish = async (): Promise<void> => {
      for (let time = 0; time < 2; time++) {
        const headers = { "content-type": JSON_TYPE, "idempotency-key": `key-${key}` };
        const response = await fetch(`${relay.http}/publish`, { method: "POST", headers, body });
        expect((await response.arrayBuffer()).byteLength).toBeGreaterThan(10_000);
      }
      key++;
    };
    expect(await longestTurn(publish)).toBeLessThan(BOUND);
  },
);

test("lists that are too long are refused before anything in them is looked at", { timeout: 60_000 }, async () => {
  const relay = await startRelay();
  const topics = JSON.stringify({ user_id: 1, topics: many(340_000, () => "") });
  expect(await longestTurn(() => request(relay, "/register", JSON_TYPE, topics, "400"))).toBeLessThan(BOUND);
  const client = await relay.register({ user_id: 1 });
  const socket = await relay.connect(client.url);
  const frame = JSON.stringify({ topics: many(125_000, () => "") });
  const ask = async (): Promise<void> => {
    socket.socket.send(frame);
    expect(await socket.json()).toMatchObject({ error: { message: /topics: must have at most 1000 items/ as never } });
  };
  expect(await longestTurn(ask)).toBeLessThan(BOUND);
});

test("thousands of requests on one connection at once do not hold up others, and all are answered", async () => {
  const relay = await startRelay();
  const request = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const flood = async (): Promise<void> => {
    const bare = await Bare.open(relay.http);
    bare.write(`${request.repeat(20_000)}${request.replace("localhost", "localhost\r\nConnection: close")}`);
    expect((await bare.closed).split("HTTP/1.1 404").length - 1).toBe(20_001);
  };
  expect(await longestTurn(flood)).toBeLessThan(BOUND);
});

test("requests that are sent without waiting for answers are handled in their order", async () => {
  const relay = await startRelay({ engine: "lmdb", dataDir: temporaryDirectory() });
  const bare = await Bare.open(relay.http);
  for (let count = 0; count <= 100; count++) {
    const body = JSON.stringify({ topic: "t", message: "x".repeat(count % 2 ? 1 : 10_000) });
    const end = count < 100 ? "" : "\r\nConnection: close";
    const head = `POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}`;
    bare.write(`${head}${end}\r\n\r\n${body}`);
  }
  const matches = [...(await bare.closed).matchAll(/"id":"(\d+)-(\d+)"/g)];
  const ids = matches.map(([, ms, seq]) => Number(ms) * 1e3 + Number(seq));
  expect(ids.length).toBe(101);
  expect(ids).toEqual(ids.toSorted((a, b) => a - b));
});
