import { cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { temporaryDirectory } from "../support/directory.js";
import { Audit } from "./audit.js";

const project = new URL("../../", import.meta.url).pathname;

/** How the engine waits for the disk before it answers, in JavaScript; and the same without waiting. */
const WAITS = "await (pending.isEmpty ? (this.waiting.at(-2) ?? underWay)?.saved : pending.saved);";
const DOES_NOT = "void pending; void underWay;";

/** Kills within which the audit has to notice. */
const MOST_KILLS = 60;

test(
  "the audit catches a relay that answers before its disk has what was published",
  { timeout: 180_000 },
  async () => {
    const directory = temporaryDirectory();
    const audit = new Audit({
      seed: process.env["AUDIT_SEED"] ?? "mutant",
      cli: mutant(join(directory, "mutant")),
      directory: join(directory, "data"),
      seconds: 150,
      mutant: { mostKills: MOST_KILLS },
    });
    const { faults, figures, told } = await audit.run();
    process.stdout.write(`the mutant is caught after ${figures.kills} kills and ${figures.acknowledged} events\n`);
    expect(faults.lost, told.join("\n")).toBeGreaterThan(0);
  },
);

/** A copy of the built relay that does not wait for the disk. @returns the path of its command */
function mutant(copy: string): string {
  cpSync(join(project, "dist"), join(copy, "dist"), { recursive: true });
  cpSync(join(project, "package.json"), join(copy, "package.json"));
  symlinkSync(join(project, "node_modules"), join(copy, "node_modules"));
  const path = join(copy, "dist/engines/lmdb/commits.js");
  const source = readFileSync(path, "utf8");
  if (source.split(WAITS).length !== 2) throw new Error(`${path} does not have: ${WAITS}`);
  writeFileSync(path, source.replace(WAITS, DOES_NOT));
  return join(copy, "dist/cli.js");
}
