import { setTimeout as pause } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import type { EventId } from "../../src/core/id.js";
import { commit, findClient } from "../support/engine.js";
import { pong, Stage, type State } from "../support/stage.js";

describe("what a client never received is not called confirmed", () => {
  test("replaced while it was on its way, and then a crash", async () => {
    const stage = await Stage.begin();
    await stage.connect();
    const replaced = await stage.publish({ key: "k" });
    const last = await stage.publish({ key: "k" });
    await stage.crash();
    pong(await stage.connect());
    expect(await stage.state(last)).toBe("confirmed");
    expect(await stage.state(replaced)).toBeUndefined();
  });

  test("more than a thousand events of ttl 0 on their way when the connection is lost", async () => {
    const stage = await Stage.begin();
    const lost = await stage.connect();
    lost.sink.stalled = true;
    const events: EventId[] = [];
    for (let n = 0; n < 1200; n++) events.push(await stage.publish({ ttl: 0 }));
    expect(new Set(await stage.states(...events))).toEqual(new Set(["sent"]));
    await stage.lose(lost);
    pong(await stage.connect());
    const last = await stage.publish();
    expect(new Set(await stage.states(...events))).toEqual(new Set(["expired"]));
    expect(await stage.state(last)).toBe("sent");
  });

  test("more than a thousand events that were replaced on their way when the connection is lost", async () => {
    const stage = await Stage.begin();
    const lost = await stage.connect();
    const events: EventId[] = [];
    for (let n = 0; n < 1200; n++) events.push(await stage.publish({ key: "k" }));
    await stage.lose(lost);
    pong(await stage.connect());
    const last = events.pop() as EventId;
    expect(new Set(await stage.states(...events))).toEqual(new Set(["expired"]));
    expect(await stage.state(last)).toBe("confirmed");
  });

  test("taken away with a permission while it was on its way, and then a crash", async () => {
    const stage = await Stage.begin(["a", "b"]);
    await stage.connect();
    const taken = await stage.publish({ topic: "b" });
    await stage.relay.clients.change(stage.id, {}, { subscribe: ["a"] });
    const kept = await stage.publish();
    await stage.crash();
    pong(await stage.connect());
    expect(await stage.states(taken, kept)).toEqual([undefined, "confirmed"]);
  });

  test("taken away, given back for what comes, and something else taken away", async () => {
    const stage = await Stage.begin(["a", "b"]);
    const opened = await stage.connect();
    const taken = await stage.publish({ topic: "b" });
    await stage.relay.clients.change(stage.id, {}, { subscribe: ["a"] });
    await stage.relay.clients.change(stage.id, { set: ["a", "b", "c"] }, { subscribe: ["a", "b", "c"] });
    await stage.relay.clients.change(stage.id, {}, { subscribe: ["a", "b"] });
    await stage.lose(opened);
    const last = await stage.publish({ topic: "b" });
    pong(await stage.connect());
    expect(await stage.states(taken, last)).toEqual(["expired", "confirmed"]);
  });

  test("taken away, with more, and with less again", async () => {
    const stage = await Stage.begin(["a", "b", "c"]);
    const opened = await stage.connect();
    const events = [await stage.publish({ topic: "b" }), await stage.publish({ topic: "c" })];
    await stage.relay.clients.change(stage.id, {}, { subscribe: ["a", "c"] });
    events.push(await stage.publish({ topic: "c" }));
    await stage.relay.clients.change(stage.id, {}, { subscribe: ["a"] });
    await stage.lose(opened);
    expect(await stage.states(...events)).toEqual(["expired", "expired", "expired"]);
    await stage.restart();
    pong(await stage.connect());
    await stage.publish();
    expect(await stage.states(...events)).toEqual(["expired", "expired", "expired"]);
  });

  test("expired before the client came, and the relay crashes before it has written anything", async () => {
    const stage = await Stage.begin();
    const expired = await stage.publish({ ttl: 1 });
    const kept = await stage.publish();
    await pause(1100);
    await stage.flush();
    const opened = await stage.connect();
    expect(opened.sink.events).toHaveLength(1);
    pong(opened);
    await stage.crash();
    expect([undefined, "expired"]).toContain(await stage.state(expired));
    pong(await stage.connect());
    expect([undefined, "expired"]).toContain(await stage.state(expired));
    expect(await stage.state(kept)).toBe("confirmed");
  });

  test("passed over by since=now, also when the client goes back to it later with other topics", async () => {
    const stage = await Stage.begin(["a", "b"]);
    const passed = [await stage.publish(), await stage.publish({ topic: "b" })];
    await stage.lose(await stage.connect({ since: "now" }));
    expect(await stage.states(...passed)).toEqual(["expired", "expired"]);
    await stage.relay.clients.change(stage.id, { set: ["a"] });
    const back = await stage.connect({ since: "start" });
    expect(back.sink.events).toHaveLength(1);
    expect(await stage.states(...passed)).toEqual(["sent", "expired"]);
    pong(back);
    expect(await stage.states(...passed)).toEqual(["confirmed", "expired"]);
    await stage.restart();
    expect(await stage.states(...passed)).toEqual(["confirmed", "expired"]);
  });

  test("passed over, and read again with other topics each time", async () => {
    const stage = await Stage.begin(["a", "b", "c"]);
    const passed = [await stage.publish(), await stage.publish({ topic: "b" }), await stage.publish({ topic: "c" })];
    await stage.lose(await stage.connect({ since: "now" }));
    for (const topic of ["a", "b"]) {
      await stage.relay.clients.change(stage.id, { set: [topic] });
      const back = await stage.connect({ since: "start" });
      expect(back.sink.events.map((event) => event.topic)).toEqual([topic]);
      pong(back);
      await stage.publish({ topic: "other" });
    }
    // Of the first replay nothing is known any more.
    expect(await stage.states(...passed)).toEqual([undefined, "confirmed", undefined]);
  });
});

describe("what a client has received is not called expired", () => {
  test("confirmed by since after its connection ended, when it had been replaced meanwhile", async () => {
    const stage = await Stage.begin();
    const opened = await stage.connect({ manualAck: true });
    const events = [await stage.publish({ key: "k" }), await stage.publish({ key: "k" })] as const;
    await stage.lose(opened);
    expect(await stage.states(...events)).toEqual(["expired", "waiting"]);
    await stage.lose(await stage.connect({ since: { id: events[1] } }));
    expect(await stage.states(...events)).toEqual(["confirmed", "confirmed"]);
    await stage.restart();
    expect(await stage.states(...events)).toEqual(["confirmed", "confirmed"]);
  });

  test.each([
    ["a restart", (stage: Stage) => stage.restart(), "confirmed"],
    ["a crash, after which it is not known", (stage: Stage) => stage.crash(), undefined],
  ] as const)("confirmed by since after %s, when it had been replaced before", async (_, end, state) => {
    const stage = await Stage.begin();
    await stage.connect({ manualAck: true });
    const events = [await stage.publish({ key: "k" }), await stage.publish({ key: "k" })] as const;
    await end(stage);
    await stage.lose(await stage.connect({ since: { id: events[1] } }));
    expect(await stage.states(...events)).toEqual([state, "confirmed"]);
  });

  test("confirmed by since, when it was sent on a connection before the one that confirmed what came later", async () => {
    const stage = await Stage.begin();
    await stage.connect();
    const event = await stage.publish({ ttl: 0 });
    const second = await stage.connect();
    const later = await stage.publish();
    pong(second);
    expect(await stage.states(event, later)).toEqual(["expired", "confirmed"]);
    await stage.lose(await stage.connect({ since: { id: later } }));
    expect(await stage.states(event, later)).toEqual(["confirmed", "confirmed"]);
  });

  test("confirmed by an orderly end", async () => {
    const stage = await Stage.begin();
    const { connection } = await stage.connect();
    const events = [await stage.publish({ key: "k" }), await stage.publish({ key: "k" })] as const;
    connection.close({ reason: "restarting", retryAfter: 0 });
    await stage.relay.connections.closed(connection, true);
    expect(await stage.states(...events)).toEqual(["confirmed", "confirmed"]);
  });

  test("confirmed, and then passed by again on a replay, when its ttl is over", async () => {
    const stage = await Stage.begin();
    const opened = await stage.connect();
    const event = await stage.publish({ ttl: 1 });
    await stage.publish();
    pong(opened);
    await pause(1100);
    const replay = await stage.connect({ since: "start" });
    expect(replay.sink.events).toHaveLength(1);
    pong(replay);
    expect(await stage.state(event)).toBe("confirmed");
    await stage.restart();
    expect(await stage.state(event)).toBe("confirmed");
  });

  test("confirmed between more stretches that it has skipped than are kept", async () => {
    const stage = await Stage.begin();
    const confirmed: EventId[] = [];
    const skipped: EventId[] = [];
    for (let n = 0; n < 40; n++) {
      const opened = await stage.connect({ since: "now" });
      confirmed.push(await stage.publish());
      opened.connection.ack(confirmed.at(-1) as EventId);
      await stage.lose(opened);
      skipped.push(await stage.publish());
    }
    const known = (states: State[]): State[] => states.filter((state) => state !== undefined);
    for (const end of [async () => undefined, async () => stage.restart()]) {
      await end();
      expect(new Set(known(await stage.states(...confirmed)))).toEqual(new Set(["confirmed"]));
      expect(new Set(known(await stage.states(...skipped.slice(0, -1))))).toEqual(new Set(["expired"]));
      expect(known(await stage.states(...confirmed)).length).toBeGreaterThanOrEqual(14);
    }
  });

  test("confirmed on a connection just before a crash: when it was dropped since, it is not known", async () => {
    const stage = await Stage.begin();
    const opened = await stage.connect();
    const dropped = await stage.publish({ ttl: 2 });
    const kept = await stage.publish();
    pong(opened);
    await stage.crash();
    expect(await stage.states(dropped, kept)).toEqual(["waiting", "waiting"]);
    await pause(2000);
    expect(await stage.states(dropped, kept)).toEqual([undefined, "waiting"]);
    pong(await stage.connect());
    expect(await stage.states(dropped, kept)).toEqual([undefined, "confirmed"]);
  });
});

describe("an event of ttl 0 with a key", () => {
  test("takes the place of the one that is kept: for good, and on disk", async () => {
    const stage = await Stage.begin();
    const kept = await stage.publish({ key: "k" });
    await stage.publish({ key: "k", ttl: 0 });
    expect(await stage.state(kept)).toBe("expired");
    await stage.crash();
    expect((await stage.connect()).sink.events).toEqual([]);
    expect(await stage.state(kept)).toBe("expired");
  });

  test("leaves its place empty: a later one replaces nothing, and is kept", async () => {
    const stage = await Stage.begin();
    const live = await stage.connect();
    await stage.publish({ key: "k", message: "1" });
    await stage.publish({ key: "k", ttl: 0, message: "2" });
    await stage.publish({ key: "k", message: "3" });
    expect(live.sink.events.map(({ message }) => message)).toEqual([1, 2, 3]);
    await stage.crash();
    expect((await stage.connect()).sink.events.map(({ message }) => message)).toEqual([3]);
  });

  test("stands between two that are kept, in one request: the last of them is found by the next", async () => {
    const stage = await Stage.begin();
    const draft = { topic: "a", message: "1", key: "k" };
    await stage.relay.publisher.publish([draft, { ...draft, ttl: 0 }, { ...draft, message: "2" }]);
    await stage.crash();
    const last = await stage.publish({ key: "k", message: "3" });
    expect((await stage.connect()).sink.events.map(({ message }) => message)).toEqual([3]);
    expect(await stage.state(last)).toBe("sent");
  });
});

test("what a client has received of a part of the log that is trimmed is not kept", async () => {
  const stage = await Stage.begin(["a"], { count: 10 });
  const counts: number[] = [];
  for (let round = 0; round < 30; round++) {
    // An ordinary client: it loses its connection, comes back, gets what it is owed, and then what comes.
    await stage.publish({ key: "k" });
    const opened = await stage.connect();
    await stage.publish({ key: "k" });
    pong(opened);
    await stage.lose(opened);
    counts.push((await findClient(stage.engine, stage.id))?.received.length ?? 0);
  }
  for (let n = 0; n < 40; n++) await stage.publish({ topic: "other" });
  await commit(stage.engine, 5);
  const opened = await stage.connect();
  await stage.publish();
  pong(opened);
  await stage.flush();
  const record = await findClient(stage.engine, stage.id);
  expect(record?.received.length, `it had ${counts.join()}`).toBeLessThan(5);
});
