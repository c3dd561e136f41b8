import { describe, expect, test } from "vitest";
import type { Engine } from "../../src/core/engine.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { temporaryDirectory } from "../support/directory.js";
import { clientRecord, putClient } from "../support/engine.js";
import { startRelay, type TestRelay } from "../support/relay.js";
import { refusal } from "../support/socket.js";
import { openStream } from "../support/stream.js";

const RETENTION = { age: 3_600_000, count: 1000, bytes: 2 ** 26 };
const ID = "625ac78b88e047a1bc7b3f8459702078";
const SECRET = "0f2d0c1e5b7a4c3d9e8f7a6b5c4d3e2f";

/** Appends a client whose secret is not its id; the relay that starts next has it. */
async function withClient(engine: Engine): Promise<Engine> {
  const expiresAt = engine.now() + 300_000;
  await putClient(engine, clientRecord({ id: ID, secret: SECRET, topics: ["t"], expiresAt }));
  return engine;
}

async function statusOf(relay: TestRelay, path: string): Promise<number> {
  const answer = await relay.fetch(path);
  await answer.body?.cancel();
  return answer.status;
}

/** What the receipt of an event says, by client. */
async function statesOf(relay: TestRelay, event: string): Promise<Record<string, string>> {
  const { clients } = (await (await relay.send("GET", `/events/${event}`)).json()) as {
    clients: { id: string; state: string }[];
  };
  return Object.fromEntries(clients.map(({ id, state }) => [id, state]));
}

/**
 * Looks at what the API says of the client, and at where the client can connect.
 * @returns the id of an event that the client has confirmed
 */
async function check(relay: TestRelay): Promise<string> {
  const said = await (await relay.send("GET", `/register/${ID}`)).json();
  const [url, stream] = [`${relay.ws}/ws/${SECRET}`, `${relay.http}/stream/${SECRET}`];
  expect(said).toMatchObject({ id: ID, url, stream_url: stream });
  expect(await (await relay.send("PATCH", `/register/${ID}`, { add: ["u"] })).json()).toMatchObject({ id: ID, url });
  // The id opens no connection, and the secret is no name of the client.
  expect(await refusal(relay.connect(`/ws/${ID}`))).toMatchObject({ status: 404 });
  expect([await statusOf(relay, `/stream/${ID}`), await statusOf(relay, `/register/${SECRET}`)]).toEqual([404, 404]);
  const { id: waiting } = await relay.publish({ topic: "t", message: "waiting" });
  expect(await statesOf(relay, waiting)).toEqual({ [ID]: "waiting" });
  const read = await openStream(stream, { accept: "application/x-ndjson" });
  expect(await read.next()).toBe('"waiting"');
  read.close();
  // A stream confirms nothing.
  const socket = await relay.connect(url);
  expect(await socket.next()).toBe("waiting");
  await socket.close();
  await expect.poll(() => statesOf(relay, waiting)).toEqual({ [ID]: "confirmed" });
  return waiting;
}

describe("a client with a secret of its own is found by its secret where it connects, and by its id anywhere else", () => {
  test("on the memory engine", async () => {
    await check(await startRelay({}, undefined, await withClient(new MemoryEngine(RETENTION))));
  });

  test("on the lmdb engine, before and after restarts", async () => {
    const dataDir = temporaryDirectory();
    await (await withClient(await openLmdbEngine({ directory: dataDir, retention: RETENTION }))).close();
    let before: string | undefined;
    for (let round = 0; round < 2; round++) {
      const relay = await startRelay({ engine: "lmdb", dataDir });
      if (before) expect(await statesOf(relay, before)).toEqual({ [ID]: "confirmed" });
      before = await check(relay);
      await relay.close();
    }
  });
});
