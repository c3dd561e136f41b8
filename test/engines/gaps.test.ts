import { setTimeout as pause } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { commit, Listener } from "../support/engine.js";
import { lineEncoders, MemorySink, open, type Opened, turns } from "../support/sink.js";
import { pong, Stage } from "../support/stage.js";

/** What the first frame says. */
function isGapSaid({ sink }: Opened): unknown {
  return sink.frames[0]?.data?.["gap"];
}

/** Whether a connection that says it in a response header would be told. */
async function isGapKnown(stage: Stage): Promise<boolean> {
  return (await stage.relay.connections.preview(stage.id)).gap;
}

async function openRaw(stage: Stage, isTold = false): Promise<Opened> {
  const opened = await open(stage.relay, stage.id, { gapSaid: isTold }, new MemorySink(), lineEncoders.raw);
  await turns(20);
  return opened;
}

/** More than the log keeps. */
async function publishMore(stage: Stage): Promise<void> {
  for (let n = 0; n < 20; n++) await stage.publish();
  await commit(stage.engine);
}

describe("a gap stays owed until the client has confirmed something later", () => {
  const ends = [
    ["in order", (stage: Stage) => stage.restart()],
    ["as by a crash", (stage: Stage) => stage.crash()],
  ] as const;

  test.each(ends)("when a connection was closed because of it, and the relay ended %s", async (_, end) => {
    const stage = await Stage.begin(["a"], { count: 5 });
    await publishMore(stage);
    const raw = await openRaw(stage);
    expect(raw.sink.closed?.code).toBe(1013);
    await stage.relay.connections.closed(raw.connection, true);
    await end(stage);
    expect(await isGapKnown(stage)).toBe(true);
  });

  test.each(ends)("when a connection was told and lost before it answered, and the relay ended %s", async (_, end) => {
    const stage = await Stage.begin(["a"], { count: 5 });
    await publishMore(stage);
    for (let times = 0; times < 3; times++) {
      const told = await openRaw(stage, true);
      expect(told.sink.closed).toBeUndefined();
      await stage.lose(told);
      const json = await stage.connect();
      expect(isGapSaid(json)).toBe(true);
      await stage.lose(json);
    }
    await end(stage);
    expect(isGapSaid(await stage.connect())).toBe(true);
  });

  test("a client that answers, with nothing published since, is told once", async () => {
    const stage = await Stage.begin(["a"], { count: 5 });
    await publishMore(stage);
    const told = await stage.connect();
    expect([isGapSaid(told), told.sink.events.length]).toEqual([true, 5]);
    pong(told);
    await stage.lose(told);
    expect(isGapSaid(await stage.connect())).toBe(false);
    await stage.crash();
    await stage.lose(await stage.connect());
  });

  test("a gap with nothing after it is asked for, so that it is told once", async () => {
    const stage = await Stage.begin(["a"], { age: 1 });
    const listener = await Listener.on(stage.engine);
    await listener.trimmedThrough(await stage.publish());
    const told = await openRaw(stage, true);
    expect(told.sink.pings).toHaveLength(1);
    pong(told);
    await stage.lose(told);
    expect(await isGapKnown(stage)).toBe(false);
  });

  test("with acks by hand, only an ack at or after it is an answer", async () => {
    const stage = await Stage.begin(["a"], { count: 5 });
    await publishMore(stage);
    const told = await stage.connect({ manualAck: true });
    pong(told);
    await stage.lose(told);
    const again = await stage.connect({ manualAck: true });
    expect(isGapSaid(again)).toBe(true);
    expect(again.connection.ack(await stage.publish())).toBe(true);
    await stage.lose(again);
    expect(await isGapKnown(stage)).toBe(false);
  });
});

describe("a client to which nothing is lost is not told of a gap", () => {
  test("when the log was trimmed of what was for others, before and after a restart", async () => {
    const stage = await Stage.begin(["quiet", "quiet.*"], { count: 5 });
    await publishMore(stage);
    await stage.publish({ topic: "quiet", users: ["another"] });
    await publishMore(stage);
    expect(await isGapKnown(stage)).toBe(false);
    await stage.crash();
    const opened = await stage.connect();
    expect(isGapSaid(opened)).toBe(false);
    const last = await stage.publish({ topic: "quiet.1" });
    expect(opened.sink.events).toHaveLength(1);
    expect(await stage.state(last)).toBe("sent");
  });

  test("when what is trimmed had been replaced, or its ttl was over", async () => {
    const stage = await Stage.begin(["quiet"], { count: 5 });
    await stage.publish({ topic: "quiet", key: "k" });
    await stage.publish({ topic: "other" });
    await stage.publish({ topic: "quiet", key: "k", ttl: 1 });
    await pause(1100);
    await publishMore(stage);
    expect(await isGapKnown(stage)).toBe(false);
  });

  test("while it is connected and catching up", async () => {
    const stage = await Stage.begin(["quiet"], { count: 5 });
    const opened = await stage.connect();
    opened.sink.stalled = true;
    // Too large for its buffer, so that it has to read the log.
    const large = JSON.stringify("x".repeat(600_000));
    for (let n = 0; n < 3; n++) await stage.publish({ topic: "quiet", message: large });
    await publishMore(stage);
    expect(opened.connection.live).toBe(false);
    opened.sink.resume();
    await turns(100);
    const said = opened.sink.frames.map(({ type, data }) => data?.["event"] ?? type);
    expect(said.filter((what) => what === "gap")).toEqual(["gap"]);
    const lost = opened.sink.frames.length;
    await publishMore(stage);
    await publishMore(stage);
    expect(opened.sink.frames).toHaveLength(lost);
  });

  test("but when one event of many was for it, it is", async () => {
    const stage = await Stage.begin(["quiet.>"], { count: 5 });
    await publishMore(stage);
    await stage.publish({ topic: "quiet.1", users: [1] });
    await publishMore(stage);
    expect(await isGapKnown(stage)).toBe(true);
    await stage.restart();
    expect(await isGapKnown(stage)).toBe(true);
  });
});
