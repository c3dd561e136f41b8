import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { clock } from "./ledger.js";

/** What the relay answered, or undefined when the connection broke or the relay was loading. */
export interface Answer {
  readonly status: number;
  readonly body: unknown;
}

const TIMEOUT = 15_000;

/** Milliseconds for the relay to notice that it can write again. */
const RECOVERS_WITHIN = 4000;

/** A file size limit makes writes fail, as a full disk does; without a handler for its signal it would end the process. */
const IGNORING_LIMIT = ["bash", "-c", 'trap "" XFSZ; exec "$@"', "bash"];

/** The relay process that is audited: its data directory stays, it may be killed and started again. */
export class AuditedRelay {
  private child: ChildProcess | undefined;
  private port = 0;
  private stderr = "";
  private isEnding = false;
  private uptime = 0;
  private spawnedAt: number | undefined;
  /** Problems of the process itself. */
  readonly failures: string[] = [];
  /** When the disk became full; undefined: it is not. */
  fullSince: number | undefined;
  private troubledUntil = -Infinity;

  constructor(
    private readonly cli: string,
    private readonly directory: string,
    private readonly flags: readonly string[],
  ) {}

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  get isUp(): boolean {
    const { child } = this;
    return child !== undefined && child.exitCode === null && child.signalCode === null;
  }

  /** Milliseconds that the relay has been running, at most; downtime is not counted. */
  get ran(): number {
    return this.uptime + (this.spawnedAt === undefined ? 0 : clock() - this.spawnedAt);
  }

  /** It was ended from here, and did not end by itself. */
  get isEnded(): boolean {
    return this.spawnedAt === undefined;
  }

  async start(): Promise<void> {
    const args = [this.cli, "--listen", this.address, "--data-dir", this.directory, ...this.flags];
    const [program = "", ...rest] = [...IGNORING_LIMIT, process.execPath, ...args];
    const child = spawn(program, rest, { stdio: ["ignore", "pipe", "pipe"] });
    this.child = child;
    this.spawnedAt = clock();
    child.stderr.on("data", (chunk: Buffer) => (this.stderr = (this.stderr + chunk.toString()).slice(-4000)));
    const ended = once(child, "exit").then(([code, signal]) => {
      if (!this.isEnding) this.failures.push(`the relay ended by itself: ${code} ${signal} ${this.stderr}`);
      throw new Error(`the relay ended with ${code}: ${this.stderr}`);
    });
    ended.catch(() => undefined);
    let out = "";
    const onData = (chunk: Buffer): void => void (out += chunk.toString());
    child.stdout.on("data", onData);
    for (;;) {
      const port = /listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(out)?.[1];
      if (port !== undefined) {
        this.port = Number(port);
        return;
      }
      await Promise.race([once(child.stdout, "data"), ended]);
    }
  }

  async kill(): Promise<void> {
    await this.end("SIGKILL");
  }

  /** An orderly end. */
  async stop(): Promise<void> {
    const code = await this.end("SIGTERM");
    if (code !== 0) this.failures.push(`after SIGTERM the relay ended with ${code}: ${this.stderr}`);
  }

  /** From now on the relay can not write to its disk, or can again. @returns whether that can be had here */
  fill(isFull: boolean): boolean {
    const { child } = this;
    if (!child?.pid || !this.isUp) return false;
    try {
      const limit = isFull ? "4096" : "unlimited";
      execFileSync("prlimit", ["--pid", String(child.pid), `--fsize=${limit}:unlimited`], { stdio: "ignore" });
    } catch {
      return false;
    }
    if (isFull) this.fullSince = clock();
    else this.troubledUntil = clock() + RECOVERS_WITHIN;
    if (!isFull) this.fullSince = undefined;
    return true;
  }

  async request(
    method: string,
    path: string,
    body?: string,
    headers: Record<string, string> = {},
  ): Promise<Answer | undefined> {
    let status: number;
    let text: string;
    try {
      const init = { method, headers, signal: AbortSignal.timeout(TIMEOUT), ...(body !== undefined && { body }) };
      const response = await fetch(`http://${this.address}${path}`, init);
      status = response.status;
      text = await response.text();
    } catch (error) {
      if ((error as Error).name === "TimeoutError")
        this.failures.push(`${method} ${path}: no answer within ${TIMEOUT} ms`);
      return undefined;
    }
    if (status === 503 && text.includes("not ready: loading")) return undefined;
    const isTroubled = this.fullSince !== undefined || clock() < this.troubledUntil;
    if (status === 500 || (status === 503 && !isTroubled)) {
      this.failures.push(`${method} ${path} was answered ${status}: ${text}`);
    }
    const isLines = headers["content-type"] === "application/x-ndjson";
    const parts = isLines && status === 200 ? text.trimEnd().split("\n") : [text];
    const parsed = parts.map((part) => JSON.parse(part) as unknown);
    return { status, body: isLines && status === 200 ? parsed : parsed[0] };
  }

  private async end(signal: NodeJS.Signals): Promise<number | null> {
    const { child } = this;
    if (!child || this.isEnded) return null;
    let code = child.exitCode;
    if (this.isUp) {
      const ended = once(child, "exit");
      this.isEnding = true;
      child.kill(signal);
      [code] = (await ended) as [number | null];
      this.isEnding = false;
    }
    this.uptime = this.ran;
    this.spawnedAt = undefined;
    this.fullSince = undefined;
    return code;
  }
}
