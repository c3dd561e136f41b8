// A relay whose turns are measured, and the ways in which the cases use it.
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Frames } from "../support/frames.mjs";
import { Relay } from "../support/relay.mjs";
import { Requests } from "../support/requests.mjs";

const probe = new URL("../support/probe.mjs", import.meta.url).href;

/** Milliseconds between two looks at the relay, and how many quiet looks in a row end a case. */
const LOOK_EVERY = 50;
const QUIET_LOOKS = 4;

/** The share of time in which a quiet event loop may do something: the probe itself wakes it 1,000 times a second. */
const QUIET = 0.15;

/** Requests that prepare a case go over so many connections. */
const LANES = 16;

/** Most events in one request. */
const BATCH = 10_000;

export class Subject {
  /** What `act` opened, to be closed after the round. */
  open = [];
  answers = [];

  static async start(flags, { file, command, nodeArgs = [] }) {
    const subject = new Subject();
    subject.relay = await Relay.start(flags, undefined, ["--import", probe, ...nodeArgs], { file, command, ipc: true });
    subject.relay.child.on("message", (state) => subject.answers.shift()?.(state));
    subject.port = subject.relay.port;
    return subject;
  }

  async stop(signal) {
    this.closeAll();
    await this.relay.stop({ signal });
  }

  /** Asks the probe. */
  ask(ask, milliseconds) {
    this.relay.child.send({ ask, milliseconds });
    return new Promise((resolve) => this.answers.push(resolve));
  }

  /**
   * Acts, and waits until the event loop is quiet again.
   * @param cut milliseconds after which it waits no more
   * @returns the longest turn and the CPU time in milliseconds, and whether it was cut off
   */
  async measure(act, cut) {
    await this.watch(() => true, cut);
    await this.ask("reset");
    let acted = false;
    let fault;
    act().then(
      () => (acted = true),
      (error) => (fault = error),
    );
    return this.watch(() => {
      if (fault) throw fault;
      return acted;
    }, cut);
  }

  async watch(isOver, cut) {
    const end = performance.now() + cut;
    let heard = performance.now();
    let before;
    let known = { longest: 0, cpu: 0 };
    for (let quiet = 0; quiet < QUIET_LOOKS;) {
      const state = await Promise.race([
        this.ask("read"),
        sleep(Math.max(0, end - performance.now()), undefined, { ref: false }),
      ]);
      const now = performance.now();
      // The turn that is under way is at least as long as it has kept the probe from answering.
      if (!state || now >= end) {
        return { ...known, longest: Math.max(state?.longest ?? known.longest, now - heard), cutOff: true };
      }
      const isQuiet = before && (state.active - before.active) / (state.now - before.now) < QUIET;
      quiet = isOver() && isQuiet ? quiet + 1 : 0;
      [heard, before, known] = [now, state, state];
      await sleep(LOOK_EVERY);
    }
    return { ...known, cutOff: false };
  }

  /** Sends one request and resolves with the body of the answer. */
  async request(method, path, body = "", { status = "200", type, headers } = {}) {
    const requests = await Requests.open(this.port);
    const text = typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
    try {
      const answer = await requests.send(Requests.make(path, text, type, { method, headers }), status);
      return answer.slice(answer.indexOf("\r\n\r\n") + 4);
    } finally {
      requests.close();
    }
  }

  publish(body, options) {
    return this.request("POST", "/publish", body, options);
  }

  /** Registers a client. @returns its id */
  async register(fields) {
    return JSON.parse(await this.request("POST", "/register", { ttl: 3600, ...fields })).id;
  }

  /** Registers many clients. @param fieldsOf the fields of each, by its number @returns their ids */
  async registerMany(count, fieldsOf) {
    const ids = Array.from({ length: count });
    let next = 0;
    const work = async () => {
      const requests = await Requests.open(this.port);
      for (let index = next++; index < count; index = next++) {
        const body = JSON.stringify({ user_id: Math.floor(index / 1000), ttl: 3600, ...fieldsOf(index) });
        const answer = await requests.send(Requests.make("/register", body));
        ids[index] = JSON.parse(answer.slice(answer.indexOf("\r\n\r\n") + 4)).id;
      }
      requests.close();
    };
    await Promise.all(Array.from({ length: LANES }, work));
    return ids;
  }

  /** Publishes many events. @param itemOf each of them, by its number */
  async publishMany(count, itemOf) {
    const requests = await Requests.open(this.port);
    for (let first = 0; first < count; first += BATCH) {
      const lines = linesOf(Math.min(BATCH, count - first), (index) => itemOf(first + index));
      await requests.send(Requests.make("/publish", lines, "application/x-ndjson"));
    }
    requests.close();
  }

  /** Connects a client; the connection ends with the round. */
  async connect(id, query = "", options = {}) {
    const frames = await Frames.open(this.port, `/ws/${id}${query}`, options);
    this.open.push(frames);
    return frames;
  }

  /** Connects many clients at once. */
  connectMany(ids, query, options) {
    return Promise.all(ids.map((id) => this.connect(id, query, options)));
  }

  /** Connects a client by a stream, and reads it to nowhere; resolves with its first bytes. */
  async stream(id, query = "") {
    const socket = net.connect(this.port, "127.0.0.1");
    this.open.push({ close: () => socket.destroy() });
    socket.write(`GET /stream/${id}${query} HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    await new Promise((resolve, reject) => {
      socket.once("error", reject);
      socket.on("data", (bytes) => {
        if (bytes.toString("latin1", 0, 12) === "HTTP/1.1 200") resolve();
        else reject(new Error(bytes.toString()));
      });
    });
  }

  closeAll() {
    for (const connection of this.open.splice(0)) connection.close();
  }
}

/** So many items as NDJSON. */
export function linesOf(count, itemOf) {
  return arrayOf(count, (index) => `${JSON.stringify(itemOf(index))}\n`).join("");
}

export function arrayOf(count, itemOf) {
  return Array.from({ length: count }, (_, index) => itemOf(index));
}

/** The longest topic that has this number. */
export function longTopic(number) {
  return `t${number}.`.padEnd(255, "x");
}
