import { describe, expect, onTestFinished, test, vi } from "vitest";
import { compareIds, type EventId, formatId, parseId, ZERO } from "../../src/core/id.js";
import { type HappeningName, Observer } from "../../src/core/observer.js";
import { Relay } from "../../src/core/relay.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { commit } from "../support/engine.js";
import { heard, next } from "../support/happenings.js";
import { relaySettings, strictObserver } from "../support/settings.js";
import { lineEncoders, MemorySink, open, turns } from "../support/sink.js";
import { pong, Stage } from "../support/stage.js";

const EVERYONE = undefined;

function of(told: readonly [HappeningName, object][], name: HappeningName): object[] {
  return told.filter(([each]) => each === name).map(([, happening]) => happening);
}

describe("listeners", () => {
  const reached = { limit: "clients" } as const;

  test("hear what happens after they came, in order, until they stop", async () => {
    const observer = strictObserver();
    const limits: string[] = [];
    expect(observer.hears("limit.reached")).toBeUndefined();
    const listener = ({ limit }: { limit: string }): void => void limits.push(limit);
    const stop = observer.on("limit.reached", listener);
    const stopAgain = observer.on("limit.reached", listener);
    observer.hears("limit.reached")?.(reached);
    observer.hears("limit.reached")?.({ limit: "frames" });
    await turns(1);
    stop();
    stop();
    observer.hears("limit.reached")?.({ limit: "waits" });
    await turns(1);
    expect(limits).toEqual(["clients", "clients", "frames", "frames", "waits"]);
    stopAgain();
    expect(observer.hears("limit.reached")).toBeUndefined();
  });

  test("that fail are reported each time, whether they throw or reject, and the others hear all", async () => {
    const failures: unknown[] = [];
    const observer = new Observer((error, name) => void failures.push([(error as Error).message, name]));
    const limits: string[] = [];
    observer.on("limit.reached", () => {
      throw new Error("thrown");
    });
    observer.on("limit.reached", async () => {
      throw new Error("rejected");
    });
    observer.on("limit.reached", ({ limit }) => void limits.push(limit));
    for (let times = 0; times < 2; times++) observer.hears("limit.reached")?.(reached);
    await turns(1);
    expect(limits).toEqual(["clients", "clients"]);
    const both = ["thrown", "rejected"].flatMap((message) => [[message, "limit.reached"]]);
    expect(failures).toHaveLength(4);
    expect(failures).toEqual(expect.arrayContaining([...both, ...both]));
  });

  test("that throw or are slow do not keep an event from anybody, and may publish themselves", async () => {
    const failures: unknown[] = [];
    const observer = new Observer((error) => void failures.push(error));
    const engine = new MemoryEngine({ age: 60_000, count: 1000, bytes: 1_000_000 });
    const relay = await Relay.start(engine, relaySettings({}, observer));
    onTestFinished(() => relay.stop());
    const ids = [];
    for (let userId = 0; userId < 3; userId++) {
      ids.push((await relay.clients.register({ userId, topics: ["a", "b"], ttl: 300 })).id);
    }
    const opened = await Promise.all(ids.map((id) => open(relay, id)));
    const stop = observer.on("event.delivered", ({ id }) => {
      stop();
      void relay.publisher.publish([{ topic: "b", message: JSON.stringify(id) }]);
      throw new Error("thrown");
    });
    const [reply] = await relay.publisher.publish([{ topic: "a", message: "1" }]);
    await turns(20);
    expect(reply).toMatchObject({ matched: 3, sent: 3 });
    for (const { sink } of opened) expect(sink.events.map(({ message }) => message)).toEqual([1, reply?.id]);
    expect(failures).toHaveLength(1);
  });
});

test("a client from its registration to its removal, and the events between", async () => {
  const stage = await Stage.begin(["a"]);
  const told = heard(stage.observer);
  const { id: client } = await stage.relay.clients.register({ userId: "u", topics: ["a", "b.*"], ttl: 60 });
  stage.id = client;
  const who = { client, userId: "u" };
  const first = await stage.connect();
  const live = formatId(await stage.publish());
  pong(first);
  await stage.lose(first);
  await stage.publish({ users: ["u"] });
  const last = formatId(await stage.publish({ topic: "b.c" }));
  const second = await stage.connect();
  pong(second);
  await stage.relay.clients.remove(client);
  await stage.lose(second);
  await turns(1);

  const connection = { ...who, contested: false, transport: undefined };
  expect(of(told, "client.registered")).toEqual([{ ...who, topics: ["a", "b.*"], ttl: 60 }]);
  expect(of(told, "client.connected")).toEqual([connection, connection]);
  expect(of(told, "client.disconnected")).toEqual([
    { ...connection, reason: undefined },
    { ...connection, reason: "removed" },
  ]);
  const [removed] = of(told, "client.removed") as { cursor: string }[];
  expect(removed).toEqual({ ...who, cursor: expect.any(String), reason: "request" });
  // Nothing is lost: the client had all that came before its end.
  expect(compareIds(parseId(removed?.cursor ?? "") ?? ZERO, parseId(last) as EventId)).toBeGreaterThanOrEqual(0);
  expect(of(told, "client.expired")).toEqual([]);
  expect(of(told, "event.published")).toEqual([
    { id: live, topic: "a", users: EVERYONE },
    { id: expect.any(String), topic: "a", users: ["u"] },
    { id: last, topic: "b.c", users: EVERYONE },
  ]);
  expect(of(told, "event.delivered")).toEqual([
    { id: live, count: 1 },
    { id: last, count: 2, client },
  ]);
  const seconds = expect.any(Number) as number;
  expect(of(told, "event.confirmed")).toEqual([
    { ...who, id: live, seconds },
    { ...who, id: last, seconds },
  ]);
  expect(told.map(([name]) => name).filter((name) => name.startsWith("client."))).toEqual([
    "client.registered",
    "client.connected",
    "client.disconnected",
    "client.connected",
    "client.removed",
    "client.disconnected",
  ]);
});

describe("event.confirmed", () => {
  test("has the seconds since the event was published", async () => {
    onTestFinished(() => void vi.useRealTimers());
    vi.useFakeTimers({ toFake: ["Date", "performance"], now: Date.now() });
    const stage = await Stage.begin();
    const told = heard(stage.observer);
    const opened = await stage.connect();
    const id = formatId(await stage.publish());
    vi.advanceTimersByTime(1500);
    // A connection's confirmations by hand may be of less than what it was sent.
    await stage.publish();
    opened.connection.ack(parseId(id) as EventId);
    await turns(1);
    expect(of(told, "event.confirmed")).toEqual([{ client: stage.id, userId: 1, id, seconds: 1.5 }]);
  });

  test("is told once for an event, and not for a gap that the client was told of", async () => {
    const stage = await Stage.begin(["a"], { count: 5 });
    const told = heard(stage.observer);
    for (let n = 0; n < 20; n++) await stage.publish();
    await commit(stage.engine);
    const opened = await stage.connect();
    const [ofGap] = opened.sink.pings;
    const cursor = opened.sink.frames[0]?.data?.["cursor"];
    expect(of(told, "gap.said")).toEqual([{ client: stage.id, userId: 1, cursor }]);
    expect(ofGap).toBe(cursor);
    opened.connection.ponged(ofGap ?? "");
    await turns(1);
    expect(of(told, "event.confirmed")).toEqual([]);
    opened.connection.ping();
    await turns();
    for (let times = 0; times < 2; times++) pong(opened);
    await turns(1);
    expect(of(told, "event.confirmed")).toMatchObject([{ id: opened.sink.events.at(-1)?.id }]);
  });

  test("is told of an orderly close, before the end of the connection", async () => {
    const stage = await Stage.begin();
    const told = heard(stage.observer);
    const { connection } = await stage.connect();
    await stage.publish();
    connection.close({ reason: "restarting" });
    await stage.relay.connections.closed(connection, true);
    await turns(1);
    expect(told.map(([name]) => name).slice(-2)).toEqual(["event.confirmed", "client.disconnected"]);
  });
});

test("a gap on an open connection is told when the client is", async () => {
  const stage = await Stage.begin(["a"], { count: 5 });
  const told = heard(stage.observer);
  const sink = new MemorySink();
  await open(stage.relay, stage.id, {}, sink);
  sink.stalled = true;
  const message = JSON.stringify("x".repeat(60_000));
  for (let n = 0; n < 40; n++) await stage.publish({ message });
  await commit(stage.engine);
  expect(of(told, "gap.said")).toEqual([]);
  sink.resume();
  await turns(40);
  const notice = sink.frames.find(({ data }) => data?.["event"] === "gap");
  expect(of(told, "gap.said")).toEqual([{ client: stage.id, userId: 1, cursor: notice?.data?.["cursor"] }]);
});

test("a gap that a connection can not be told of is told with the next one", async () => {
  const stage = await Stage.begin(["a"], { count: 5 });
  const told = heard(stage.observer);
  for (let n = 0; n < 20; n++) await stage.publish();
  await commit(stage.engine);
  const { connection } = await open(stage.relay, stage.id, {}, new MemorySink(), lineEncoders.raw);
  await turns(20);
  await stage.relay.connections.closed(connection, true);
  await turns(1);
  expect(of(told, "gap.said")).toEqual([]);
  expect(of(told, "client.disconnected")).toMatchObject([{ reason: "gap" }]);
  await open(stage.relay, stage.id, { gapSaid: true }, new MemorySink(), lineEncoders.raw);
  await turns(1);
  expect(of(told, "gap.said")).toHaveLength(1);
});

describe("the end of a client is told once, with why", () => {
  test("its ttl", async () => {
    const stage = await Stage.begin();
    const { id: client, cursor } = await stage.relay.clients.register({ userId: 2, topics: ["a"], ttl: 0.1 });
    await stage.publish();
    const expired = await next(stage.observer, "client.expired");
    expect(expired).toEqual({ client, userId: 2, cursor: formatId(cursor), reason: "ttl" });
  });

  test("its connection, when it is kept no longer than that", async () => {
    const stage = await Stage.begin();
    const { id: client } = await stage.relay.clients.registerAnonymous(0);
    const told = heard(stage.observer);
    const { connection } = await open(stage.relay, client);
    await stage.relay.connections.closed(connection);
    await turns(1);
    expect(told.map(([name]) => name)).toEqual(["client.connected", "client.disconnected", "client.expired"]);
    expect(of(told, "client.expired")).toMatchObject([{ client, userId: "$1", reason: "ttl" }]);
  });

  test("its token", async () => {
    const stage = await Stage.begin();
    const told = heard(stage.observer);
    const until = Date.now() + 100;
    const { id: client } = await stage.relay.clients.register({ userId: 3, topics: ["a"], ttl: 60, until });
    const { connection } = await open(stage.relay, client);
    expect(await next(stage.observer, "client.expired")).toMatchObject({ client, userId: 3, reason: "token" });
    await stage.relay.connections.closed(connection);
    await turns(1);
    expect(of(told, "client.disconnected")).toMatchObject([{ client, reason: "expired" }]);
    expect(of(told, "client.expired")).toHaveLength(1);
  });

  test("its key", async () => {
    const stage = await Stage.begin();
    const told = heard(stage.observer);
    const { id: client } = await stage.relay.clients.register({ userId: 4, topics: ["a"], ttl: 60, key: "shop" });
    await stage.relay.lifetimes.retainKeys(new Set(["shop"]));
    await stage.relay.lifetimes.retainKeys(new Set(["other"]));
    await turns(1);
    expect(of(told, "client.removed")).toMatchObject([{ client, userId: 4, reason: "key" }]);
  });

  test("not again for one that is gone, and not for one that came back in time", async () => {
    const stage = await Stage.begin();
    const told = heard(stage.observer);
    const { id } = await stage.relay.clients.register({ userId: 5, topics: ["a"], ttl: 60 });
    expect([await stage.relay.clients.remove(id), await stage.relay.clients.remove(id)]).toEqual([true, false]);
    await stage.lose(await stage.connect());
    await stage.connect();
    await stage.restart();
    await turns(1);
    expect(of(told, "client.removed")).toHaveLength(1);
    expect(of(told, "client.expired")).toEqual([]);
  });
});

test("a request that repeats an idempotency key publishes nothing", async () => {
  const stage = await Stage.begin();
  const told = heard(stage.observer);
  const once = { owner: "", key: "k", fingerprint: "f" };
  const drafts = ["a", "b"].map((topic) => ({ topic, message: "1" }));
  const replies = [];
  for (let times = 0; times < 2; times++) replies.push(await stage.relay.publisher.publish(drafts, { once }));
  await turns(1);
  const ids = replies[0]?.map(({ id }) => id);
  expect(of(told, "event.published").map((event) => (event as { id: string }).id)).toEqual(ids);
});

test("connections that replace each other are told of, as contested from then on", async () => {
  const stage = await Stage.begin();
  const told = heard(stage.observer);
  for (let count = 0; count < 4; count++) await stage.connect();
  expect(of(told, "client.contested")).toEqual([{ client: stage.id, userId: 1, replacements: 3 }]);
  expect(of(told, "client.connected").map((each) => (each as { contested: boolean }).contested)).toEqual([
    false,
    false,
    false,
    true,
  ]);
  const reached = next(stage.observer, "limit.reached");
  const waits = open(stage.relay, stage.id).catch(() => undefined);
  expect(await reached).toEqual({ limit: "replacements" });
  await stage.stop();
  await waits;
});
