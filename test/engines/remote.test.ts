import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { Retention } from "../../src/engines/local/window.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { temporaryDirectory } from "../support/directory.js";
import { testEngine } from "./conformance.js";
import { draft, Listener, newClient, type MakeLog, type SharedLog, C1, addClient } from "./conformance/support.js";
import { RemoteEngine } from "./remote/engine.js";
import { type Hosted, serveLog } from "./remote/log.js";

const RETENTION: Retention = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

/** A log behind a socket. */
async function host(engine: Hosted, answerWithin?: number): Promise<SharedLog> {
  const path = join(temporaryDirectory(), "log");
  const end = await serveLog(engine, path, answerWithin);
  const close = async (): Promise<void> => {
    await end();
    await engine.close();
  };
  return { open: () => RemoteEngine.open(path), close };
}

const ofMemory: MakeLog = async (retention) => host(new MemoryEngine({ ...RETENTION, ...retention }));
const ofLmdb: MakeLog = async (retention) =>
  host(await openLmdbEngine({ directory: temporaryDirectory(), retention: { ...RETENTION, ...retention } }));

testEngine("behind a socket, of memory", ofMemory, ["replies", "cursors", "peers"]);
testEngine("behind a socket, of lmdb", ofLmdb, ["replies", "cursors", "peers"]);

test("a relay whose connection ends is gone: others get its clients, and it can do nothing any more", async () => {
  const { open, close } = await host(new MemoryEngine(RETENTION));
  onTestFinished(close);
  const one = await open();
  const { leave } = await Listener.on(one, "one");
  const { listener } = await Listener.on(await open(), "two");
  await addClient(one, newClient(C1, { node: "one" }));
  await one.close();
  await listener.until(() => listener.inherited.length === 1);
  for (const late of [one.append([draft("a")]), one.find({ client: C1 })]) {
    await expect(late).rejects.toMatchObject({ code: "unavailable" });
  }
  await leave();
});

test("what is under way when the log ends is refused as unavailable", async () => {
  const { open, close } = await host(new MemoryEngine(RETENTION));
  const one = await open();
  await Listener.on(one, "one");
  const append = one.append([draft("a")]);
  const refused = expect(append).rejects.toMatchObject({ code: "unavailable" });
  await close();
  await refused;
});

test("a relay that does not answer does not hold up who asks", async () => {
  const { open, close } = await host(new MemoryEngine(RETENTION), 50);
  onTestFinished(close);
  const one = await open();
  await Listener.on(one, "one");
  const silent = new Listener("two");
  silent.answer = () => new Promise(() => undefined);
  await (await open()).follow(silent);
  expect(await one.peers?.ask("one", { ask: "counts" })).toBeUndefined();
});
