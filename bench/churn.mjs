// Retention and clients come and go, much faster than in life: does memory stay as it is? See README.md.
import { statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { WebSocket } from "ws";
import { Relay } from "./support/relay.mjs";
import { Requests } from "./support/requests.mjs";

const { values } = parseArgs({
  options: { events: { type: "string", default: "2000000" }, engine: { type: "string", default: "lmdb" } },
});
const EVENTS = Number(values.events);
const BATCH = 1000;
/** Clients that read all the time, and clients that register with each batch and are forgotten after a second. */
const READERS = 20;
const PASSING = 10;

/** MiB: where there is much memory, Node lets garbage lie for long, and nothing would be seen. */
const HEAP = 384;

const relay = await Relay.start(
  ["--engine", values.engine, "--retention-count", "50000", "--retention-bytes", "32MiB", "--retention-age", "30s"],
  undefined,
  [`--max-old-space-size=${HEAP}`],
);
const requests = await Requests.open(relay.port);

async function register(body) {
  const answer = await requests.send(Requests.make("/register", JSON.stringify(body)));
  return JSON.parse(answer.slice(answer.indexOf("{")));
}

let received = 0;
const sockets = [];
for (let reader = 0; reader < READERS; reader++) {
  const { url } = await register({ user_id: reader, topics: ["slow.*", "everyone"] });
  const socket = new WebSocket(`ws://127.0.0.1:${relay.port}${new URL(url).pathname}`);
  socket.on("message", () => received++);
  socket.on("close", (code) => console.log(`a reader was closed with ${code}`));
  sockets.push(socket);
}

/** New topics and users all the time, keys that replace each other, time limits, many addressees. */
function event(index) {
  const message = { index, text: "x".repeat(index % 300) };
  if (index % 1000 === 0) return { topic: "everyone", message };
  if (index % 100 === 0) return { topic: `slow.${index % 7}`, user_ids: [index % READERS, "bob", index], message };
  if (index % 10 === 0) return { topic: "state", key: `key ${index % 5000}`, user_id: index % 50, message };
  if (index % 10 === 1) return { topic: `brief.${index}`, ttl: index % 3, message };
  return { topic: `topic.${index % 20_000}`, user_id: `user ${index % 30_000}`, message };
}

const start = performance.now();
const figures = [];
for (let index = BATCH; index <= EVENTS; index += BATCH) {
  const lines = Array.from({ length: BATCH }, (_, place) => `${JSON.stringify(event(index - BATCH + place))}\n`).join(
    "",
  );
  await requests.send(Requests.make("/publish", lines, "application/x-ndjson"));
  for (let client = 0; client < PASSING; client++) await register({ user_id: `passing ${index} ${client}`, ttl: 1 });
  if (index % (EVENTS / 20) !== 0) continue;
  const disk = values.engine === "lmdb" ? statSync(join(relay.directory, "data", "data.mdb")).size / 2 ** 20 : 0;
  figures.push({ memory: relay.memory, disk });
  const seconds = ((performance.now() - start) / 1000).toFixed(0);
  console.log(
    `${index.toLocaleString("en").padStart(9)} events, ${seconds.padStart(4)} s, received ${String(received).padStart(7)}: ` +
      `memory ${relay.memory} MiB, disk ${disk.toFixed(1)} MiB`,
  );
}
const half = figures.slice(figures.length / 2);
const least = Math.min(...half.map(({ memory }) => memory));
console.log(`memory in the second half: ${least} to ${Math.max(...half.map(({ memory }) => memory))} MiB`);
for (const socket of sockets) socket.removeAllListeners("close").terminate();
requests.close();
await relay.stop();
