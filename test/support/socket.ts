import { onTestFinished } from "vitest";
import { WebSocket } from "ws";

/** What comes in, in order, to be awaited one by one. */
export class Inbox<T> {
  readonly all: T[] = [];
  private taken = 0;
  private wake: (() => void) | undefined;
  private ended: string | undefined;

  push(item: T): void {
    this.all.push(item);
    this.wake?.();
  }

  end(why: string): void {
    this.ended = why;
    this.wake?.();
  }

  /** The next item that was not taken yet. */
  async next(): Promise<T> {
    while (this.taken >= this.all.length) {
      if (this.ended !== undefined) throw new Error(`ended: ${this.ended}`);
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
    return this.all[this.taken++] as T;
  }

  async take(count: number): Promise<T[]> {
    const items: T[] = [];
    while (items.length < count) items.push(await this.next());
    return items;
  }

  /** What has come and was not taken. */
  get rest(): T[] {
    return this.all.slice(this.taken);
  }
}

/** A real WebSocket client, with its text frames in an inbox. */
export class Frames extends Inbox<string> {
  readonly closed: Promise<{ code: number; reason: string }>;

  constructor(
    readonly socket: WebSocket,
    readonly headers: Record<string, string | string[] | undefined>,
  ) {
    super();
    this.closed = new Promise((resolve) => {
      socket.once("close", (code, reason) => {
        this.end(`closed with ${code} ${String(reason)}`);
        resolve({ code, reason: String(reason) });
      });
    });
  }

  async json<T = Record<string, unknown>>(): Promise<T> {
    return JSON.parse(await this.next()) as T;
  }

  say(frame: string | object): void {
    this.socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  /** Resolves when everything said so far has been dealt with; what came before the answer stays to be taken. */
  async settled(): Promise<string[]> {
    const before: string[] = [];
    this.say("ping");
    for (;;) {
      const frame = await this.next();
      if (frame === "pong") return before;
      before.push(frame);
    }
  }

  async request<T = Record<string, unknown>>(action: string, payload?: unknown): Promise<T> {
    const id = String(Math.random());
    this.say({ id, type: "request", action, payload });
    for (;;) {
      const frame = await this.json<{ id?: string; data?: T; error?: unknown }>();
      if (frame.id === id) return (frame.data ?? frame.error) as T;
    }
  }

  async close(): Promise<void> {
    this.socket.close();
    await this.closed;
  }

  /** As a network that is gone: no close frame. */
  async drop(): Promise<void> {
    this.socket.terminate();
    await this.closed;
  }
}

/** @throws when the upgrade is refused: `unexpected-response` with the status */
export async function openSocket(
  url: string,
  protocols: string[] = [],
  headers: Record<string, string> = {},
): Promise<Frames> {
  const socket = new WebSocket(url, protocols, { headers });
  onTestFinished(() => socket.terminate());
  let upgrade: Record<string, string | string[] | undefined> = {};
  socket.on("upgrade", (response) => (upgrade = response.headers));
  // Made before the handshake ends: frames may come with it.
  const frames = new Frames(socket, upgrade);
  socket.on("message", (data) => frames.push((data as Buffer).toString()));
  await new Promise<void>((resolve, reject) => {
    socket.once("open", resolve);
    socket.once("error", reject);
    socket.once("unexpected-response", (_request, response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => reject(new Refused(response.statusCode ?? 0, String(Buffer.concat(chunks)))));
    });
  });
  Object.assign(frames.headers, upgrade);
  socket.on("error", () => socket.terminate());
  return frames;
}

export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly body: string,
  ) {
    super(`refused with ${status}: ${body}`);
  }
}

export async function refusal(opening: Promise<unknown>): Promise<Refused> {
  try {
    await opening;
  } catch (error) {
    if (error instanceof Refused) return error;
    throw error;
  }
  throw new Error("was not refused");
}
