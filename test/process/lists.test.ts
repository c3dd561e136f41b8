import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { UNOBSERVED } from "../../src/core/loading.js";
import { openDirectory } from "../../src/engines/lmdb/directory.js";
import { openTables } from "../../src/engines/lmdb/tables.js";
import { temporaryDirectory } from "../support/directory.js";
import { checkLists } from "../support/lists.js";

const checkout = fileURLToPath(new URL("../..", import.meta.url));
const program = join(checkout, "test", "fixtures", "change-lists.mjs");

const KILLS = 20;

/** What a client may be found as: all that it was since what is known to be on disk, oldest first. */
class Versions {
  /** By client: digests, and the numbers of the changes. What was there at the start has 0. */
  private readonly clients = new Map<string, { readonly digest: string; readonly change: number }[]>();
  changes = 0;
  saved = 0;

  add(client: string, digest: string, change = ++this.changes): void {
    // A client that is new may be found not to be there.
    const versions = this.clients.get(client) ?? [{ digest: "-", change: 0 }];
    this.clients.set(client, [...versions, { digest, change }]);
  }

  save(changes: number): void {
    this.saved = changes;
    for (const [client, versions] of this.clients) {
      const last = versions.findLastIndex(({ change }) => change <= changes);
      this.clients.set(client, versions.slice(last));
    }
  }

  /** @throws when a client is not as it may be, by what was found */
  check(found: ReadonlyMap<string, string>, about: string): void {
    for (const id of found.keys()) expect(this.clients.has(id), `${about}: ${id} was there`).toBe(true);
    for (const [id, versions] of this.clients) {
      const digests = versions.map(({ digest }) => digest);
      expect(digests, `${about}: what became of ${id}`).toContain(found.get(id) ?? "-");
    }
  }
}

/** Lets the program run until it has saved something, and some time more. */
async function run(directory: string, seed: number, kill: (child: ChildProcess) => Promise<void>) {
  const child = spawn(process.execPath, [program, checkout, directory, String(seed)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  const found = new Map<string, string>();
  const versions = new Versions();
  let killed: Promise<void> | undefined;
  for await (const line of createInterface({ input: child.stdout })) {
    const [what, first = "", digest = ""] = line.split(" ");
    // Of the last line there may be only a part.
    if (what === "found") found.set(first, digest);
    else if (what === "changed" && digest.length % 64 < 2) versions.add(first, digest);
    else if (what === "saved" && Number(first) <= versions.changes) versions.save(Number(first));
    else if (what === "begin") for (const [id, now] of found) versions.add(id, now, 0);
    if (what === "begin") versions.save(0);
    if (what === "saved") killed ??= kill(child);
  }
  await killed;
  return { found, versions };
}

test("a relay that is killed while clients change long lists finds each client as it was, every time", async () => {
  const directory = temporaryDirectory();
  const seed = Date.now() % 2 ** 31;
  let before: Versions | undefined;
  let [changes, saved] = [0, 0];
  for (let count = 0; count < KILLS; count++) {
    const about = `seed ${seed}, start ${count}`;
    const { found, versions } = await run(directory, seed + count, async (child) => {
      await pause(Math.random() * 150);
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    });
    before?.check(found, about);
    before = versions;
    changes += versions.changes;
    saved += versions.saved;
    const root = await openDirectory(directory, UNOBSERVED);
    try {
      checkLists(openTables(root));
    } finally {
      await root.close();
    }
  }
  console.log(`${KILLS} kills, ${changes} changes, of which ${saved} were known to be on disk; seed ${seed}`);
  expect(saved).toBeGreaterThan(KILLS * 10);
}, 120_000);
