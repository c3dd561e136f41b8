import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** Requests of one connection that may wait for their turn; beyond, the connection is not read. */
const MAX_WAITING = 16;

/**
 * Has the requests that a client sends on one connection without waiting for answers (pipelining) handled one after the
 * other, as their order may matter (RFC 9112 section 9.3.2), and each in a turn of its own. Node would hand over all that
 * it has read at once: thousands of them, while nobody else has a turn.
 */
export class Pipelines {
  private readonly lines = new WeakMap<Socket, Line>();

  /** @param began called with a connection that has its first request */
  constructor(server: Server, began: (socket: Socket) => void) {
    const listeners = server.listeners("request") as RequestListener[];
    server.removeAllListeners("request");
    const handle = (...exchange: Exchange): void => {
      for (const listener of listeners) listener.apply(server, exchange);
    };
    server.on("request", (...exchange: Exchange) => {
      const [{ socket }] = exchange;
      const line = this.lines.get(socket);
      if (line) return line.add(exchange);
      const first = new Line(socket, handle);
      this.lines.set(socket, first);
      began(socket);
      first.add(exchange);
    });
    // What comes after these requests is no HTTP.
    server.prependListener("upgrade", ({ socket }: IncomingMessage) => this.lines.get(socket)?.leave());
    // Who has no more to ask for still gets answers.
    (server as { httpAllowHalfOpen?: boolean }).httpAllowHalfOpen = true;
  }

  /** Calls back when the requests that have come on a connection are answered; at once when there are none. */
  whenAnswered(socket: Socket, then: () => void): void {
    const line = this.lines.get(socket);
    if (line?.busy) line.last = then;
    else then();
  }

  /** Whether a connection has a request that is not answered yet. */
  isBusy(socket: Socket): boolean {
    return this.lines.get(socket)?.busy === true;
  }
}

type Exchange = [IncomingMessage, ServerResponse];

/** The requests of one connection. */
class Line {
  /** A request is being handled, or its turn is next. */
  busy = false;
  /** What is to be done after the last request. */
  last: (() => void) | undefined;
  /** Absent as long as nothing has waited: most clients wait for each answer. */
  private waiting: Exchange[] | undefined;
  private isPausing = true;

  constructor(
    private readonly socket: Socket,
    private readonly handle: (...exchange: Exchange) => void,
  ) {}

  add(exchange: Exchange): void {
    // It is HTTP, also when an upgrade was not to be had.
    this.isPausing = true;
    if (!this.busy) return this.begin(exchange);
    // Node reads on with the end of each request.
    if (!this.waiting) this.socket.on("resume", () => this.pauseIfFull());
    this.waiting ??= [];
    // Not at once: an upgrade may come with the same bytes, and whoever takes it over could not read on.
    if (this.waiting.push(exchange) === MAX_WAITING) process.nextTick(() => this.pauseIfFull());
  }

  /** Leaves it to others from now on whether the connection is read. */
  leave(): void {
    this.isPausing = false;
    // Who takes it over finds it as Node hands it over: being read.
    const { _handle: handle } = this.socket as { _handle?: { reading: boolean; readStart(): void } | null };
    if (!handle || handle.reading) return;
    handle.reading = true;
    handle.readStart();
  }

  private begin(exchange: Exchange): void {
    this.busy = true;
    exchange[1].once("close", () => this.next());
    this.handle(...exchange);
  }

  private next(): void {
    this.busy = false;
    const { waiting, socket } = this;
    const exchange = waiting?.shift();
    if (!exchange) return this.last?.();
    this.busy = true;
    if (this.isPausing && waiting?.length === MAX_WAITING - 1) socket.resume();
    setImmediate(() => {
      if (!socket.destroyed) this.begin(exchange);
    });
  }

  private pauseIfFull(): void {
    if (this.isPausing && this.waiting && this.waiting.length >= MAX_WAITING) this.socket.pause();
  }
}
