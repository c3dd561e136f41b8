// Somebody who uses the relay during an attack, in a thread of its own: how long did the answers take?
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { Requests } from "./requests.mjs";

/** The innocent comes from another address than the attacker, so the limits by address are not for both together. */
const ADDRESS = "127.0.0.2";

/** Milliseconds after which a request that was refused or failed is tried again. */
const RETRY_AFTER = 20;

/** Milliseconds without an attack, in which the code gets warm. */
const WARM_UP = 500;

export class Innocent {
  /**
   * @param port of the relay
   * @param lanes requests that are made all the time, by name: `bytes` of the request, `every` so many milliseconds,
   *   `fresh` when each is to have a connection of its own, and `secure` for TLS
   */
  static async start(port, lanes) {
    const innocent = new Innocent();
    innocent.worker = new Worker(new URL(import.meta.url), { workerData: { port, lanes } });
    await sleep(WARM_UP);
    await innocent.read();
    return innocent;
  }

  /** @returns of each lane the `longest` wait in milliseconds since the last reading, `answers` and `failures` */
  async read() {
    this.worker.postMessage("read", []);
    const [found] = await once(this.worker, "message");
    return found;
  }

  stop() {
    return this.worker.terminate();
  }
}

class Lane {
  longest = 0;
  answers = 0;
  failures = 0;

  constructor(lane) {
    Object.assign(this, lane, { bytes: Buffer.from(lane.bytes) });
  }

  /** A wait begins with the first try and ends with a good answer. */
  async run(port) {
    for (;;) {
      const began = performance.now();
      this.waitingSince = began;
      while (!(await this.ask(port))) await sleep(RETRY_AFTER);
      this.waitingSince = undefined;
      const wait = performance.now() - began;
      this.longest = Math.max(this.longest, wait);
      if (wait < this.every) await sleep(this.every - wait);
    }
  }

  /** @returns whether the relay answered with 200 */
  async ask(port) {
    try {
      this.requests ??= await Requests.open(port, { from: ADDRESS, secure: this.secure });
      await this.requests.send(this.bytes);
      this.answers++;
      if (this.fresh) this.close();
      return true;
    } catch {
      this.failures++;
      this.close();
      return false;
    }
  }

  close() {
    this.requests?.close();
    this.requests = undefined;
  }

  take() {
    const now = performance.now();
    const longest = Math.max(this.longest, now - (this.waitingSince ?? now));
    const { answers, failures } = this;
    Object.assign(this, { longest: 0, answers: 0, failures: 0 });
    if (this.waitingSince !== undefined) this.waitingSince = now;
    return { longest, answers, failures };
  }
}

if (!isMainThread && workerData?.lanes) {
  const lanes = Object.entries(workerData.lanes).map(([name, lane]) => [name, new Lane(lane)]);
  for (const [, lane] of lanes) void lane.run(workerData.port);
  parentPort.on("message", () => {
    parentPort.postMessage(Object.fromEntries(lanes.map(([name, lane]) => [name, lane.take()])), []);
  });
}
