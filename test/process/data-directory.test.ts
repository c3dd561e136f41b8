import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { temporaryDirectory } from "../support/directory.js";
import { openSocket } from "../support/socket.js";
import { systemProgram } from "../support/system.js";
import { builtRelay, RelayProcess } from "../support/process.js";
import { until } from "../support/turns.js";

const LISTEN = ["--listen", "127.0.0.1:0"];

/** A relay to which too large a file is an error, as a full disk is, and not the end. */
function relayWithLimit(directory: string, limit = ":"): RelayProcess {
  const through = ["sh", "-c", `trap "" XFSZ; ${limit}; exec "$0" "$@"`, ...builtRelay];
  return new RelayProcess([...LISTEN, "--data-dir", directory], {}, through);
}

function relayOn(directory: string, ...more: string[]): RelayProcess {
  return new RelayProcess([...LISTEN, "--data-dir", directory, ...more]);
}

async function publish(
  address: string,
  message: string,
  headers: Record<string, string> = {},
): Promise<{ status: number; retryAfter: string | null; body: { code?: string; id?: string } }> {
  const response = await fetch(`${address}/publish`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ topic: "cats", message }),
  });
  const body = (await response.json()) as { code?: string; id?: string };
  return { status: response.status, retryAfter: response.headers.get("retry-after"), body };
}

/** A data directory that was in use. */
async function usedDirectory(): Promise<string> {
  const directory = temporaryDirectory();
  const relay = relayOn(directory);
  await publish(await relay.address(), "kept");
  relay.child.kill("SIGTERM");
  expect((await relay.ended).code).toBe(0);
  return directory;
}

test("it is ./relay-data where nothing else is said, only for its owner, and the start line says so", async () => {
  const relay = new RelayProcess(LISTEN);
  await relay.address();
  expect(relay.stdout).toContain("(engine: lmdb in ./relay-data)");
  const path = join(relay.cwd, "relay-data");
  expect(readdirSync(path).sort()).toEqual(["VERSION", "data.mdb", "lock.mdb"]);
  expect(statSync(path).mode & 0o077).toBe(0);
  expect(readFileSync(join(path, "VERSION"), "utf8")).toBe("topic-relay 4\n");
});

describe("the start ends with a clear message, and nothing is touched", () => {
  const refused = async (directory: string, message: RegExp): Promise<void> => {
    const { code, stdout, stderr } = await relayOn(directory).ended;
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/ {4}at /);
  };

  test("when another process uses it", async () => {
    const directory = temporaryDirectory();
    const first = relayOn(directory);
    const address = await first.address();
    const writing = setInterval(() => void publish(address, "busy"), 1);
    onTestFinished(() => clearInterval(writing));
    await refused(directory, new RegExp(`another process uses it: ${first.child.pid}`));
    clearInterval(writing);
    expect((await publish(address, "still here")).status).toBe(200);
    first.child.kill("SIGKILL");
    await first.ended;
    expect((await publish(await relayOn(directory).address(), "after it")).status).toBe(200);
  });

  test("when it is of a newer version", async () => {
    const directory = await usedDirectory();
    const before = readFileSync(join(directory, "data.mdb"));
    writeFileSync(join(directory, "VERSION"), "topic-relay 5\n");
    await refused(directory, /is of version 5, from a newer topic-relay: this one knows version 4/);
    expect(readFileSync(join(directory, "data.mdb")).equals(before)).toBe(true);
  });

  test.each(["", "postgres 9\n", "topic-relay 0\n"])("when its file VERSION says %j", async (version) => {
    const directory = await usedDirectory();
    writeFileSync(join(directory, "VERSION"), version);
    await refused(directory, /VERSION does not say|is of version 0, which this topic-relay does not know/);
  });

  test("when it has files of something else", async () => {
    const directory = temporaryDirectory();
    writeFileSync(join(directory, "thesis.txt"), "");
    await refused(directory, /it has other files, such as thesis\.txt/);
    expect(readdirSync(directory)).toEqual(["thesis.txt"]);
  });

  test("when it is a file, or below one", async () => {
    const file = join(temporaryDirectory(), "file");
    writeFileSync(file, "");
    await refused(file, /is not a directory/);
    await refused(join(file, "below"), /is not a directory/);
  });

  test("when nothing may be written there", async () => {
    // Not even by root.
    for (const path of ["/proc/relay-data", "/sys/relay-data"]) await refused(path, /it can not be (?:made|written)/);
  });

  test.each([
    ["is noise", (file: string) => writeFileSync(file, Buffer.alloc(100_000, 7))],
    ["is shorter than a page", (file: string) => truncateSync(file, 100)],
    ["is cut", (file: string) => truncateSync(file, statSync(file).size - 4096)],
    ["has noise at its start", (file: string) => overwrite(file, 0, Buffer.alloc(4096, 255))],
    [
      "has noise behind its start",
      (file: string) => overwrite(file, 8192, Buffer.alloc(statSync(file).size - 8192, 255)),
    ],
    ["is empty", (file: string) => writeFileSync(file, "")],
    ["is a text", (file: string) => writeFileSync(file, "hello\n")],
  ])("when its data %s", async (_, damage) => {
    const directory = await usedDirectory();
    const file = join(directory, "data.mdb");
    damage(file);
    const after = readFileSync(file);
    await refused(directory, /data\.mdb is damaged/);
    expect(readFileSync(file).equals(after)).toBe(true);
  });
});

function overwrite(file: string, at: number, bytes: Buffer): void {
  const content = readFileSync(file);
  bytes.copy(content, at);
  writeFileSync(file, content);
}

test("a start that was cut short before there was data is taken up", async () => {
  const directory = temporaryDirectory();
  writeFileSync(join(directory, "VERSION.new"), "topic");
  const first = relayOn(directory);
  await first.address();
  expect(readdirSync(directory).sort()).toEqual(["VERSION", "data.mdb", "lock.mdb"]);
  const other = temporaryDirectory();
  for (const name of ["VERSION.new", "data.mdb"]) writeFileSync(join(other, name), "");
  expect((await publish(await relayOn(other).address(), "works")).status).toBe(200);
});

test("after kill -9, what was answered under an idempotency key is a duplicate, and no other request has its key", async () => {
  const directory = temporaryDirectory();
  const relay = relayOn(directory);
  const address = await relay.address();
  const of = (key: number): Record<string, string> => ({ "idempotency-key": `key-${key}` });
  const answered = new Map<number, string | undefined>();
  const publishing = Array.from({ length: 20 }, async (_, publisher) => {
    for (let key = publisher; ; key += 20) answered.set(key, (await publish(address, `${key}`, of(key))).body.id);
  });
  await until(() => answered.size > 300);
  relay.child.kill("SIGKILL");
  await Promise.allSettled(publishing);
  const after = await relayOn(directory).address();
  for (const [key, id] of answered) {
    expect(await publish(after, `${key}`, of(key))).toMatchObject({ status: 200, body: { id, duplicate: true } });
  }
  expect((await publish(after, "other", of(7))).status).toBe(422);
  expect((await publish(after, "new", of(1_000_000))).body).not.toHaveProperty("duplicate");
});

const prlimit = systemProgram("prlimit");

test.skipIf(prlimit === undefined)(
  "a disk that is full is said, loses nothing, and is used again when there is room",
  async () => {
    const directory = temporaryDirectory();
    // No file larger than a megabyte: what is too much is refused by the system, as on a full disk.
    const relay = relayWithLimit(directory, "ulimit -S -f 2048");
    const address = await relay.address();
    const message = "x".repeat(20_000);
    const key = { "idempotency-key": "k" };
    expect((await publish(address, "once", key)).status).toBe(200);
    const headers = { "content-type": "application/json" };
    const registered = await fetch(`${address}/register`, { method: "POST", headers, body: '{"user_id":1}' });
    const client = (await registered.json()) as { url: string };
    const acknowledged: string[] = [];
    let answer = await publish(address, message);
    while (answer.status === 200) {
      acknowledged.push(answer.body.id ?? "");
      answer = await publish(address, message);
    }
    expect(answer).toMatchObject({ status: 503, retryAfter: "1", body: { code: "unavailable" } });
    expect((await publish(address, "small")).status).toBe(503);
    expect((await fetch(`${address}/health`)).status).toBe(200);
    expect(acknowledged.length).toBeGreaterThan(10);
    // What needs nothing written: who comes back, what was answered before, what is not kept.
    const frames = await openSocket(`${client.url}?format=json`);
    expect(await frames.json()).toMatchObject({ data: { event: "connected", gap: false } });
    expect(await frames.json()).toMatchObject({ type: "event", message });
    expect(await publish(address, "once", key)).toMatchObject({ status: 200, body: { duplicate: true } });
    const gone = await fetch(`${address}/register/${"0".repeat(32)}`, { method: "DELETE" });
    expect(await gone.json()).toEqual({ removed: false });

    execFileSync(prlimit ?? "", ["--pid", String(relay.child.pid), "--fsize=unlimited:unlimited"]);
    do answer = await publish(address, "again");
    while (answer.status === 503);
    expect(answer.status).toBe(200);
    acknowledged.push(answer.body.id ?? "");
    relay.child.kill("SIGKILL");
    await relay.ended;

    const after = await relayOn(directory).address();
    for (const id of acknowledged) expect((await fetch(`${after}/events/${id}`)).status).toBe(200);
  },
);

test.skipIf(prlimit === undefined)(
  "a relay that can not write is not ready and stays up, and is ready again by itself when it can",
  async () => {
    const relay = relayWithLimit(temporaryDirectory());
    const address = await relay.address();
    const limit = (bytes: string): void => {
      execFileSync(prlimit ?? "", ["--pid", String(relay.child.pid), `--fsize=${bytes}:unlimited`]);
    };
    const status = async (path: string, method = "GET"): Promise<number> => {
      return (await fetch(address + path, { method })).status;
    };
    const headers = { "content-type": "application/json" };
    const register = { method: "POST", headers, body: '{"user_id":1}' };
    await Promise.all(Array.from({ length: 500 }, async () => (await fetch(`${address}/register`, register)).json()));
    expect(await status("/ready")).toBe(200);
    limit("4096");
    await expect.poll(() => status("/ready"), { timeout: 5000 }).toBe(503);
    const problem = (await (await fetch(`${address}/ready`)).json()) as { detail: string };
    expect(problem.detail).toContain("not ready: engine: the relay can not write to its disk");
    expect(await status("/users/1", "DELETE")).toBe(503);
    expect(await status("/health")).toBe(200);
    limit("unlimited");
    // Nothing else asks it to write.
    await expect.poll(() => status("/ready"), { timeout: 5000 }).toBe(200);
    expect(await publish(address, "to all")).toMatchObject({ status: 200, body: { matched: 500 } });
  },
);
