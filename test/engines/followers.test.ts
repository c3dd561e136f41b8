import { afterEach, describe, expect, test, vi } from "vitest";
import type { ClientRecord } from "../../src/core/client.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { clientRecord, findClient, Listener, putClient } from "../support/engine.js";

afterEach(() => void vi.restoreAllMocks());

function clientId(index: number): string {
  return index.toString(16).padStart(32, "0");
}

/**
 * A relay leaves, and another one takes over its clients, in several turns. Meanwhile the first client changes.
 * @returns what was handed over of that client after the change
 */
async function takeOver(change: (record: ClientRecord, node: string) => ClientRecord | undefined) {
  const engine = new MemoryEngine({ age: 3_600_000, count: 1000, bytes: 2 ** 20 });
  const leaving = await Listener.on(engine);
  const staying = await Listener.on(engine);
  for (let index = 0; index < 20; index++) {
    await putClient(engine, clientRecord({ id: clientId(index), node: leaving.node }));
  }
  // Each look at the clock ends a turn.
  let now = performance.now();
  vi.spyOn(performance, "now").mockImplementation(() => (now += 100));
  const left = leaving.leave();
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  expect(staying.inherited).toEqual([]);
  const known = (await findClient(engine, clientId(0))) as ClientRecord;
  const draft = { client: known.id, record: change(known, staying.node), expect: known.version };
  const { ids } = await engine.append(draft);
  expect(staying.entries.at(-1)).toMatchObject({ id: ids[0] });
  await left;
  expect(staying.inherited.length).toBeGreaterThan(0);
  return { changedAt: ids[0], handed: staying.inherited.filter(({ id }) => id === known.id) };
}

describe("a relay that takes over clients, and has followed a change of one already", () => {
  test("is not handed that client as it was before", async () => {
    const { changedAt, handed } = await takeOver((record, node) => ({ ...record, node }));
    for (const { version } of handed) expect(version).toEqual(changedAt);
  });

  test("is not handed that client when it was removed", async () => {
    expect((await takeOver(() => undefined)).handed).toEqual([]);
  });
});
