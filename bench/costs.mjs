// The most that each kind of attacker takes from a relay: see README.md.
import { resolve } from "node:path";
import { setImmediate } from "node:timers/promises";
import { parseArgs } from "node:util";
import { scenarios as ofClients } from "./costs/client.mjs";
import { scenarios as ofPublishers } from "./costs/publisher.mjs";
import { scenarios as ofRegistrars } from "./costs/registrar.mjs";
import { run } from "./costs/scenario.mjs";
import { scenarios as ofStrangers } from "./costs/stranger.mjs";
import { print } from "./costs/table.mjs";
import { pin } from "./support/pin.mjs";

const { values } = parseArgs({
  options: {
    dist: { type: "string" },
    only: { type: "string", multiple: true, default: [""] },
    seconds: { type: "string", default: "5" },
    json: { type: "boolean", default: false },
  },
});

/** Keeps the core of the load busy, so that the innocent competes with it as in an attack. */
async function busyLoad(attack) {
  while (!attack.isOver) {
    for (const end = performance.now() + 10; performance.now() < end;);
    await setImmediate();
  }
}

/** Attackers by what they have, and what they can do. The first rows are what the measuring itself costs. */
const attackers = {
  nobody: {
    "no attack": { attack: (attack) => attack.ended },
    "no attack, and the load is busy with itself": { attack: busyLoad },
  },
  "a stranger": ofStrangers,
  "a client's URL": ofClients,
  "a publish key": ofPublishers,
  "a register key": ofRegistrars,
};

const options = {
  file: values.dist && resolve(values.dist),
  command: pin(1) ? ["taskset", "-c", "0"] : [],
  seconds: Number(values.seconds),
};

const all = Object.entries(attackers).flatMap(([attacker, scenarios]) =>
  Object.entries(scenarios).map(([name, scenario]) => ({ attacker, name, ...scenario })),
);
const rows = [];
for (const scenario of all) {
  const { attacker, name } = scenario;
  if (!values.only.some((part) => `${attacker}: ${name}`.includes(part))) continue;
  process.stderr.write(`${attacker}: ${name}\n`);
  try {
    rows.push({ attacker, name, ...(await run(scenario, options)) });
  } catch (error) {
    rows.push({ attacker, name, fault: error.message.split("\n").at(-1).slice(0, 200) });
  }
}
if (values.json) console.log(JSON.stringify(rows, undefined, 2));
else print(rows);
