import { afterEach, expect, onTestFinished, test, vi } from "vitest";
import { Clock } from "../../src/core/clock.js";
import { withCursor } from "../../src/core/client.js";
import type { Once } from "../../src/core/engine.js";
import { type EventId, ZERO } from "../../src/core/id.js";
import { UNOBSERVED } from "../../src/core/loading.js";
import { Relay } from "../../src/core/relay.js";
import { takeTurns } from "../../src/core/turns.js";
import { Audiences } from "../../src/engines/lmdb/audiences.js";
import { openDirectory } from "../../src/engines/lmdb/directory.js";
import { Group } from "../../src/engines/lmdb/group.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { LogReader } from "../../src/engines/lmdb/log-reader.js";
import { restoreClients } from "../../src/engines/lmdb/restore.js";
import { Changes, openTables } from "../../src/engines/lmdb/tables.js";
import { Writer } from "../../src/engines/lmdb/writer.js";
import { Uptime } from "../../src/engines/lmdb/uptime.js";
import { temporaryDirectory } from "../support/directory.js";
import { clientRecord, commit, Listener } from "../support/engine.js";
import { relaySettings } from "../support/settings.js";
import { open } from "../support/sink.js";

const UPTIME = new Uptime(new Clock(0), undefined);
const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

async function startRelay(): Promise<Relay> {
  const engine = await openLmdbEngine({ directory: temporaryDirectory(), retention: RETENTION });
  const relay = await Relay.start(engine, relaySettings());
  onTestFinished(async () => {
    await relay.stop();
    await engine.close();
  });
  return relay;
}

function at(ms: number): EventId {
  return { ms, seq: 0 };
}

test("a change that is asked for again is refused for as long as the disk can not take the first", async () => {
  const relay = await startRelay();
  const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
  const full = vi.spyOn(Changes.prototype, "commit").mockRejectedValue(new Error("ENOSPC"));
  for (let time = 0; time < 2; time++) {
    await expect(relay.clients.change(id, { add: ["b"] })).rejects.toMatchObject({ code: "unavailable" });
  }
  full.mockRestore();
});

test("the second of two equal changes is not answered before the first is on disk", async () => {
  const relay = await startRelay();
  const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
  await open(relay, id);
  const done: string[] = [];
  const commit: Changes["commit"] = Reflect.get(Changes.prototype, "commit");
  vi.spyOn(Changes.prototype, "commit").mockImplementation(async function (this: Changes, root) {
    // Others have their turn meanwhile.
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
    await commit.call(this, root);
    done.push("commit");
  });
  const changes = [1, 2].map(() => relay.clients.change(id, { join: "b" }));
  await changes[1];
  expect(done).toEqual(["commit"]);
  await changes[0];
});

test("progress that came while a commit failed is not written over with what was before it", async () => {
  const root = await openDirectory(temporaryDirectory(), UNOBSERVED);
  onTestFinished(() => root.close());
  const tables = openTables(root);
  const { lists } = await restoreClients(root, tables, UPTIME, UNOBSERVED);
  const writer = new Writer(
    tables,
    new LogReader(tables, () => ZERO, ZERO),
    new Audiences(tables.audiences),
    lists,
    UPTIME,
  );
  const id = "1".padStart(32, "0");
  const record = clientRecord({ id, topics: ["a"] }, at(10));
  const [failed, later, all] = [new Group(), new Group(), new Group()];
  failed.putClient(record);
  later.moveClient(withCursor(record, at(20)));
  all.add(failed);
  all.add(later);
  const changes = new Changes();
  await takeTurns(writer.write(changes, all));
  await changes.commit(root);
  const { clients } = await restoreClients(root, tables, UPTIME, UNOBSERVED);
  expect(clients.get(id)?.cursor).toEqual(at(20));
});

test("after an outage that outlasts idempotency keys, a restart knows those that came later", async () => {
  const options = { directory: temporaryDirectory(), retention: RETENTION };
  const start = Date.now();
  vi.useFakeTimers({ now: start, toFake: ["Date", "setInterval", "clearInterval"] });
  const onceFor = (key: string): Once => ({ owner: "a", key, fingerprint: "f", until: Date.now() + 600_000 });
  const [drafts, counts] = [[{ topic: "a", message: "1" }], [{ matched: 1, sent: 1, waiting: 0 }]];
  const first = await openLmdbEngine(options);
  await Listener.on(first);
  const { replies } = first;
  const early = Array.from({ length: 20 }, (_, number) => onceFor(`early ${number}`));
  const ids = await Promise.all(early.map(async (once) => (await first.append(drafts, { once })).ids));
  vi.setSystemTime(start + 20_000);
  const middle = onceFor("middle");
  await replies.settle(middle, (await first.append(drafts, { once: middle })).ids, counts);
  const full = vi.spyOn(Changes.prototype, "commit").mockRejectedValue(new Error("ENOSPC"));
  await Promise.allSettled(early.map((once, index) => replies.settle(once, ids[index] ?? [], counts)));
  vi.setSystemTime(start + 605_000);
  full.mockRestore();
  const isWell = async (): Promise<boolean> =>
    commit(first).then(
      () => true,
      () => false,
    );
  await expect.poll(isWell, { timeout: 5000 }).toBe(true);
  const late = onceFor("late");
  const { ids: lateIds } = await first.append(drafts, { once: late });
  await replies.settle(late, lateIds, counts);
  vi.setSystemTime(start + 621_000);
  vi.advanceTimersByTime(1000);
  await commit(first);
  await first.close();
  const second = await openLmdbEngine(options);
  onTestFinished(() => second.close());
  expect(await second.append(drafts, { once: late })).toMatchObject({ ids: lateIds, duplicate: {} });
});
