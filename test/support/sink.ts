import type { Connection } from "../../src/core/connection.js";
import type { Disconnect } from "../../src/core/notice.js";
import type { Encoder } from "../../src/core/encoder.js";
import type { Sink } from "../../src/core/outbox.js";
import type { Relay } from "../../src/core/relay.js";
import type { OpenOptions } from "../../src/core/connections.js";
import { encodersFor } from "../../src/formats/index.js";
import { disconnected } from "../../src/protocol.js";

/** Lines of text in the place of frames, so that what was written can be read. */
export const lineEncoders = encodersFor({
  event: (format, event, userId) => Buffer.from(`${format.line(event, userId)}\n`),
  text: (text) => Buffer.from(`${text}\n`),
  ping: (payload) => Buffer.from(`ping ${payload}\n`),
});

/** The other end of a connection without a network: reads at once, or not at all while it is stalled. */
export class MemorySink implements Sink {
  taken = 0;
  closed: { code: number; reason: string } | undefined;
  stalled = false;
  open = true;
  /** What the other end has read. */
  readonly lines: string[] = [];
  private waiting: Buffer[] = [];
  private callbacks: (() => void)[] = [];

  get buffered(): number {
    return this.waiting.reduce((sum, bytes) => sum + bytes.length, 0);
  }

  write(bytes: Buffer): void {
    this.waiting.push(bytes);
    if (!this.stalled) this.read();
  }

  whenTaken(callback: () => void): void {
    this.callbacks.push(callback);
    if (!this.stalled) this.read();
  }

  close(disconnect: Disconnect): void {
    const { code, reason } = disconnected(disconnect);
    this.closed = { code, reason };
  }

  resume(): void {
    this.stalled = false;
    this.read();
  }

  get events(): { id: string; topic: string; message: unknown }[] {
    return this.frames.filter(({ type }) => type === "event") as never;
  }

  get frames(): { type: string; data?: Record<string, unknown> }[] {
    return this.lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line) as never);
  }

  get pings(): string[] {
    return this.lines.filter((line) => line.startsWith("ping ")).map((line) => line.slice(5));
  }

  private read(): void {
    const bytes = Buffer.concat(this.waiting);
    this.waiting = [];
    this.taken += bytes.length;
    this.lines.push(...bytes.toString().split("\n").slice(0, -1));
    const callbacks = this.callbacks;
    this.callbacks = [];
    setImmediate(() => {
      for (const callback of callbacks) callback();
    });
  }
}

export interface Opened {
  readonly sink: MemorySink;
  readonly connection: Connection;
}

export async function open(
  relay: Relay,
  id: string,
  options?: OpenOptions,
  sink = new MemorySink(),
  encoder: Encoder = lineEncoders.json,
): Promise<Opened> {
  const connection = await relay.connections.open(id, sink, encoder, options);
  if (!connection) throw new Error("another connection has the client");
  return { sink, connection };
}

/** Lets everything that is ready to happen happen. */
export async function turns(count = 4): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(setImmediate);
}
