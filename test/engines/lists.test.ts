import fc from "fast-check";
import type { RootDatabase } from "lmdb";
import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { Clock } from "../../src/core/clock.js";
import { type ClientRecord, topicsOf, withCursor, withPosition, withTopics } from "../../src/core/client.js";
import { type EventId, ZERO } from "../../src/core/id.js";
import { withAllow } from "../../src/core/narrowing.js";
import { UNOBSERVED } from "../../src/core/loading.js";
import { Relay } from "../../src/core/relay.js";
import { takeTurns } from "../../src/core/turns.js";
import { Audiences } from "../../src/engines/lmdb/audiences.js";
import { openDirectory } from "../../src/engines/lmdb/directory.js";
import { Group } from "../../src/engines/lmdb/group.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { LogReader } from "../../src/engines/lmdb/log-reader.js";
import { restoreClients } from "../../src/engines/lmdb/restore.js";
import { Changes, openTables, type Tables } from "../../src/engines/lmdb/tables.js";
import { Writer } from "../../src/engines/lmdb/writer.js";
import { Uptime } from "../../src/engines/lmdb/uptime.js";
import { temporaryDirectory } from "../support/directory.js";
import { clientRecord } from "../support/engine.js";
import { checkLists, kept } from "../support/lists.js";
import { relaySettings } from "../support/settings.js";
import { open } from "../support/sink.js";
import { longestTurn } from "../support/turns.js";

const UPTIME = new Uptime(new Clock(0), undefined);
const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

afterEach(() => void vi.restoreAllMocks());

function longTopics(count: number, name = "t"): string[] {
  return Array.from({ length: count }, (_, index) => `${name}.${index}.`.padEnd(255, "x"));
}

/** Adds up the bytes of all that is committed from now on. */
function countBytes(): { bytes: number } {
  const counted = { bytes: 0 };
  const { commit } = Changes.prototype as {
    commit: (this: Changes, root: RootDatabase<Buffer, Buffer>) => Promise<void>;
  };
  vi.spyOn(Changes.prototype, "commit").mockImplementation(function count(this: Changes, root) {
    counted.bytes += this.bytes;
    return commit.call(this, root);
  });
  return counted;
}

async function startRelay(directory = temporaryDirectory()): Promise<{ relay: Relay; stop: () => Promise<void> }> {
  const engine = await openLmdbEngine({ directory, retention: RETENTION });
  const relay = await Relay.start(engine, relaySettings());
  let stopped: Promise<void> | undefined;
  const stop = (): Promise<void> => (stopped ??= relay.stop().then(() => engine.close()));
  onTestFinished(stop);
  return { relay, stop };
}

/** Does something with the tables of a directory that no relay has open. */
async function withTables<T>(directory: string, look: (tables: Tables) => T): Promise<T> {
  const root = await openDirectory(directory, UNOBSERVED);
  try {
    return look(openTables(root));
  } finally {
    await root.close();
  }
}

describe("a client with many long topics and an event that it has not confirmed", () => {
  test("writes a few kilobytes with each topic that it joins or leaves", async () => {
    const { relay } = await startRelay();
    const { id } = await relay.clients.register({ userId: 1, topics: longTopics(990), ttl: 300 });
    await open(relay, id);
    await relay.publisher.publish([{ topic: longTopics(1)[0] as string, message: "1" }]);
    const counted = countBytes();
    const changes = 300;
    for (let index = 0; index < changes; index++) {
      await relay.clients.change(id, index % 2 ? { leave: "room" } : { join: "room" });
    }
    expect(counted.bytes / changes).toBeLessThan(4096);
  });

  test("writes a few times the topics that it puts in the places of others", async () => {
    const { relay } = await startRelay();
    const topics = longTopics(990);
    const { id } = await relay.clients.register({ userId: 1, topics, ttl: 300 });
    await open(relay, id);
    await relay.publisher.publish([{ topic: topics[0] as string, message: "1" }]);
    const counted = countBytes();
    const changes = 300;
    for (const [index, topic] of longTopics(changes, "new").entries()) {
      await relay.clients.change(id, { remove: [topics[index + 1] as string], add: [topic] });
    }
    expect(counted.bytes / changes).toBeLessThan(16 * 1024);
  });

  test("writes all its topics once when it joins them all as rooms, one after the other", async () => {
    const { relay } = await startRelay();
    const topics = longTopics(300);
    const { id } = await relay.clients.register({ userId: 1, topics, ttl: 300 });
    await open(relay, id);
    await relay.publisher.publish([{ topic: topics[0] as string, message: "1" }]);
    const counted = countBytes();
    for (const topic of topics) await relay.clients.change(id, { join: topic });
    expect(counted.bytes / topics.length).toBeLessThan(16 * 1024);
  });

  test("does not hold others up when it is written", async () => {
    const { relay } = await startRelay();
    const { id } = await relay.clients.register({ userId: 1, topics: longTopics(990), ttl: 300 });
    await open(relay, id);
    await relay.publisher.publish([{ topic: longTopics(1)[0] as string, message: "1" }]);
    let round = 0;
    const change = async (): Promise<void> => {
      const name = `round.${round++}`;
      await Promise.all([1, 2, 3, 4].map((n) => relay.clients.change(id, { set: longTopics(990, `${name}.${n}`) })));
    };
    expect(await longestTurn(change)).toBeLessThan(12);
  });
});

describe("lists of topics on disk", () => {
  test("are stored once for all clients that have the same, and are one list in memory after a restart", async () => {
    const directory = temporaryDirectory();
    const { relay, stop } = await startRelay(directory);
    const topics = Array.from({ length: 100 }, (_, index) => `orders.created.${index}`);
    const counted = countBytes();
    const made = await Promise.all(
      Array.from({ length: 200 }, () => relay.clients.register({ userId: 1, topics: [...topics], ttl: 300 })),
    );
    await stop();
    expect(counted.bytes).toBeLessThan(40_000);
    expect(await withTables(directory, checkLists)).toBe(1);
    const { relay: next } = await startRelay(directory);
    const lists = await Promise.all(made.map(async ({ id }) => topicsOf(await next.clients.get(id))));
    expect(lists[0]).toEqual(topics);
    expect(new Set(lists).size).toBe(1);
  });

  test("are removed when their clients are, and when their clients have confirmed what they were for", async () => {
    const directory = temporaryDirectory();
    const first = await startRelay(directory);
    const topics = longTopics(20);
    const { clients, publisher } = first.relay;
    const ids: string[] = [];
    for (const name of ["a", "b", "c"]) {
      const { id } = await clients.register({ userId: name, topics: [...topics, name], ttl: 300 });
      await publisher.publish([{ topic: name, message: "1" }]);
      for (const room of ["x", "y", "z"]) await clients.change(id, { join: `${name}.${room}` });
      ids.push(id);
    }
    await first.stop();
    expect(await withTables(directory, checkLists)).toBeGreaterThan(8);
    const second = await startRelay(directory);
    const [a, b, c] = ids as [string, string, string];
    await second.relay.clients.remove(a);
    await second.relay.clients.change(b, { set: ["short"] });
    const { connection, sink } = await open(second.relay, c);
    await vi.waitUntil(() => sink.events.length > 0 && sink.pings.length > 0, 10_000);
    connection.ponged(sink.pings.at(-1) ?? "");
    await second.relay.connections.closed(connection);
    await second.stop();
    // Of the second, what it had when the event came and three changes; of the third, what it has now, as a difference.
    expect(await withTables(directory, checkLists)).toBe(6);
    const third = await startRelay(directory);
    await Promise.all([b, c].map((id) => third.relay.clients.remove(id)));
    await third.stop();
    expect(await withTables(directory, checkLists)).toBe(0);
  });

  test("are removed at the start when nobody refers to them", async () => {
    const directory = temporaryDirectory();
    const first = await startRelay(directory);
    const { id } = await first.relay.clients.register({ userId: 1, topics: longTopics(3), ttl: 300 });
    await first.stop();
    await withTables(directory, ({ clients }) => clients.removeSync(Buffer.from(id, "hex")));
    const second = await startRelay(directory);
    await second.relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
    await second.stop();
    expect(await withTables(directory, checkLists)).toBe(0);
  });
});

// Clients as they are written and read, without a relay: commits that fail and restarts at any place.

const names = fc.array(fc.nat({ max: 30 }), { maxLength: 40 }).map((numbers) => {
  return [...new Set(numbers)].map((number) => `${number}.`.padEnd(10 + number * 2, "x"));
});

/** What a client begins with: much more than one change changes. */
const MANY = Array.from({ length: 60 }, (_, index) => `${index}.`.padEnd(50, "y"));

const name = fc.nat({ max: 80 }).map((number) => MANY[number] ?? `${number}.`);

type Change = (record: ClientRecord, at: EventId) => ClientRecord;

const changes: fc.Arbitrary<Change> = fc.oneof(
  {
    weight: 6,
    arbitrary: name.map(
      (join): Change =>
        (record, at) =>
          withTopics(record, { join }, at),
    ),
  },
  {
    weight: 6,
    arbitrary: name.map(
      (leave): Change =>
        (record, at) =>
          withTopics(record, { leave }, at),
    ),
  },
  ...[
    names.map(
      (set): Change =>
        (record, at) =>
          withTopics(record, { set }, at),
    ),
    fc.constant<Change>((record, at) => withTopics(record, { set: MANY }, at)),
    names.map(
      (add): Change =>
        (record, at) =>
          withTopics(record, { add }, at),
    ),
    names.map(
      (remove): Change =>
        (record, at) =>
          withTopics(record, { remove }, at),
    ),
    fc.tuple(name, name).map(([one, other]): Change => (record, at) => {
      const covers = (topic: string): boolean => topic !== one && topic !== other;
      return withAllow(record, { subscribe: [one, other] }, covers, at);
    }),
    fc.constant<Change>((record, at) => withPosition(record, { ms: Math.max(1, at.ms - 20), seq: 0 }, at)),
  ].map((arbitrary) => ({ weight: 1, arbitrary })),
);

type Step =
  | { do: "change"; client: number; how: Change }
  | { do: "move" | "remove"; client: number }
  | { do: "commit" | "fail" | "restart" };

const client = fc.nat({ max: 3 });

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 12, arbitrary: fc.record({ do: fc.constant("change" as const), client, how: changes }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("move" as const), client }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("remove" as const), client }) },
    { weight: 6, arbitrary: fc.record({ do: fc.constantFrom("commit" as const, "fail" as const) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("restart" as const) }) },
  ),
  { maxLength: 60, size: "max" },
);

test("whatever clients do, and whichever commits fail, a restart finds them as the last commit left them", async () => {
  const play = async (all: readonly Step[]): Promise<void> => {
    const root = await openDirectory(temporaryDirectory(), UNOBSERVED);
    try {
      await new Disk(root).play(all);
    } finally {
      await root.close();
    }
  };
  await fc.assert(fc.asyncProperty(steps, play), { numRuns: 100 });
}, 120_000);

class Disk {
  private readonly tables: Tables;
  private clients = new Map<string, ClientRecord>();
  private committed = new Map<string, ClientRecord>();
  private group = new Group();
  private writer: Writer | undefined;
  private written: () => void = () => undefined;
  private at = 10;
  private generation = 0;

  constructor(private readonly root: RootDatabase<Buffer, Buffer>) {
    this.tables = openTables(root);
  }

  async play(all: readonly Step[]): Promise<void> {
    await this.restart();
    for (const step of all) await this.perform(step);
    await this.perform({ do: "commit" });
    await this.restart();
  }

  private async perform(step: Step): Promise<void> {
    const at = { ms: ++this.at, seq: 0 };
    switch (step.do) {
      case "commit":
        return this.commit(true);
      case "fail":
        return this.commit(false);
      case "restart":
        return this.restart();
      default:
    }
    const id = `${step.client}${this.generation}`.padStart(32, "0");
    const record = this.clients.get(id) ?? clientRecord({ id, topics: MANY }, at);
    if (step.do === "change") {
      const changed = step.how(record, at);
      this.clients.set(id, changed);
      this.group.putClient(changed);
    } else if (!this.clients.has(id)) {
      return;
    } else if (step.do === "move") {
      const moved = withCursor(record, at);
      this.clients.set(id, moved);
      if (this.group.clients.has(id)) this.group.putClient(moved);
      else this.group.moved.set(id, moved);
    } else {
      this.clients.delete(id);
      this.group.removeClient(id, { userId: 1, received: record.received, narrowed: record.narrowed, at });
      // No id is used twice.
      this.generation++;
    }
  }

  private async commit(succeeds: boolean): Promise<void> {
    const made = new Changes();
    const { group } = this;
    await takeTurns(this.writer?.write(made, group) ?? fail());
    if (succeeds) {
      await made.commit(this.root);
      this.written();
      this.committed = new Map(this.clients);
      checkLists(this.tables);
      this.group = new Group();
    } else {
      this.group = new Group();
      this.group.add(group);
    }
  }

  private async restart(): Promise<void> {
    const { clients, lists } = await restoreClients(this.root, this.tables, UPTIME, UNOBSERVED);
    const found = new Map([...clients.all()].map((record) => [record.id, record]));
    expect([...found.keys()].toSorted()).toEqual([...this.committed.keys()].toSorted());
    for (const [id, record] of this.committed) expect(kept(found.get(id) as ClientRecord)).toEqual(kept(record));
    this.clients = found;
    this.committed = new Map(found);
    this.group = new Group();
    const reader = new LogReader(this.tables, () => ZERO, ZERO);
    this.writer = new Writer(this.tables, reader, new Audiences(this.tables.audiences), lists, UPTIME);
    this.written = () => lists.written();
  }
}

function fail(): never {
  throw new Error("there is no writer");
}
