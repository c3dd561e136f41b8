// The longest turn of a relay's event loop, for each thing that one can ask of it: see README.md.
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { median } from "./support/relay.mjs";
import { groups as crowds } from "./turns/crowds.mjs";
import { groups as http } from "./turns/http.mjs";
import { groups as log } from "./turns/log.mjs";
import { groups as publish } from "./turns/publish.mjs";
import { Subject } from "./turns/subject.mjs";
import { pin } from "./support/pin.mjs";

const { values } = parseArgs({
  options: {
    dist: { type: "string" },
    engine: { type: "string", default: "memory" },
    only: { type: "string", multiple: true, default: [""] },
    rounds: { type: "string", default: "3" },
    cut: { type: "string", default: "60" },
    profile: { type: "string" },
  },
});
const rounds = Number(values.rounds);
/** Milliseconds after which a case is cut off. */
const CUT = Number(values.cut) * 1000;

/** Milliseconds: of a case with a longer turn in its warm-up that one is what counts, as cold code is not why. */
const LONG = 2000;

const isWanted = (name) => values.only.some((part) => name.includes(part));

const pinned = pin(1);
const options = {
  file: values.dist && resolve(values.dist),
  command: pinned ? ["taskset", "-c", "0"] : [],
  nodeArgs: values.profile ? ["--cpu-prof", `--cpu-prof-dir=${values.profile}`] : [],
};

const start = ({ flags = [] }) => Subject.start(["--engine", values.engine, ...flags], options);

/** What the probe says of turns whose length is known. */
async function checkProbe() {
  const relay = await start({});
  const found = [];
  for (const milliseconds of [5, 20, 100]) {
    const { longest } = await relay.measure(() => relay.ask("block", milliseconds), CUT);
    found.push(`${milliseconds} as ${longest.toFixed(1)}`);
  }
  await relay.stop();
  return found.join(", ");
}

/** @returns the results of the rounds; when the warm-up was long enough or was cut off, of that alone */
async function measureCase(relay, prepare, { before, rounds: most = Infinity }) {
  const results = [];
  for (let round = 0; round <= Math.min(rounds, most); round++) {
    const act = await prepare(relay, round);
    await before?.(relay);
    const result = await relay.measure(act, CUT);
    relay.closeAll();
    results.push(result);
    if (result.cutOff || (round === 0 && (most === 1 || result.longest > LONG))) return [result];
  }
  return rounds === 0 ? results : results.slice(1);
}

function rowOf(name, results) {
  const longest = results.map((result) => result.longest);
  const cpu = median(results.map((result) => result.cpu));
  const note = results.some(({ cutOff }) => cutOff) ? ` (cut off after ${values.cut} s)` : "";
  const cells = [median(longest).toFixed(1), Math.max(...longest).toFixed(1), cpu.toFixed(0)];
  return `| ${name.padEnd(72)} | ${cells.map((cell) => cell.padStart(8)).join(" | ")} |${note}`;
}

async function measureGroup(group) {
  let relay;
  for (const [name, prepare] of Object.entries(group.cases).filter(([name]) => isWanted(name))) {
    try {
      relay ??= await start(group);
      if (!relay.isFilled) await group.fill?.(relay);
      relay.isFilled = true;
      const results = await measureCase(relay, prepare, group);
      console.log(rowOf(name, results));
      const isCutOff = results.some(({ cutOff }) => cutOff);
      if (group.fill && !isCutOff) continue;
      // A process that is killed writes no profile.
      await relay.stop(isCutOff && !values.profile ? "SIGKILL" : "SIGTERM");
    } catch (error) {
      console.log(`| ${name.padEnd(72)} | failed: ${error.message.split("\n").at(-1).slice(0, 200)}`);
      await relay?.stop("SIGKILL");
    }
    relay = undefined;
  }
  await relay?.stop();
}

console.log(
  `${values.engine}, ${pinned ? "pinned" : "not pinned"}; the probe sees blocks of ${await checkProbe()} ms\n`,
);
console.log(`| ${"case".padEnd(72)} |   median |    worst |   CPU ms |`);
console.log(`| ${"-".repeat(72)} | -------: | -------: | -------: |`);
for (const group of [...http, ...publish, ...log, ...crowds]) await measureGroup(group);
