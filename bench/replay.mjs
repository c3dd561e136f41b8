// Clients come back to a large log on disk: see README.md.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { readFrames } from "./support/frames.mjs";
import { median, Relay } from "./support/relay.mjs";
import { Requests } from "./support/requests.mjs";

const { values } = parseArgs({
  options: {
    events: { type: "string", default: "1000000" },
    fewer: { type: "string", default: "10000" },
    rounds: { type: "string", default: "3" },
  },
});

const CLIENTS = 1000;
/** Events to come for each client. */
const OWN = 20;
const TOPICS = 10_000;
const USERS = 10_000;
const BATCH = 5000;
/** Clients that come back one after the other, to see what one costs. */
const ONE_BY_ONE = 300;

const message = "x".repeat(128);
const FLAGS = ["--retention-count", "2000000", "--retention-bytes", "4GiB", "--client-ttl", "24h"];

/** A log with so many events that are not for the clients, and 20 for each of them, evenly among them. */
async function fill(foreign) {
  const relay = await Relay.start(FLAGS);
  const requests = await Requests.open(relay.port);
  const paths = [];
  for (let client = 0; client < CLIENTS; client++) {
    const body = JSON.stringify({ user_id: client, topics: [`topic.${client}`] });
    const answer = await requests.send(Requests.make("/register", body));
    paths.push(new URL(JSON.parse(answer.slice(answer.indexOf("{"))).url).pathname);
  }
  const own = CLIENTS * OWN;
  let lines = [];
  let done = 0;
  for (let index = 0; index < foreign + own; index++) {
    // On its topic for others, for its user on other topics, and for everyone on other topics: none of it is the client's.
    const user = Math.floor(Math.random() * USERS);
    const topic = Math.floor(Math.random() * TOPICS);
    const other = topic === user ? topic + 1 : topic;
    let event = { topic: `topic.${other}`, user_id: user, message };
    if (index % 10 === 0)
      event = { topic: `topic.${CLIENTS + Math.floor(Math.random() * (TOPICS - CLIENTS))}`, message };
    if (Math.floor(((index + 1) * own) / (foreign + own)) > done) {
      const client = done++ % CLIENTS;
      event = { topic: `topic.${client}`, user_id: client, message };
    }
    lines.push(`${JSON.stringify(event)}\n`);
    if (lines.length < BATCH && index + 1 < foreign + own) continue;
    await requests.send(Requests.make("/publish", lines.join(""), "application/x-ndjson"));
    lines = [];
  }
  requests.close();
  await relay.stop({ keep: true });
  return { directory: relay.directory, paths };
}

/** CPU time that a process has used, in milliseconds. */
function cpuOf({ child }) {
  const fields = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** Restarts on the log, so that all of it is read from disk; and again for each round: nothing was confirmed. */
async function measure({ directory, paths }, rounds, what) {
  const results = [];
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    const relay = await Relay.start(FLAGS, directory);
    const ready = performance.now() - start;
    results.push({ ready, ...(await what(relay, paths)) });
    await relay.stop({ keep: true });
  }
  return results;
}

/** First by a process that has just started, and again when its code is warm: nothing was confirmed meanwhile. */
async function allAtOnce(relay, paths) {
  const once = async () => {
    const times = await Promise.all(paths.map((path) => readFrames(relay.port, path, OWN)));
    times.sort((a, b) => a - b);
    return { p50: times[CLIENTS / 2], p99: times[CLIENTS * 0.99] };
  };
  const cold = await once();
  // The ends of those connections are not what is measured.
  await new Promise((resolve) => setTimeout(resolve, 2000));
  const warm = await once();
  return { coldP50: cold.p50, coldP99: cold.p99, warmP50: warm.p50, warmP99: warm.p99 };
}

async function oneByOne(relay, paths) {
  const times = [];
  // The first ones find a cold process.
  for (const path of paths.slice(0, ONE_BY_ONE)) await readFrames(relay.port, path, OWN);
  const cpu = cpuOf(relay);
  for (const path of paths.slice(ONE_BY_ONE, 3 * ONE_BY_ONE)) times.push(await readFrames(relay.port, path, OWN));
  return { time: median(times), cpu: (cpuOf(relay) - cpu) / times.length };
}

const rounds = Number(values.rounds);
const sizes = [Number(values.fewer), Number(values.events)];
const logs = [];
for (const size of sizes) logs.push(await fill(size));
const of = (results, name) => median(results.map((result) => result[name]));
const large = await measure(logs[1], rounds, allAtOnce);
const figures = (kind) => `p50 ${of(large, `${kind}P50`).toFixed(0)} ms, p99 ${of(large, `${kind}P99`).toFixed(0)} ms`;
console.log(`${CLIENTS} clients at once, ${OWN} events each, ${sizes[1].toLocaleString("en")} of others`);
console.log(
  `  warm: ${figures("warm")}; right after a start, which took ${of(large, "ready").toFixed(0)} ms: ${figures("cold")}`,
);
// By turns, as the machine may be faster at one time than at another.
const costs = [[], []];
for (let round = 0; round < rounds; round++) {
  for (const index of [0, 1]) costs[index].push(...(await measure(logs[index], 1, oneByOne)));
}
for (const index of [0, 1]) {
  const [time, cpu] = [of(costs[index], "time"), of(costs[index], "cpu")];
  console.log(
    `one replay, ${sizes[index].toLocaleString("en")} of others: ${time.toFixed(2)} ms, CPU ${cpu.toFixed(2)} ms`,
  );
}
const ratios = ["time", "cpu"].map((name) => median(costs[1].map((cost, round) => cost[name] / costs[0][round][name])));
console.log(`ratio: time ${ratios[0].toFixed(2)}, CPU ${ratios[1].toFixed(2)}`);
const { rmSync } = await import("node:fs");
for (const { directory } of logs) rmSync(directory, { recursive: true });
