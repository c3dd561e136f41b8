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

/** The command as it is built. */
export const builtRelay: readonly string[] = [process.execPath, cli];

/** A relay in a process and an empty folder of its own. */
export class RelayProcess {
  readonly child: ChildProcess;
  stdout = "";
  stderr = "";
  readonly ended: Promise<Ended>;
  readonly cwd = mkdtempSync(join(tmpdir(), "topic-relay-"));

  /**
   * @param command what starts the relay; what it starts besides is ended with it
   * @param whenDone how to see to it that it ends; the default is with the test
   */
  constructor(
    args: string[],
    env: Record<string, string> = {},
    command: readonly string[] = builtRelay,
    whenDone: (end: () => Promise<void>) => void = onTestFinished,
  ) {
    const { cwd } = this;
    const inherited = { PATH: process.env["PATH"] ?? "" };
    const [program, ...rest] = [...command, ...args] as [string, ...string[]];
    const detached = command !== builtRelay;
    this.child = spawn(program, rest, { cwd, env: { ...inherited, ...env }, detached });
    this.child.stdout?.on("data", (chunk: Buffer) => (this.stdout += chunk.toString()));
    this.child.stderr?.on("data", (chunk: Buffer) => (this.stderr += chunk.toString()));
    this.ended = once(this.child, "close").then(([code, signal]) => ({
      code: code as number | null,
      signal: signal as string | null,
      stdout: this.stdout,
      stderr: this.stderr,
    }));
    whenDone(async () => {
      if (detached) this.signalGroup("SIGKILL");
      else this.child.kill("SIGKILL");
      await this.ended;
      rmSync(cwd, { recursive: true, force: true });
    });
  }

  /** Signals the command and all that it has started, as a terminal does. */
  signalGroup(signal: NodeJS.Signals): void {
    signalGroup(this.child, signal);
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

/** Signals a detached process and all that it has started, if any of them is left. */
export function signalGroup({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  try {
    if (pid !== undefined) process.kill(-pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
