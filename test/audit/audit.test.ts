import { expect, test } from "vitest";
import { temporaryDirectory } from "../support/directory.js";
import { Audit } from "./audit.js";

/** More of it: `npm run audit -- --minutes 10`. The same choices again: `AUDIT_SEED=… npm run audit`. */
const SEED = process.env["AUDIT_SEED"] ?? String(Date.now() % 1_000_000);
const SECONDS = Number(process.env["AUDIT_MINUTES"] ?? 0.15) * 60;

const cli = new URL("../../dist/cli.js", import.meta.url).pathname;

test(
  "random clients, publishers and faults: everything that the relay says is true",
  { timeout: SECONDS * 1000 + 90_000 },
  async () => {
    const audit = new Audit({ seed: SEED, seconds: SECONDS, cli, directory: temporaryDirectory() });
    const report = await audit.run();
    process.stdout.write(report.text);
    expect(report.figures.kills).toBeGreaterThan(0);
    expect(report.figures.states["confirmed"]).toBeGreaterThan(0);
    expect(report.count, `AUDIT_SEED=${SEED}`).toBe(0);
  },
);
