// The audit for as long as you like: `npm run audit -- --minutes 10 --seed 7`
import { spawnSync } from "node:child_process";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: { minutes: { type: "string", default: "10" }, seed: { type: "string" } },
});
const { minutes, seed = process.env.AUDIT_SEED } = values;
const { status } = spawnSync("npx", ["vitest", "run", "test/audit/audit.test.ts"], {
  stdio: "inherit",
  env: { ...process.env, AUDIT_MINUTES: minutes, ...(seed !== undefined && { AUDIT_SEED: seed }) },
});
process.exitCode = status ?? 1;
