import { spawn } from "node:child_process";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { json } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { expect, onTestFinished, test } from "vitest";
import { temporaryDirectory } from "../support/directory.js";
import { signalGroup } from "../support/process.js";

const checkout = fileURLToPath(new URL("../..", import.meta.url));
const fixtures = join(checkout, "test", "fixtures");

/** What outside clients were given by the relay that wrote a data directory: see `observe` in the program below. */
interface Seen {
  readonly registered: object;
  readonly receipts: object;
  readonly repeated: object;
  readonly owed: object;
  readonly all: object;
  readonly replaced: object;
}

/** What they are given by the relay as it is now. */
async function observe(directory: string, questions: object): Promise<Seen> {
  const program = join(fixtures, "read-data-directory.mjs");
  const child = spawn(process.execPath, [program, checkout, directory], {
    stdio: ["pipe", "pipe", "inherit"],
    detached: true,
  });
  onTestFinished(() => signalGroup(child, "SIGKILL"));
  child.stdin.end(JSON.stringify(questions));
  return (await json(child.stdout)) as Seen;
}

function unzip(...path: string[]): Buffer {
  return gunzipSync(readFileSync(join(fixtures, ...path)));
}

test.each([
  ["data-directory-1", "ended"],
  ["data-directory-1", "killed"],
  ["data-directory-2", "ended"],
  ["data-directory-2", "killed"],
  ["data-directory-3", "ended"],
  ["data-directory-3", "killed"],
])("%s, of a relay that was %s, is opened with nothing lost", async (fixture, name) => {
  const directory = temporaryDirectory();
  cpSync(join(fixtures, fixture, "VERSION"), join(directory, "VERSION"));
  writeFileSync(join(directory, "data.mdb"), unzip(fixture, `${name}.mdb.gz`));
  const all = JSON.parse(unzip(fixture, "seen.json.gz").toString()) as Record<string, { before: Seen }>;
  const { before, ...questions } = all[name] as { before: Seen };
  const now = await observe(directory, { ...questions, before });
  for (const part of ["registered", "receipts", "repeated", "owed", "all", "replaced"] as const) {
    expect(now[part], part).toMatchObject(before[part]);
  }
});
