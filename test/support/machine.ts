import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { temporaryDirectory } from "./directory.js";
import { builtRelay, RelayProcess } from "./process.js";
import { type Frames, openSocket } from "./socket.js";

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

/** A relay, its disk, and a clock that can be set: also to let a long time pass while the relay is down. */
export class Machine {
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
    // To the relay, a file that is larger than it may be is an error, as on a full disk.
    const command = ["sh", "-c", 'trap "" XFSZ; exec "$0" "$@"', program, "--import", MOVED, cli];
    this.relay = new RelayProcess(args, { WALL_CLOCK: this.file }, command);
    this.address = await this.relay.address();
    // It listens before it has loaded.
    while ((await fetch(`${this.address}/ready`)).status !== 200) await pause(10);
  }

  async stop(signal: NodeJS.Signals): Promise<void> {
    this.relay?.child.kill(signal);
    await this.relay?.ended;
  }

  /** @param prlimit the program that sets limits of a process that runs */
  async fillDisk(prlimit: string): Promise<void> {
    execFileSync(prlimit, ["--pid", String(this.relay?.child.pid), "--fsize=4096:unlimited"]);
    while ((await fetch(`${this.address}/ready`)).status !== 503) await pause(10);
  }

  connect(client: string, query = ""): Promise<Frames> {
    return openSocket(`${this.address.replace("http", "ws")}/ws/${client}?format=json&${query}`);
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

  /** @returns undefined when there is no such client (any more) */
  async client(id: string): Promise<{ expires_in: number } | undefined> {
    const response = await fetch(`${this.address}/register/${id}`);
    return response.status === 404 ? undefined : ((await response.json()) as { expires_in: number });
  }

  async receipt(event: string): Promise<Receipt> {
    return (await (await fetch(`${this.address}/events/${event}`)).json()) as Receipt;
  }

  /** The events that a connection is sent up to one with the message "end", which this publishes. */
  async replay(client: string, since: string): Promise<Frame[]> {
    const socket = await this.connect(client, `since=${since}`);
    await this.publish("end", { ttl: 0 });
    const frames: Frame[] = [];
    for (let frame = await socket.json<Frame>(); frame.message !== "end"; frame = await socket.json<Frame>()) {
      if (frame.type === "event") frames.push(frame);
    }
    await socket.close();
    return frames;
  }
}
