import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { Relay } from "../../src/core/relay.js";
import { compareIds, parseId, type EventId } from "../../src/core/id.js";
import { matchesTopic } from "../../src/core/topics.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { open, type Opened, turns } from "../support/sink.js";

const ROOMY = { age: 3_600_000, count: 1_000_000, bytes: 1_000_000_000 };

type Step =
  | { do: "publish"; topic: string; user: number | undefined; count: number }
  | { do: "connect" | "drop" | "stall" | "resume" | "pong" | "wait" }
  | { do: "topics"; topics: string[] };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("publish" as const),
      topic: fc.constantFrom("a", "b", "a.x"),
      user: fc.constantFrom(undefined, 1, 2),
      // Seldom enough for more than one batch of reading.
      count: fc.oneof(
        { weight: 9, arbitrary: fc.integer({ min: 1, max: 5 }) },
        { weight: 1, arbitrary: fc.constant(300) },
      ),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constantFrom("connect", "drop", "stall", "resume", "pong", "wait" as const) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("topics" as const),
      topics: fc.uniqueArray(fc.constantFrom("a", "b", "a.*", ">")),
    }),
  },
);

function idOf(text: unknown): EventId {
  return parseId(String(text)) as EventId;
}

/** One client of user 1, and what it must get by the definition: what matched when it was published. */
class Model {
  topics = ["a"];
  readonly matching: string[] = [];
  private current: Opened | undefined;
  /** The highest id that the client has ever answered a ping for, and the highest that it has seen. */
  private ponged: EventId;
  private seen: EventId;
  /** What it had answered for when it connected last. */
  private known: EventId;

  constructor(
    private readonly relay: Relay,
    private readonly id: string,
    start: EventId,
  ) {
    this.ponged = start;
    this.seen = start;
    this.known = start;
  }

  async perform(action: Step): Promise<void> {
    switch (action.do) {
      case "publish":
        return this.publish(action.topic, action.user, action.count);
      case "topics":
        await this.relay.clients.changeTopics(this.id, { set: action.topics });
        this.topics = action.topics;
        return undefined;
      case "connect":
        this.drop();
        this.current = await open(this.relay, this.id);
        this.known = this.ponged;
        return undefined;
      case "drop":
        return this.drop();
      case "stall":
        if (this.current) this.current.sink.stalled = true;
        return undefined;
      case "resume":
        this.current?.sink.resume();
        return undefined;
      case "pong":
        return this.pong();
      case "wait":
        return turns();
    }
  }

  /** Comes back and reads to the end: then nothing is missing. */
  async finish(): Promise<void> {
    await this.perform({ do: "connect" });
    const expected = this.matching.at(-1);
    const before = this.current?.sink.events.length;
    for (let turn = 0; turn < 200 && this.current?.sink.events.at(-1)?.id !== expected; turn++) await turns(1);
    expect(before).toBeTypeOf("number");
    this.check(true);
  }

  private async publish(topic: string, user: number | undefined, count: number): Promise<void> {
    const users = user === undefined ? undefined : [user];
    const drafts = Array.from({ length: count }, (_, index) => ({
      topic,
      message: String(index),
      ...(users && { users }),
    }));
    const matches = user !== 2 && this.topics.some((name) => matchesTopic(name, topic));
    const replies = await this.relay.publisher.publish(drafts);
    for (const { id, matched, sent, waiting } of replies) {
      expect(matched).toBe(matches ? 1 : 0);
      expect((sent ?? 0) + (waiting ?? 0)).toBe(matched);
      if (matches) this.matching.push(id);
    }
  }

  private pong(): void {
    const payload = this.current?.sink.pings.at(-1);
    if (!payload || !this.current) return;
    this.current.connection.ponged(payload);
    if (compareIds(idOf(payload), this.ponged) > 0) this.ponged = idOf(payload);
  }

  private drop(): void {
    if (!this.current) return;
    this.check(false);
    const last = this.current.sink.events.at(-1);
    if (last && compareIds(idOf(last.id), this.seen) > 0) this.seen = idOf(last.id);
    void this.relay.connections.closed(this.current.connection);
    this.current = undefined;
  }

  /** What one connection got is a stretch of what it must get, from its cursor on, in order, each once. */
  private check(toTheEnd: boolean): void {
    const [connected] = this.current?.sink.frames ?? [];
    if (!connected) return;
    const cursor = idOf(connected.data?.["cursor"]);
    expect(connected.data?.["gap"]).toBe(false);
    expect(compareIds(cursor, this.known)).toBeGreaterThanOrEqual(0);
    // Never ahead: whatever it matched and has not seen comes after the cursor.
    const unseen = this.matching.find((id) => compareIds(idOf(id), this.seen) > 0);
    if (unseen) expect(compareIds(cursor, idOf(unseen))).toBeLessThan(0);
    const due = this.matching.filter((id) => compareIds(idOf(id), cursor) > 0);
    const got = this.current?.sink.events.map(({ id }) => id) ?? [];
    expect(got).toEqual(toTheEnd ? due : due.slice(0, got.length));
  }
}

test("a client gets exactly what matches after its cursor, in order, once, whatever happens meanwhile", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const relay = await Relay.start(new MemoryEngine(ROOMY), { maxBuffer: 400, pingInterval: 30_000 });
      try {
        const { id, cursor } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
        const model = new Model(relay, id, cursor);
        for (const action of steps) await model.perform(action);
        await model.finish();
      } finally {
        await relay.stop();
      }
    }),
    { numRuns: 300 },
  );
});

test("readers that got the same share one buffer, written once per turn", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), { maxBuffer: 1_000_000, pingInterval: 30_000 });
  const opened: Opened[] = [];
  const writes: Buffer[] = [];
  for (let user = 1; user <= 3; user++) {
    const { id } = await relay.clients.register({ userId: user, topics: ["a"], ttl: 300 });
    const one = await open(relay, id);
    await turns();
    const { sink } = one;
    const write = sink.write.bind(sink);
    sink.write = (bytes) => {
      writes.push(bytes);
      write(bytes);
    };
    opened.push(one);
  }
  await relay.publisher.publish([1, 2, 3].map((n) => ({ topic: "a", message: String(n) })));
  expect(writes).toHaveLength(3);
  expect(new Set(writes).size).toBe(1);
  for (const { sink } of opened) expect(sink.events.map(({ message }) => message)).toEqual([1, 2, 3]);
  await relay.stop();
});

test("many topic changes while a client is away lose nothing that it is owed", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), { maxBuffer: 1_000_000, pingInterval: 30_000 });
  const { id } = await relay.clients.register({ userId: 1, topics: ["a"], ttl: 300 });
  for (let round = 0; round < 200; round++) await relay.clients.changeTopics(id, { set: [`t${round}`] });
  await relay.publisher.publish([
    { topic: "t199", message: "1" },
    { topic: "a", message: "2" },
  ]);
  const { sink } = await open(relay, id);
  await turns();
  expect(sink.frames[0]?.data?.["gap"]).toBe(false);
  expect(sink.events.map(({ message }) => message)).toEqual([1]);
  await relay.stop();
});

test("more changes than can wait, each with something owed, are said as a gap", async () => {
  const relay = await Relay.start(new MemoryEngine(ROOMY), { maxBuffer: 1_000_000, pingInterval: 30_000 });
  const { id } = await relay.clients.register({ userId: 1, topics: ["t"], ttl: 300 });
  for (let round = 0; round < 100; round++) {
    await relay.publisher.publish([{ topic: "t", message: String(round) }]);
    await relay.clients.changeTopics(id, { set: round % 2 ? ["t"] : ["t", "u"] });
  }
  const { sink } = await open(relay, id);
  await turns(100);
  expect(sink.frames[0]?.data?.["gap"]).toBe(true);
  expect(sink.events.map(({ message }) => message)).toEqual(Array.from({ length: 63 }, (_, index) => index + 37));
  await relay.stop();
});

async function relayWith(topics: string[], retention = ROOMY) {
  const relay = await Relay.start(new MemoryEngine(retention), { maxBuffer: 1_000_000, pingInterval: 30_000 });
  onTestFinished(() => relay.stop());
  const { id } = await relay.clients.register({ userId: 1, topics, ttl: 300 });
  const state = async (event: string | undefined) => {
    const { deliveries } = await relay.publisher.receipt(idOf(event));
    return deliveries?.map((delivery) => delivery.state);
  };
  return { relay, id, state };
}

test("a replay that is interrupted goes on where it was", async () => {
  const { relay, id } = await relayWith(["a"]);
  const [first] = await relay.publisher.publish([
    { topic: "a", message: "1" },
    { topic: "a", message: "2" },
  ]);
  const one = await open(relay, id);
  await turns();
  one.connection.ponged(one.sink.pings.at(-1) ?? "");
  const two = await open(relay, id, { since: { id: idOf(first?.id) } });
  await turns();
  expect(two.sink.events.map(({ message }) => message)).toEqual([2]);
  await relay.clients.changeTopics(id, { add: ["b"] });
  await relay.connections.closed(two.connection);
  const three = await open(relay, id);
  await turns();
  expect(three.sink.events.map(({ message }) => message)).toEqual([2]);
});

test("what is not delivered is not called confirmed: beyond the log, before it, never kept, replaced, left out", async () => {
  const { relay, id, state } = await relayWith(["a"], { ...ROOMY, count: 3 });
  const publish = async (more: object = {}) =>
    (await relay.publisher.publish([{ topic: "a", message: "1", ...more }]))[0]?.id;
  const beyond = await publish();
  await open(relay, id, { since: { id: { ms: 9e12, seq: 0 } } });
  await turns();
  expect(await state(beyond)).toEqual(["expired"]);
  await relay.connections.closed((await open(relay, id)).connection);
  const trimmed = await publish();
  for (let n = 0; n < 3; n++) await publish();
  expect(await state(trimmed)).toEqual(["expired"]);
  const { sink, connection } = await open(relay, id);
  await turns();
  connection.ponged(sink.pings.at(-1) ?? "");
  expect(await state(trimmed)).toEqual(["expired"]);
  const never = await publish({ ttl: 0 });
  const replaced = await publish({ key: "k" });
  await publish({ key: "k" });
  expect([await state(never), await state(replaced)]).toEqual([["sent"], ["sent"]]);
  await relay.connections.closed(connection);
  const again = await open(relay, id);
  await turns();
  again.connection.ponged(again.sink.pings.at(-1) ?? "");
  expect([await state(never), await state(replaced)]).toEqual([["expired"], ["expired"]]);
});

test("what is written to a socket that is closing is not sent, and comes with the next connection", async () => {
  const { relay, id } = await relayWith(["a"]);
  const one = await open(relay, id);
  await turns();
  one.sink.open = false;
  const [reply] = await relay.publisher.publish([{ topic: "a", message: "1" }]);
  expect(reply).toMatchObject({ matched: 1, sent: 0, waiting: 1 });
  await relay.connections.closed(one.connection);
  const two = await open(relay, id);
  await turns();
  expect(two.sink.events.map(({ message }) => message)).toEqual([1]);
});

test("events of one request that replace each other are counted as what they are", async () => {
  const { relay } = await relayWith(["a"]);
  const draft = { topic: "a", message: "1", key: "k" };
  expect(await relay.publisher.publish([draft, draft])).toMatchObject([
    { matched: 1, sent: 0, waiting: 0 },
    { matched: 1, sent: 0, waiting: 1 },
  ]);
});

test("a hundred thousand frames in one turn are no harm", async () => {
  const { relay, id } = await relayWith(["a"]);
  const { sink } = await open(relay, id);
  await turns();
  const drafts = Array.from({ length: 20_000 }, (_, n) => ({ topic: "a", message: String(n) }));
  await Promise.all(Array.from({ length: 5 }, () => relay.publisher.publish(drafts)));
  for (let turn = 0; turn < 1000 && sink.events.length < 100_000; turn++) await turns(1);
  expect(sink.events).toHaveLength(100_000);
});
