import { expect, onTestFinished, test } from "vitest";
import { type ClientRecord, NOBODY } from "../../src/core/client.js";
import { type Loading, type Progress, UNOBSERVED } from "../../src/core/loading.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { temporaryDirectory } from "../support/directory.js";
import { clientRecord, findClient, Listener, putClient } from "../support/engine.js";
import { longestTurn } from "../support/turns.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 30 };
const CLIENTS = 40_000;

function clientId(index: number): string {
  return index.toString(16).padStart(32, "0");
}

/** A directory with many clients. */
async function directoryOfMany(): Promise<string> {
  const directory = temporaryDirectory();
  const engine = await openLmdbEngine({ directory, retention: RETENTION });
  const made = Array.from({ length: CLIENTS }, (_, index) => {
    const who = { id: clientId(index), userId: index, topics: [`orders.${index}`, "news"], node: "an earlier one" };
    return putClient(engine, clientRecord({ ...who, ttl: 3600, expiresAt: Date.now() + 3_600_000 }));
  });
  await Promise.all(made);
  await engine.close();
  return directory;
}

test("a start with many clients leaves the event loop to others, says how far it is, and forgets nobody", async () => {
  const directory = await directoryOfMany();
  const steps = new Map<string, Progress>();
  const loading: Loading = { ...UNOBSERVED, progress: (progress) => void steps.set(progress.step, progress) };
  let inherited: readonly ClientRecord[] = [];
  const start = async (): Promise<void> => {
    const engine = await openLmdbEngine({ directory, retention: RETENTION, loading });
    inherited = (await Listener.on(engine, loading)).inherited;
    expect((await engine.find({ user: "17" })).map(({ id }) => id)).toEqual([clientId(17)]);
    await engine.close();
  };
  // In units of a few milliseconds; in one go it takes more than a hundred.
  expect(await longestTurn(start)).toBeLessThan(15);
  expect(inherited).toHaveLength(CLIENTS);
  expect(inherited[5]).toMatchObject({ id: clientId(5), userId: 5, node: NOBODY, ttl: 3600 });
  expect([...steps.keys()]).toEqual(["checking pages", "reading clients", "taking over clients"]);
  for (const { done, of } of steps.values()) expect(done).toBeLessThanOrEqual(of);
}, 60_000);

test("a start that is given up ends soon, and the directory can be opened again", { timeout: 60_000 }, async () => {
  const directory = await directoryOfMany();
  for (const step of ["checking pages", "reading clients"]) {
    const end = new AbortController();
    const loading: Loading = { progress: (now) => now.step === step && end.abort(), signal: end.signal };
    await expect(openLmdbEngine({ directory, retention: RETENTION, loading })).rejects.toThrow(/abort/i);
  }
  const engine = await openLmdbEngine({ directory, retention: RETENTION });
  onTestFinished(() => engine.close());
  expect(await findClient(engine, clientId(CLIENTS - 1))).toMatchObject({ userId: CLIENTS - 1 });
});
