import { execFileSync } from "node:child_process";

/**
 * A program that tests need from the system, installed if this may be done (root on Debian).
 * @param from the package that has it
 * @returns its path; undefined, loudly, when it is not to be had: then its tests are skipped
 * @throws in CI, where nothing may be skipped
 */
export function systemProgram(name: string, from = name): string | undefined {
  const found = find(name);
  if (found !== undefined) return found;
  if (process.getuid?.() === 0 && find("apt-get") !== undefined) {
    const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
    for (const args of [["update"], ["install", "-y", "--no-install-recommends", from]]) {
      try {
        execFileSync("apt-get", args, { stdio: "ignore", env });
      } catch {
        break;
      }
    }
  }
  const installed = find(name);
  if (installed !== undefined) return installed;
  skipped(name);
  return undefined;
}

/** Says which tests are skipped. @throws in CI, where nothing may be skipped */
export function skipped(name: string, cause?: unknown): void {
  const message = `SKIPPED: the tests that need ${name}, which is not installed and could not be`;
  if (process.env["CI"] === "true") throw new Error(message, { cause });
  process.stderr.write(`\n${message}\n\n`);
}

function find(name: string): string | undefined {
  try {
    // Debian has nginx and haproxy where only root looks for programs.
    const script = `PATH="$PATH:/usr/sbin"; command -v "$1"`;
    return execFileSync("sh", ["-c", script, "sh", name], { encoding: "utf8" }).trim() || undefined;
  } catch {
    return undefined;
  }
}
