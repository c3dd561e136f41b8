// One attack on a relay of its own: what it takes, from the process and from an innocent user.
import { setTimeout as sleep } from "node:timers/promises";
import { Attack } from "../support/attack.mjs";
import { Gauges } from "../support/gauges.mjs";
import { Innocent } from "../support/innocent.mjs";
import { Requests } from "../support/requests.mjs";
import { Target } from "../support/target.mjs";

/** Milliseconds between two looks at the relay's process. */
const LOOK_EVERY = 100;

/** Bytes of memory with which an attack is stopped, for the machine's sake. */
const MOST_MEMORY = 3 * 2 ** 30;

/** After the attack: a relay that takes less than this share of a core is quiet. It gets so many seconds for that. */
const QUIET = 0.15;
const QUIET_WITHIN = 15;

/** Who has which key. `backend` is what prepares a scenario. */
const keys = {
  backend: "register+publish+admin",
  innocent: "publish",
  publisher: "publish",
  registrar: "register",
};

/** Headers with a key. */
export function withKey(name) {
  return { authorization: `Bearer secret-of-the-key-of-${name}` };
}

/** What the innocent publishes: it goes through the log, and nobody gets it. */
export const innocentEvent = JSON.stringify({ topic: "innocent", message: 1, user_id: "nobody" });

/**
 * @param scenario `attack`: given the attack and the target, and what `prepare` returned, it sends until it is through or
 *   the attack is over, and may return remarks; `flags` of the relay (default: with keys, on the engine lmdb);
 *   `seconds`; `fresh`: the innocent makes a connection for each GET /health; `secure`: it speaks TLS; `command`: what
 *   runs Node; `after`: looks at the relay once more, and may return remarks; `sum`: a remark on the result
 */
export async function run(scenario, { file, command, seconds }) {
  const target = await Target.start(scenario.flags?.() ?? withKeys(), {
    file,
    command: [...command, ...(scenario.command ?? [])],
    stderr: "pipe",
  });
  target.headers = withKey("backend");
  let logged = 0;
  target.relay.child.stderr.on("data", (chunk) => (logged += chunk.length));
  let innocent;
  try {
    const prepared = await scenario.prepare?.(target);
    innocent = await Innocent.start(target.port, lanesOf(scenario));
    logged = 0;
    const measured = await measure(scenario, { target, prepared, seconds: scenario.seconds ?? seconds, innocent });
    return { ...measured, logged };
  } finally {
    await innocent?.stop();
    if (target.relay.child.exitCode === null && target.relay.child.signalCode === null) await target.stop();
  }
}

/** Flags of a relay with keys. */
export function withKeys(...more) {
  const list = Object.entries(keys).map(([name, scopes]) => `${name}:secret-of-the-key-of-${name}:${scopes}`);
  return ["--engine", "lmdb", "--log-level", "info", "--api-keys", list.join(","), ...more];
}

function lanesOf({ fresh = false, secure = false }) {
  const health = Requests.make("/health", "", undefined, { method: "GET" });
  const publish = Requests.make("/publish", innocentEvent, undefined, { headers: withKey("innocent") });
  // Each publish is a commit on the disk: fewer of these, or they would be most of what is written.
  return { health: { bytes: health, every: 20, fresh, secure }, publish: { bytes: publish, every: 100, secure } };
}

async function measure(scenario, { target, prepared, seconds, innocent }) {
  const gauges = new Gauges(target.relay.child.pid);
  const attack = new Attack(target.port);
  const dies = () => attack.end("the relay died");
  target.relay.child.once("exit", dies);
  await untilQuiet(gauges);
  await innocent.read();
  gauges.reset();
  const began = performance.now();
  const looks = setInterval(() => {
    if (attack.isOver) return;
    if (gauges.look() > MOST_MEMORY) attack.end("stopped at 3 GiB of memory");
    if (performance.now() - began > seconds * 1000) attack.end();
  }, LOOK_EVERY);
  try {
    const remarks = [await scenario.attack(attack, target, prepared)];
    const took = (performance.now() - began) / 1000;
    attack.end();
    const { sent } = attack;
    if (scenario.after) remarks.push(await scenario.after(attack, target, prepared));
    attack.closeAll();
    target.closeAll();
    if (attack.why === "the relay died") throw new Error(attack.why);
    await untilQuiet(gauges);
    const { health, publish } = await innocent.read();
    const taken = gauges.taken;
    const answers = Object.fromEntries(attack.answers);
    const result = { seconds: took, ...taken, health, publish, sent, made: attack.made, answers };
    return {
      ...result,
      remarks: [...remarks, attack.why, scenario.sum?.(result)].filter((remark) => typeof remark === "string"),
    };
  } finally {
    clearInterval(looks);
    target.relay.child.off("exit", dies);
  }
}

/** Waits until the relay is through with what came. */
async function untilQuiet(gauges) {
  const end = performance.now() + QUIET_WITHIN * 1000;
  for (let before = gauges.cpu; performance.now() < end;) {
    await sleep(500);
    const now = gauges.cpu;
    if (now - before < 0.5 * QUIET) return;
    before = now;
  }
}
