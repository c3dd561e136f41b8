// Acknowledged publishes, side by side on the engines: see README.md.
import { parseArgs } from "node:util";
import { median, Relay } from "./support/relay.mjs";
import { Requests } from "./support/requests.mjs";

const { values } = parseArgs({
  options: { rounds: { type: "string", default: "3" }, seconds: { type: "string", default: "3" } },
});
const [rounds, seconds] = [Number(values.rounds), Number(values.seconds)];

/** Events in one request of NDJSON. */
const BATCH = 5000;

const message = "x".repeat(128);
const event = (index) => ({ topic: `orders.${index % 100}`, user_id: index % 1000, message });
const single = Requests.make("/publish", JSON.stringify(event(1)));
const ndjson = (of) =>
  Requests.make(
    "/publish",
    Array.from({ length: BATCH }, (_, index) => `${JSON.stringify(of(index))}\n`).join(""),
    "application/x-ndjson",
  );

const cases = [
  { name: "1 publisher", publishers: 1, request: single, events: 1 },
  { name: "64 publishers", publishers: 64, request: single, events: 1 },
  { name: "NDJSON, one topic", publishers: 2, request: ndjson(() => ({ topic: "cats", message })), events: BATCH },
  { name: "NDJSON, 100 topics, 1,000 users", publishers: 2, request: ndjson(event), events: BATCH },
];

/** Events a second that were acknowledged. */
async function measure(port, { publishers, request, events }) {
  const connections = await Promise.all(Array.from({ length: publishers }, () => Requests.open(port)));
  let count = 0;
  const run = async (until) => {
    count = 0;
    const start = performance.now();
    await Promise.all(
      connections.map(async (connection) => {
        while (performance.now() - start < until * 1000) {
          await connection.send(request);
          count += events;
        }
      }),
    );
    return (count * 1000) / (performance.now() - start);
  };
  await run(seconds / 3);
  const rate = await run(seconds);
  for (const connection of connections) connection.close();
  return rate;
}

const results = new Map();
for (let round = 0; round < rounds; round++) {
  for (const engine of ["memory", "lmdb"]) {
    for (const one of cases) {
      const relay = await Relay.start(["--engine", engine]);
      const rate = await measure(relay.port, one);
      await relay.stop();
      const name = `${one.name} ${engine}`;
      results.set(name, [...(results.get(name) ?? []), rate]);
    }
  }
}
for (const { name } of cases) {
  const [memory, lmdb] = ["memory", "lmdb"].map((engine) => results.get(`${name} ${engine}`));
  const ratios = memory.map((rate, round) => lmdb[round] / rate);
  const [a, b] = [memory, lmdb].map((rates) => Math.round(median(rates)).toLocaleString("en").padStart(9));
  console.log(`${name.padEnd(34)} memory ${a}/s   lmdb ${b}/s   ratio ${median(ratios).toFixed(2)}`);
}
