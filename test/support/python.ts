import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { skipped, systemProgram } from "./system.js";

const folder = new URL("../python/", import.meta.url).pathname;
const requirements = join(folder, "requirements.txt");
const cache = new URL("../../node_modules/.cache/", import.meta.url).pathname;

/** Real clients, written with Python's libraries. */
export interface Python {
  /** Starts `test/python/SCRIPT`; it is ended with the test. */
  run(script: string, ...args: string[]): ChildProcess;
}

/**
 * Python with the libraries of `test/python/requirements.txt`, which are installed once.
 * @returns undefined, loudly, when it is not to be had: then its tests are skipped
 * @throws in CI, where nothing may be skipped
 */
export function python(): Python | undefined {
  const program = systemProgram("python3");
  if (program === undefined || systemProgram("pip3", "python3-pip") === undefined) return undefined;
  const libraries = installed(program);
  if (libraries === undefined) return undefined;
  const env = { ...process.env, PYTHONPATH: libraries, PYTHONUNBUFFERED: "1" };
  return {
    run(script, ...args) {
      const child = spawn(program, [join(folder, script), ...args], { env, stdio: ["pipe", "pipe", "inherit"] });
      const ended = once(child, "close");
      onTestFinished(async () => {
        child.kill("SIGKILL");
        await ended;
      });
      return child;
    },
  };
}

/** @returns the folder with the libraries */
function installed(program: string): string | undefined {
  const version = execFileSync(program, ["-V"], { encoding: "utf8" });
  const name = createHash("sha256").update(readFileSync(requirements)).update(version).digest("hex").slice(0, 12);
  const libraries = join(cache, `python-${name}`);
  if (existsSync(libraries)) return libraries;
  mkdirSync(cache, { recursive: true });
  const fresh = mkdtempSync(join(cache, "python-"));
  try {
    const args = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", fresh];
    execFileSync(program, [...args, "--requirement", requirements], { stdio: ["ignore", "ignore", "pipe"] });
    renameSync(fresh, libraries);
  } catch (cause) {
    rmSync(fresh, { recursive: true, force: true });
    // Another test file may have installed them meanwhile.
    if (existsSync(libraries)) return libraries;
    skipped(`the Python libraries of ${requirements.slice(requirements.lastIndexOf("test/"))}`, cause);
    return undefined;
  }
  return libraries;
}
