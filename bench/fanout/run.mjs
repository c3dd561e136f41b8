// Fan-out, side by side in one run: see ../README.md.
import { fork } from "node:child_process";
import { once } from "node:events";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    subscribers: { type: "string", default: "1000" },
    processes: { type: "string", default: "1" },
    messages: { type: "string", default: "1500" },
    rounds: { type: "string", default: "3" },
    seconds: { type: "string", default: "6" },
    only: { type: "string", default: "loop,socketio,relay" },
  },
});
const [subscribers, processes, messages, rounds, seconds] = [
  "subscribers",
  "processes",
  "messages",
  "rounds",
  "seconds",
].map((name) => Number(values[name]));
/** Publications in one request while saturating, one request after the other: requests could overtake each other. */
const BATCH = 50;
/** Publications a second while CPU and latency are measured. */
const RATE = 50;

const kinds = values.only.split(",");
const here = new URL(".", import.meta.url).pathname;

function message(number) {
  const head = `${String(number).padStart(10, "0")} ${String(process.hrtime.bigint() / 1000n).padStart(16, "0")} `;
  return head.padEnd(128, "x");
}

async function ask(child, what) {
  child.send(what);
  const [answer] = await once(child, "message");
  return answer;
}

async function post(url, body) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(await response.text());
  await response.arrayBuffer();
}

async function until(children, expected, patience = 60_000) {
  const deadline = Date.now() + patience;
  for (;;) {
    const answers = await Promise.all(children.map((child) => ask(child, "total")));
    const total = answers.reduce((sum, answer) => sum + answer.total, 0);
    if (total >= expected) return;
    if (Date.now() > deadline) throw new Error(`${total} of ${expected} deliveries`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function measure(kind) {
  const server = fork(`${here}${kind}-server.mjs`);
  const children = [];
  try {
    const [{ address }] = await once(server, "message");
    for (let index = 0; index < processes; index++) {
      const child = fork(`${here}subscribers.mjs`, [address, kind, String(subscribers / processes)]);
      children.push(child);
      await once(child, "message");
    }
    return { ...(await saturate(kind, address, children)), ...(await steady(address, server, children)) };
  } finally {
    for (const child of children) child.kill("SIGKILL");
    server.kill("SIGKILL");
  }
}

/** As fast as it goes: deliveries a second. */
async function saturate(kind, address, children) {
  const batch = kind === "relay" ? `${address}/publish` : `${address}/batch`;
  const run = async (count) => {
    await Promise.all(children.map((child) => ask(child, "reset")));
    const start = process.hrtime.bigint();
    for (let first = 0; first < count; first += BATCH) {
      const size = Math.min(BATCH, count - first);
      const items = Array.from({ length: size }, (_, index) => ({ topic: "cats", message: message(first + index) }));
      await post(batch, items);
    }
    await until(children, count * subscribers);
    return Number(process.hrtime.bigint() - start) / 1e9;
  };
  await run(messages / 5);
  const elapsed = await run(messages);
  const answers = await Promise.all(children.map((child) => ask(child, "total")));
  const wrong = answers.reduce((sum, answer) => sum + answer.wrong, 0);
  return { perSecond: (messages * subscribers) / elapsed, wrong };
}

/** At a fixed rate: the server's CPU for one delivery, and how late messages are. */
async function steady(address, server, children) {
  await Promise.all(children.map((child) => ask(child, "reset")));
  const before = (await ask(server, "cpu")).cpu;
  const count = RATE * seconds;
  const start = performance.now();
  for (let number = 0; number < count; number++) {
    const due = start + (number * 1000) / RATE;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    await post(`${address}/publish`, { topic: "cats", message: message(number) });
  }
  await until(children, count * subscribers);
  const after = (await ask(server, "cpu")).cpu;
  const answers = await Promise.all(children.map((child) => ask(child, "latencies")));
  const latencies = answers.flatMap((answer) => answer.latencies).sort((a, b) => a - b);
  const cpu = after.user + after.system - before.user - before.system;
  return {
    cpuPerDelivery: cpu / (count * subscribers),
    p50: latencies[Math.floor(latencies.length * 0.5)] / 1000,
    p99: latencies[Math.floor(latencies.length * 0.99)] / 1000,
  };
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

const results = Object.fromEntries(kinds.map((kind) => [kind, []]));
for (let round = 1; round <= rounds; round++) {
  for (const kind of kinds) {
    const result = await measure(kind);
    results[kind].push(result);
    console.log(`round ${round} ${kind.padEnd(9)}`, JSON.stringify(result));
  }
}
console.log(`\n${subscribers} subscribers in ${processes} process(es), 128-byte messages; medians of ${rounds} rounds`);
console.log("server     deliveries/s   CPU µs/delivery at 50/s   latency p50 / p99 ms   out of order");
for (const kind of kinds) {
  const of = (field) => median(results[kind].map((result) => result[field]));
  const wrong = results[kind].reduce((sum, result) => sum + result.wrong, 0);
  console.log(
    `${kind.padEnd(10)} ${Math.round(of("perSecond")).toLocaleString("en").padStart(12)}   ${of("cpuPerDelivery").toFixed(2).padStart(23)}   ` +
      `${of("p50").toFixed(1).padStart(10)} / ${of("p99").toFixed(1)}`.padEnd(25) +
      `${wrong}`,
  );
}
if (results.relay && results.loop) {
  const ratio = (field) => median(results.relay.map((result, round) => result[field] / results.loop[round][field]));
  console.log(
    `relay : loop   deliveries/s ${ratio("perSecond").toFixed(1)}, CPU per delivery ${ratio("cpuPerDelivery").toFixed(2)} (medians of the rounds' ratios)`,
  );
}
