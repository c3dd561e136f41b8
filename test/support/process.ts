import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

const cli = new URL("../../dist/cli.js", import.meta.url).pathname;

export interface Ended {
  code: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

/** The command as it is built, in a process and an empty folder of its own. */
export class RelayProcess {
  readonly child: ChildProcess;
  stdout = "";
  stderr = "";
  readonly ended: Promise<Ended>;
  readonly cwd = mkdtempSync(join(tmpdir(), "topic-relay-"));

  /**
   * @param through a command that runs the one that comes after it
   * @param whenDone how to see to it that it ends; the default is with the test
   */
  constructor(
    args: string[],
    env: Record<string, string> = {},
    through: string[] = [],
    whenDone: (end: () => Promise<void>) => void = onTestFinished,
  ) {
    const { cwd } = this;
    const inherited = { PATH: process.env["PATH"] ?? "" };
    const [command, ...rest] = [...through, process.execPath, cli, ...args] as [string, ...string[]];
    this.child = spawn(command, rest, { cwd, env: { ...inherited, ...env } });
    this.child.stdout?.on("data", (chunk: Buffer) => (this.stdout += chunk.toString()));
    this.child.stderr?.on("data", (chunk: Buffer) => (this.stderr += chunk.toString()));
    this.ended = once(this.child, "close").then(([code, signal]) => ({
      code: code as number | null,
      signal: signal as string | null,
      stdout: this.stdout,
      stderr: this.stderr,
    }));
    whenDone(async () => {
      this.child.kill("SIGKILL");
      await this.ended;
      rmSync(cwd, { recursive: true, force: true });
    });
  }

  /** The address of the start line. */
  async address(): Promise<string> {
    for (;;) {
      const match = /listening on (https?:\/\/\S+)/.exec(this.stdout);
      if (match?.[1] !== undefined) return match[1];
      if (this.child.exitCode !== null || this.child.signalCode !== null) throw new Error(this.stderr);
      if (this.child.stdout) await Promise.race([once(this.child.stdout, "data"), this.ended]);
    }
  }
}
