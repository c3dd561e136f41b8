// A relay that a benchmark uses as a backend and its clients would.
import net from "node:net";
import { Frames } from "./frames.mjs";
import { Relay } from "./relay.mjs";
import { Requests } from "./requests.mjs";

/** Requests that prepare a case go over so many connections. */
const LANES = 16;

/** Most events in one request. */
const BATCH = 10_000;

export class Target {
  /** Connections of clients, to be closed by `closeAll`. */
  open = [];
  /** Headers of every request. */
  headers = {};

  /** @param options `nodeArgs`, and those of `Relay.start` */
  static async start(flags, { nodeArgs = [], ...options } = {}) {
    const target = new this();
    target.relay = await Relay.start(flags, undefined, nodeArgs, options);
    target.port = target.relay.port;
    return target;
  }

  async stop(signal) {
    this.closeAll();
    await this.relay.stop({ signal });
  }

  /** A request as bytes. */
  make(path, body, type, { headers, ...options } = {}) {
    return Requests.make(path, body, type, { headers: { ...this.headers, ...headers }, ...options });
  }

  /** Sends one request and resolves with the body of the answer. */
  async request(method, path, body = "", { status = "200", type, headers } = {}) {
    const requests = await Requests.open(this.port);
    const text = typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
    try {
      const answer = await requests.send(this.make(path, text, type, { method, headers }), status);
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
        const answer = await requests.send(this.make("/register", body));
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
      await requests.send(this.make("/publish", lines, "application/x-ndjson"));
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
