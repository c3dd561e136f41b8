// A client that never reads, among ten that do and thousands that are idle: see README.md.
import { fork } from "node:child_process";
import { once } from "node:events";
import { parseArgs } from "node:util";
import { WebSocket } from "ws";

const { values } = parseArgs({
  options: {
    idle: { type: "string", default: "5000" },
    readers: { type: "string", default: "10" },
    megabytes: { type: "string", default: "200" },
    retention: { type: "string", default: "512" },
    size: { type: "string", default: "10000" },
    server: { type: "boolean", default: false },
  },
});

const MIB = 1024 * 1024;
if (values.server) await serve();
else await run();

async function serve() {
  const { default: Fastify } = await import("fastify");
  const { default: topicRelay } = await import("../dist/index.js");
  const app = Fastify();
  const retentionBytes = `${values.retention}MiB`;
  await app.register(topicRelay, { logLevel: "silent", engine: "memory", retentionBytes, pingInterval: "10m" });
  process.send({ address: await app.listen({ host: "127.0.0.1", port: 0 }) });
  process.on("message", () => {
    globalThis.gc?.();
    const { rss, heapUsed, external, arrayBuffers } = process.memoryUsage();
    process.send({ rss, used: heapUsed + external, arrayBuffers });
  });
}

async function post(url, body) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

/** A client that checks that every message is the next one. */
async function subscribe(address, topics) {
  const { url } = await post(`${address}/register`, { user_id: `u${Math.random()}`, topics });
  const socket = new WebSocket(url);
  const client = { socket, next: 0, waiting: undefined };
  socket.on("message", (data) => {
    const number = Number.parseInt(Buffer.from(data).toString("latin1", 0, 12), 10);
    if (number !== client.next) throw new Error(`got ${number}, expected ${client.next}`);
    client.next++;
    client.waiting?.();
  });
  socket.on("close", (code) => {
    if (!client.ended) throw new Error(`closed with ${code}`);
  });
  await once(socket, "open");
  return client;
}

async function until(client, count) {
  while (client.next < count) await new Promise((resolve) => (client.waiting = resolve));
}

async function run() {
  const args = ["--server", "--retention", values.retention];
  const server = fork(new URL(import.meta.url).pathname, args, { execArgv: ["--expose-gc"] });
  const [{ address }] = await once(server, "message");
  const memory = async () => {
    server.send("memory");
    const [answer] = await once(server, "message");
    return answer;
  };
  const show = (what, { rss, used, arrayBuffers }) =>
    console.log(
      `${what.padEnd(44)} rss ${(rss / MIB).toFixed(0)} MiB, heap and external ${(used / MIB).toFixed(0)} MiB, of it buffers ${(arrayBuffers / MIB).toFixed(1)} MiB`,
    );
  const idle = [];
  for (let made = 0; made < Number(values.idle); made += 100) {
    idle.push(...(await Promise.all(Array.from({ length: 100 }, () => subscribe(address, ["quiet"])))));
  }
  const readers = await Promise.all(Array.from({ length: Number(values.readers) }, () => subscribe(address, ["busy"])));
  const slow = await subscribe(address, ["busy"]);
  slow.socket.pause();
  const before = await memory();
  show(`${idle.length} idle, ${readers.length} readers, 1 that does not read`, before);

  const size = Number(values.size);
  const count = Math.ceil((Number(values.megabytes) * 1e6) / size);
  const PER_REQUEST = 20;
  const start = Date.now();
  let peak = 0;
  for (let first = 0; first < count; first += PER_REQUEST) {
    const items = Array.from({ length: Math.min(PER_REQUEST, count - first) }, (_, index) => ({
      topic: "busy",
      message: String(first + index).padEnd(size, " "),
    }));
    await post(`${address}/publish`, items);
    if ((first / PER_REQUEST) % 50 === 0) peak = Math.max(peak, (await memory()).used);
  }
  await Promise.all(readers.map((reader) => until(reader, count)));
  console.log(`${count} messages of ${size} bytes to ${readers.length} readers, in order, in ${Date.now() - start} ms`);
  const after = await memory();
  show("published; the slow one has not read", after);
  const log = count * (size + 256);
  const kept = Math.min(log, Number(values.retention) * MIB);
  console.log(
    `grown by ${((after.used - before.used) / MIB).toFixed(0)} MiB (at most ${((peak - before.used) / MIB).toFixed(0)} on the way); the log keeps about ${(kept / MIB).toFixed(0)} MiB of it`,
  );
  console.log(`the slow one had ${slow.next} of ${count}; now it reads`);
  slow.socket.resume();
  await until(slow, count);
  console.log(`the slow one has all ${count}, in order, ${Date.now() - start} ms after the start`);
  show("everything read", await memory());
  for (const client of [...idle, ...readers, slow]) {
    client.ended = true;
    client.socket.terminate();
  }
  server.kill();
}
