import { execFile } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { temporaryDirectory } from "../support/directory.js";
import { RelayProcess } from "../support/process.js";
import type { Registered } from "../support/relay.js";
import { openSocket } from "../support/socket.js";

const checkout = fileURLToPath(new URL("../..", import.meta.url));

/** `npm start` in this checkout, with a free port. */
function npmStart(dataDir = temporaryDirectory()): RelayProcess {
  const args = ["--listen", "127.0.0.1:0", "--data-dir", dataDir];
  return new RelayProcess(args, {}, ["npm", "--prefix", checkout, "start", "--"]);
}

/** The process of the relay itself, from its log. */
function relayPid({ stderr }: RelayProcess): number {
  return Number(/"pid":(\d+)/.exec(stderr)?.[1]);
}

async function register(address: string): Promise<Registered> {
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${address}/register`, { method: "POST", headers, body: '{"user_id":1}' });
  return (await response.json()) as Registered;
}

test("two npm starts from one checkout at once both come up", async () => {
  const relays = [npmStart(), npmStart()];
  const addresses = await Promise.all(relays.map((relay) => relay.address()));
  expect(new Set(addresses).size).toBe(2);
  for (const address of addresses) expect((await fetch(`${address}/health`)).status).toBe(200);
});

const stops: [string, NodeJS.Signals, (npm: RelayProcess) => unknown][] = [
  ["SIGTERM to npm", "SIGTERM", ({ child }) => child.kill("SIGTERM")],
  ["SIGINT to npm", "SIGINT", ({ child }) => child.kill("SIGINT")],
  ["Ctrl-C: SIGINT to npm and to the relay", "SIGINT", (npm) => npm.signalGroup("SIGINT")],
  ["SIGTERM to npm and to the relay", "SIGTERM", (npm) => npm.signalGroup("SIGTERM")],
];

test.each(stops)("%s ends the relay gracefully and leaves nothing running", async (_, signal, stop) => {
  const directory = temporaryDirectory();
  const npm = npmStart(directory);
  const address = await npm.address();
  const client = await register(address);
  const socket = await openSocket(client.url);
  const pid = relayPid(npm);
  expect(pid).not.toBe(npm.child.pid);
  process.kill(pid, 0);
  stop(npm);
  expect((await socket.closed).code).toBe(1012);
  const { code, stderr } = await npm.ended;
  expect(code).toBe(0);
  expect(stderr.split(`"signal":"${signal}","msg":"ending"`)).toHaveLength(2);
  expect(() => process.kill(pid, 0)).toThrow("ESRCH");
  await expect(fetch(`${address}/health`)).rejects.toThrow("fetch failed");
  // The next relay opens the directory, and knows the client.
  const next = await new RelayProcess(["--listen", "127.0.0.1:0", "--data-dir", directory]).address();
  expect((await fetch(`${next}/register/${client.id}`)).status).toBe(200);
});

/** What a checkout needs for npm, in a directory of its own, without `node_modules` and `dist`. */
function copyOfCheckout(): string {
  const copy = temporaryDirectory();
  for (const name of ["package.json", "package-lock.json", "tsconfig.json", "src"]) {
    cpSync(join(checkout, name), join(copy, name), { recursive: true });
  }
  return copy;
}

function runNpm(cwd: string, ...args: string[]): Promise<{ code: number; output: string }> {
  const env = { PATH: process.env["PATH"], HOME: process.env["HOME"] };
  return new Promise((resolve) => {
    const child = execFile("npm", args, { cwd, env }, (_error, stdout, stderr) => {
      resolve({ code: child.exitCode ?? -1, output: stdout + stderr });
    });
  });
}

test("npm ci --omit=dev installs without building; npm start then says what to run", { timeout: 60_000 }, async () => {
  const copy = copyOfCheckout();
  const installed = await runNpm(copy, "ci", "--omit=dev", "--prefer-offline", "--no-audit", "--no-fund");
  expect(installed.code, installed.output).toBe(0);
  expect(readdirSync(copy)).not.toContain("dist");
  const started = await runNpm(copy, "start");
  expect(started.code).toBe(1);
  expect(started.output).toContain("\ntopic-relay is not built: run npm ci, or npm run build\n");
  expect(started.output).not.toMatch(/ {4}at /);
  // A dist that was built elsewhere will do.
  cpSync(join(checkout, "dist"), join(copy, "dist"), { recursive: true });
  const helped = await runNpm(copy, "start", "--", "--help");
  expect(helped.output).toContain("--listen");
});

test("npm ci builds, and fails when the source does not compile", async () => {
  const copy = copyOfCheckout();
  symlinkSync(join(checkout, "node_modules"), join(copy, "node_modules"));
  // One small module compiles faster than all of them.
  const source = join(copy, "src");
  rmSync(source, { recursive: true });
  mkdirSync(source);
  writeFileSync(join(source, "right.ts"), 'export const right: string = "text";\n');
  expect((await runNpm(copy, "run", "prepare")).code).toBe(0);
  expect(readdirSync(join(copy, "dist"))).toContain("right.js");
  writeFileSync(join(source, "wrong.ts"), 'export const wrong: number = "text";\n');
  const { code, output } = await runNpm(copy, "run", "prepare");
  expect(code).not.toBe(0);
  expect(output).toContain("src/wrong.ts(1,14)");
});
