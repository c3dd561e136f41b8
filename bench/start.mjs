// How long a relay takes to start on a directory with many clients, or with a large log: see README.md.
import { cpSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { median, Relay } from "./support/relay.mjs";
import { Requests } from "./support/requests.mjs";

const { values } = parseArgs({
  options: {
    clients: { type: "string", default: "200000,400000,1000000" },
    log: { type: "string", default: "1024" },
    rounds: { type: "string", default: "3" },
    dist: { type: "string", multiple: true, default: [new URL("../dist/cli.js", import.meta.url).pathname] },
  },
});

const builds = values.dist.map((file) => resolve(file));
const rounds = Number(values.rounds);
const FLAGS = ["--retention-count", "100000000", "--retention-bytes", "64GiB", "--publish-rate", "100000000"];
const CONNECTIONS = 64;
const BATCH = 5000;

/** Keeps several connections busy with requests, each made when it is its turn. */
async function sendAll(port, count, make) {
  let next = 0;
  const work = async () => {
    const requests = await Requests.open(port);
    while (next < count) await requests.send(make(next++));
    requests.close();
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, work));
}

function registration(index) {
  return Requests.make(
    "/register",
    JSON.stringify({ user_id: index, topics: [`orders.${index}`, "news"], ttl: 604_800 }),
  );
}

function publications(index) {
  const lines = Array.from({ length: BATCH }, (_, item) => {
    const event = { topic: `topic.${(index * 7919 + item) % 10_000}`, message: "x".repeat(128) };
    return `${JSON.stringify(item % 10 ? { ...event, user_id: item } : event)}\n`;
  });
  return Requests.make("/publish", lines.join(""), "application/x-ndjson");
}

/** A directory that a relay of this build has written. */
async function write(file, fill) {
  const relay = await Relay.start(FLAGS, undefined, [], { file });
  await fill(relay);
  await relay.stop({ keep: true });
  return relay.directory;
}

async function withClients(file, count) {
  return write(file, (relay) => sendAll(relay.port, count, registration));
}

async function withLog(file, mebibytes) {
  return write(file, async (relay) => {
    const requests = await Requests.open(relay.port);
    const bytes = () => statSync(join(relay.directory, "data", "data.mdb")).size;
    for (let index = 0; bytes() < mebibytes * 2 ** 20; index++) await requests.send(publications(index));
    requests.close();
  });
}

/** Milliseconds until the relay can be used, and its memory then. Builds without `/ready` can be when they listen. */
async function start(file, directory) {
  const began = performance.now();
  const relay = await Relay.start(FLAGS, directory, [], { file });
  for (;;) {
    const { status } = await fetch(`${relay.url}/ready`);
    if (status !== 503) break;
    await new Promise((later) => setTimeout(later, 10));
  }
  const time = performance.now() - began;
  const { memory } = relay;
  await relay.stop({ keep: true });
  return { time, memory };
}

async function measure(name, fill) {
  // Each build on a directory of its own: what a later one has opened is not for an earlier one.
  const directories = [];
  for (const file of builds) directories.push(await fill(file));
  const results = builds.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (const [index, file] of builds.entries()) {
      const copy = mkdtempSync(join(tmpdir(), "topic-relay-bench-"));
      cpSync(directories[index], copy, { recursive: true });
      try {
        results[index].push(await start(file, copy));
      } catch (error) {
        console.log(`${name}: ${file}: ${error.message}`);
      } finally {
        rmSync(copy, { recursive: true });
      }
    }
  }
  for (const [index, file] of builds.entries()) {
    rmSync(directories[index], { recursive: true });
    const found = results[index];
    if (found.length === 0) continue;
    const time = median(found.map((result) => result.time)) / 1000;
    const memory = median(found.map((result) => result.memory));
    console.log(`${name}: ready after ${time.toFixed(1)} s, ${memory} MiB  (${file})`);
  }
}

await measure("nothing", async (file) => withClients(file, 0));
if (values.log !== "0") await measure(`a log of ${values.log} MiB`, (file) => withLog(file, Number(values.log)));
for (const count of values.clients.split(",").filter((text) => text !== "0")) {
  await measure(`${Number(count).toLocaleString("en")} clients`, (file) => withClients(file, Number(count)));
}
