import { setTimeout as pause } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { Machine } from "../support/machine.js";

const HOUR = 3_600_000;

/** Milliseconds until something holds; Infinity: it does not in time. */
async function durationOf(holds: () => Promise<boolean>, every = 20): Promise<number> {
  const start = performance.now();
  while (!(await holds())) {
    if (performance.now() - start > 8000) return Infinity;
    await pause(every);
  }
  return performance.now() - start;
}

function isAfter(id: string, other: string): boolean {
  const [[ms = 0, seq = 0], [otherMs = 0, otherSeq = 0]] = [id, other].map((text) => text.split("-").map(Number)) as [
    number[],
    number[],
  ];
  return ms - otherMs > 0 || (ms === otherMs && seq > otherSeq);
}

describe.each([
  ["while the relay runs", undefined],
  ["while a relay that was stopped is down", "SIGTERM"],
  ["while a relay that was killed is down", "SIGKILL"],
] as const)("a machine's clock that is set back by an hour %s", (_, signal) => {
  const setBack = async (machine: Machine): Promise<void> => {
    if (signal) await machine.stop(signal);
    machine.set(-HOUR);
    if (signal) await machine.start();
  };

  test("changes neither the order of events, nor how long an event, a client and the log last", async () => {
    const machine = new Machine();
    await machine.start();
    const client = await machine.register(300);
    const before = await machine.publish("before");
    await setBack(machine);
    const brief = await machine.register(1);
    const short = await machine.publish("short", { ttl: 1 });
    expect(isAfter(short, before)).toBe(true);
    const forgotten = durationOf(async () => (await machine.client(brief)) === undefined);
    // Of two clients: the one that is forgotten has it neither.
    const expired = durationOf(async () => (await machine.receipt(short)).expired === 2);
    for (const duration of await Promise.all([forgotten, expired])) {
      expect(duration).toBeGreaterThan(700);
      expect(duration).toBeLessThan(4500);
    }
    const after = await machine.publish("after");
    expect(isAfter(after, short)).toBe(true);
    const messages = (await machine.replay(client, "0")).map(({ message }) => message);
    expect(messages).toEqual(["before", "after"]);
  });

  test("changes nothing for those who ask for what came since some time ago", async () => {
    const machine = new Machine();
    await machine.start();
    const client = await machine.register(300);
    await machine.publish("before");
    await setBack(machine);
    await machine.publish("long ago");
    await pause(3000);
    await machine.publish("a while ago");
    await pause(1200);
    await machine.publish("now");
    expect((await machine.replay(client, "600ms")).map(({ message }) => message)).toEqual(["now"]);
    expect((await machine.replay(client, "2500ms")).map(({ message }) => message)).toEqual(["a while ago", "now"]);
  });

  test("does not keep events longer than their age allows", async () => {
    const machine = new Machine(["--retention-age", "2s"]);
    await machine.start();
    await machine.publish("before");
    await setBack(machine);
    await machine.publish("after");
    const client = await machine.register(300);
    // What is not there any more is not sent.
    const isGone = async (): Promise<boolean> => (await machine.replay(client, "0")).length === 0;
    expect(await durationOf(isGone, 200)).toBeLessThan(7500);
  });

  test("is seen in the time of the events that are published then, live and from the log", async () => {
    const machine = new Machine();
    await machine.start();
    const client = await machine.register(300);
    const before = await machine.publish("before");
    const published = machine.now;
    await setBack(machine);
    await machine.publish("after");
    const set = machine.now;
    const isNear = (time: string | undefined, to: number): boolean => Math.abs(Date.parse(time ?? "") - to) < 3000;
    const frames = await machine.replay(client, "0");
    expect(frames.map(({ message }) => message)).toEqual(["before", "after"]);
    expect(isNear(frames[0]?.time, published)).toBe(true);
    expect(isNear(frames[1]?.time, set)).toBe(true);
    await machine.stop("SIGTERM");
    await machine.start();
    // The window is empty now: this is what the disk has.
    expect(await machine.replay(client, "0")).toEqual(frames);
    for (const [id, time] of [
      [before, frames[0]?.time],
      [frames[1]?.id, frames[1]?.time],
    ]) {
      expect((await machine.receipt(id ?? "")).time).toBe(time);
    }
  });
});
