import { describe, expect, test, vi } from "vitest";
import type { EventId } from "../../src/core/id.js";
import { commit } from "../support/engine.js";
import { lineEncoders, MemorySink, open, turns } from "../support/sink.js";
import { pong, Stage } from "../support/stage.js";

async function trim(stage: Stage, events = 20): Promise<void> {
  for (let n = 0; n < events; n++) await stage.publish({ topic: "other" });
  await commit(stage.engine);
}

/** Its socket is gone by the time it is there: it has gone back, and was sent nothing. Then its topics change. */
async function goBackUnseen(stage: Stage, to: EventId): Promise<void> {
  const sink = new MemorySink();
  sink.open = false;
  const { connections, clients } = stage.relay;
  const { connection } = await open(stage.relay, stage.id, { since: { id: to } }, sink);
  await connections.closed(connection);
  expect(sink.events).toEqual([]);
  await clients.change(stage.id, { set: ["b"] });
}

describe("what a client was never sent is not called confirmed", () => {
  test("trimmed and said as a gap, when the client later says by since what it got after the gap", async () => {
    const stage = await Stage.begin(["a"], { count: 5 });
    const trimmed = await stage.publish();
    await trim(stage);
    const last = await stage.publish();
    // As a stream: pongs confirm nothing.
    const opened = await stage.connect({ manualAck: true });
    expect(opened.sink.frames[0]?.data?.["gap"]).toBe(true);
    expect(opened.sink.events).toHaveLength(1);
    await stage.lose(opened);
    expect(await stage.state(trimmed)).toBe("expired");
    await stage.lose(await stage.connect({ since: { id: last }, manualAck: true }));
    expect(await stage.state(last)).toBe("confirmed");
    expect(await stage.state(trimmed)).toBe("expired");
  });

  /** The client skipped an event on x, and has other topics now. */
  async function skipped(): Promise<{ stage: Stage; early: EventId; event: EventId }> {
    const stage = await Stage.begin(["x"]);
    const early = await stage.publish({ topic: "other" });
    const event = await stage.publish({ topic: "x" });
    await stage.lose(await stage.connect({ since: "now" }));
    await stage.relay.clients.change(stage.id, { set: ["a"] });
    await stage.lose(await stage.connect());
    expect(await stage.state(event)).toBe("expired");
    return { stage, early, event };
  }

  test("passed over, when the client goes back twice with other topics each time", async () => {
    const { stage, early, event } = await skipped();
    await goBackUnseen(stage, early);
    const back = await stage.connect({ since: "start" });
    expect(back.sink.events.filter(({ topic }) => topic === "x")).toEqual([]);
    const claimed = await stage.state(event);
    await stage.publish({ topic: "b" });
    back.connection.ping();
    pong(back);
    expect([claimed, await stage.state(event)]).not.toContain("confirmed");
  });

  test("passed over, when a change of topics moves the cursor over a replay that holds nothing", async () => {
    const { stage, early, event } = await skipped();
    await goBackUnseen(stage, early);
    await stage.relay.clients.change(stage.id, { set: ["c"] });
    expect(await stage.state(event)).not.toBe("confirmed");
  });
});

describe("what is owed is sent, or said as a gap", () => {
  const names = (of: string): string[] => Array.from({ length: 999 }, (_, n) => `${of}${n}.`.padEnd(255, "x"));

  test("a history that was lost stays a gap for a client that goes back", async () => {
    const stage = await Stage.begin(["old"]);
    await stage.publish({ topic: "old" });
    const sets = [[...names("a"), "p"], names("b"), names("c"), [...names("a"), "q"]];
    for (const set of sets) await stage.relay.clients.change(stage.id, { set });
    expect((await stage.relay.connections.preview(stage.id)).gap).toBe(true);
    expect((await stage.relay.connections.preview(stage.id, "start")).gap).toBe(true);
    await stage.lose(await stage.connect({ since: "start", manualAck: true }));
    expect((await stage.relay.connections.preview(stage.id)).gap).toBe(true);
  });

  const orders = [
    ["after", true],
    ["while", false],
  ] as const;

  // After the change, all of it is sent.
  test.each(orders)("a client goes back %s a change of its topics looks at its long history", async (_, isAfter) => {
    const stage = await Stage.begin(["first"]);
    await stage.publish({ topic: "first" });
    for (let n = 1; n < 63; n++) {
      await stage.relay.clients.change(stage.id, { set: [`t${n}`] });
      await stage.publish({ topic: "now" });
    }
    await stage.relay.clients.change(stage.id, { set: ["now"] });
    const changing = stage.relay.clients.change(stage.id, { add: ["more"] });
    if (isAfter) await changing;
    await turns(10);
    const opened = await stage.connect({ since: "start" });
    await changing;
    await turns(400);
    expect(opened.sink.events.filter(({ topic }) => topic === "now")).toHaveLength(62);
  });

  test("two connections open at once, and one of them goes back", async () => {
    const stage = await Stage.begin();
    const events = [await stage.publish(), await stage.publish()];
    const first = await stage.connect();
    pong(first);
    await stage.lose(first);
    const { relay, id } = stage;
    const [, back] = await Promise.all([open(relay, id), open(relay, id, { since: "start" })]);
    await turns(20);
    expect(back?.sink.closed).toBeUndefined();
    expect(back?.sink.events).toHaveLength(events.length);
  });
});

describe("a client without a connection ends", () => {
  test("when the engine fails while its next connection opens", async () => {
    const stage = await Stage.begin(["a"], { count: 5 });
    const { relay, engine, id } = stage;
    await stage.connect({ manualAck: true });
    await stage.publish();
    await trim(stage);
    const broken = vi.spyOn(engine, "read").mockRejectedValue(new Error("the disk can not be read"));
    await expect(relay.connections.open(id, new MemorySink(), lineEncoders.json)).rejects.toThrow();
    broken.mockRestore();
    await turns(20);
    const record = await relay.clients.get(id);
    expect(relay.lifetimes.left(record)).toBeLessThanOrEqual(300_000);
  });
});

describe("what a client says to have is not called expired", () => {
  test("an event of ttl 0 that it was sent, when its topics changed before it came back with since", async () => {
    const stage = await Stage.begin(["a"]);
    const opened = await stage.connect({ manualAck: true });
    const event = await stage.publish({ ttl: 0 });
    expect(opened.sink.events).toHaveLength(1);
    await stage.lose(opened);
    // Two changes: the first one ends the stretch, the second one passes over it.
    await stage.relay.clients.change(stage.id, { set: ["b"] });
    await stage.relay.clients.change(stage.id, { set: ["c"] });
    await stage.lose(await stage.connect({ since: { id: event } }));
    expect(await stage.state(event)).toBe("confirmed");
  });
});

describe("a client that has missed nothing is not told of a gap", () => {
  test("when it was live since it changed its topics, and was sent an event that it has not confirmed yet", async () => {
    const stage = await Stage.begin(["a", "b"], { count: 5 });
    await stage.relay.clients.change(stage.id, { set: ["a"] });
    // As a stream: pongs confirm nothing.
    const opened = await stage.connect({ manualAck: true });
    expect(opened.connection.live).toBe(true);
    await stage.publish({ topic: "b" });
    await trim(stage);
    await stage.publish();
    expect(opened.sink.events).toHaveLength(1);
    await stage.lose(opened);
    expect((await stage.relay.connections.preview(stage.id)).gap).toBe(false);
  });
});

describe("a connection that opens while the relay stops", () => {
  test("is ended too", async () => {
    const stage = await Stage.begin();
    const opening = open(stage.relay, stage.id);
    await stage.relay.connections.stop();
    const { sink } = await opening;
    expect(sink.closed?.code).toBe(1012);
  });
});

describe("a client that goes back", () => {
  test("is not moved on by a late pong on the connection that was replaced", async () => {
    const stage = await Stage.begin();
    const old = await stage.connect();
    await stage.publish();
    old.connection.ping();
    const back = await stage.connect({ since: "start", manualAck: true });
    expect(back.sink.events).toHaveLength(1);
    pong(old);
    await stage.lose(back);
    expect((await stage.connect()).sink.events).toHaveLength(1);
  });
});

describe("what is known stays known", () => {
  test("a client that has more topics now goes back, and confirms what it was owed under a topic that it has still", async () => {
    const stage = await Stage.begin(["a"]);
    const event = await stage.publish();
    await stage.relay.clients.change(stage.id, { add: ["b"] });
    const opened = await stage.connect({ since: "start" });
    expect(opened.sink.events).toHaveLength(1);
    expect(await stage.state(event)).toBe("sent");
    opened.connection.ping();
    pong(opened);
    expect(await stage.state(event)).toBe("confirmed");
  });

  const cases = [
    ["skips nothing", false],
    ["skips once", true],
  ] as const;

  // Without the skip it is known.
  test.each(cases)("a client %s, and comes back forty times while others publish with keys", async (_, isSkipping) => {
    const stage = await Stage.begin();
    const first = await stage.connect();
    await stage.publish();
    pong(first);
    await stage.lose(first);
    await stage.publish();
    const second = await stage.connect(isSkipping ? { since: "now" } : {});
    const event = await stage.publish();
    second.connection.ack(event);
    await stage.lose(second);
    let newer = event;
    for (let n = 0; n < 40; n++) {
      const opened = await stage.connect();
      const id = await stage.publish();
      if (n === 5) newer = id;
      opened.connection.ack(id);
      await stage.lose(opened);
      await stage.publish({ topic: "other", key: "k" });
    }
    expect(await stage.states(event, newer)).toEqual(["confirmed", "confirmed"]);
  });
});
