// The relay in a process of its own, as it is built, in an empty directory.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const cli = new URL("../../dist/cli.js", import.meta.url).pathname;

export class Relay {
  /**
   * @param args flags of `serve`
   * @param directory of an earlier relay, to go on with
   * @param nodeArgs of Node itself
   * @param options `file`: another build of the relay; `command`: what runs Node, such as taskset; `ipc`: whether
   *   the process has an IPC channel, for a probe in `nodeArgs`; `stderr`: where its log goes
   */
  static async start(
    args,
    directory,
    nodeArgs = [],
    { file = cli, command = [], ipc = false, stderr = "inherit" } = {},
  ) {
    const relay = new Relay();
    relay.directory = directory ?? mkdtempSync(join(tmpdir(), "topic-relay-bench-"));
    const flags = ["--listen", "127.0.0.1:0", "--log-level", "error", "--data-dir", join(relay.directory, "data")];
    const [program, ...rest] = [...command, process.execPath, ...nodeArgs, file, ...flags, ...args];
    relay.child = spawn(program, rest, { stdio: ["ignore", "pipe", stderr, ...(ipc ? ["ipc"] : [])] });
    const ended = once(relay.child, "exit").then(([code]) => {
      throw new Error(`the relay ended with ${code}`);
    });
    ended.catch(() => undefined);
    for (let out = ""; ;) {
      const [, port] = /listening on https?:\/\/127\.0\.0\.1:(\d+)/.exec(out) ?? [];
      relay.port = Number(port);
      if (port) return relay;
      const [chunk] = await Promise.race([once(relay.child.stdout, "data"), ended]);
      out += chunk;
    }
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Resident memory in MiB. */
  get memory() {
    const status = readFileSync(`/proc/${this.child.pid}/status`, "utf8");
    return Math.round(Number(/VmRSS:\s+(\d+)/.exec(status)[1]) / 1024);
  }

  /** Ends the process; its directory stays unless it is to go. */
  async stop({ keep = false, signal = "SIGTERM" } = {}) {
    const ended = once(this.child, "exit");
    this.child.kill(signal);
    await ended;
    if (!keep) rmSync(this.directory, { recursive: true });
  }
}

export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
