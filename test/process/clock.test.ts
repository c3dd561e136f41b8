import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { temporaryDirectory } from "../support/directory.js";
import { builtRelay, RelayProcess } from "../support/process.js";
import { openSocket } from "../support/socket.js";

const HOUR = 3_600_000;
const MOVED = fileURLToPath(new URL("../fixtures/wall-clock.mjs", import.meta.url));

interface Receipt {
  readonly time: string;
  readonly expired?: number;
}

interface Frame {
  readonly type: string;
  readonly id: string;
  readonly message: string;
  readonly time: string;
}

/** A relay on a machine whose clock can be set. */
class Machine {
  private readonly directory = temporaryDirectory();
  private readonly file = join(temporaryDirectory(), "clock");
  private relay: RelayProcess | undefined;
  private address = "";
  private moved = 0;

  constructor(private readonly flags: readonly string[] = []) {
    this.set(0);
  }

  /** Of the machine. */
  get now(): number {
    return Date.now() + this.moved;
  }

  /** @param by milliseconds */
  set(by: number): void {
    this.moved += by;
    writeFileSync(this.file, String(this.moved));
  }

  async start(): Promise<void> {
    const [program, cli] = builtRelay as [string, string];
    const args = ["--listen", "127.0.0.1:0", "--data-dir", this.directory, ...this.flags];
    this.relay = new RelayProcess(args, { WALL_CLOCK: this.file }, [program, "--import", MOVED, cli]);
    this.address = await this.relay.address();
    // It listens before it has loaded.
    while ((await fetch(`${this.address}/ready`)).status !== 200) await pause(10);
  }

  async stop(signal: NodeJS.Signals): Promise<void> {
    this.relay?.child.kill(signal);
    await this.relay?.ended;
  }

  async post<T>(path: string, body: object): Promise<T> {
    const headers = { "content-type": "application/json" };
    const response = await fetch(this.address + path, { method: "POST", headers, body: JSON.stringify(body) });
    expect(response.status).toBe(200);
    return (await response.json()) as T;
  }

  async publish(message: string, more: object = {}): Promise<string> {
    return (await this.post<{ id: string }>("/publish", { topic: "a", message, ...more })).id;
  }

  async register(ttl: number): Promise<string> {
    return (await this.post<{ id: string }>("/register", { user_id: 1, topics: ["a"], ttl })).id;
  }

  async statusOf(client: string): Promise<number> {
    return (await fetch(`${this.address}/register/${client}`)).status;
  }

  async receipt(event: string): Promise<Receipt> {
    return (await (await fetch(`${this.address}/events/${event}`)).json()) as Receipt;
  }

  /** The events that a connection is sent up to one with the message "end", which this publishes. */
  async replay(client: string, since: string): Promise<Frame[]> {
    const socket = await openSocket(`${this.address.replace("http", "ws")}/ws/${client}?format=json&since=${since}`);
    await this.publish("end", { ttl: 0 });
    const frames: Frame[] = [];
    for (let frame = await socket.json<Frame>(); frame.message !== "end"; frame = await socket.json<Frame>()) {
      if (frame.type === "event") frames.push(frame);
    }
    await socket.close();
    return frames;
  }
}

/** Milliseconds until something holds; Infinity: it does not in time. */
async function durationOf(holds: () => Promise<boolean>, every = 20): Promise<number> {
  const start = performance.now();
  while (!(await holds())) {
    if (performance.now() - start > 5000) return Infinity;
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
    const forgotten = durationOf(async () => (await machine.statusOf(brief)) === 404);
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
    expect(await durationOf(isGone, 200)).toBeLessThan(4500);
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
