import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** Requests of one connection that may wait for their turn; beyond, the connection is not read. */
const MAX_WAITING = 16;

/**
 * Has the requests that a client sends on one connection without waiting for answers (pipelining) handled one after the
 * other, as their order may matter (RFC 9112 section 9.3.2), and each in a turn of its own. Node would hand over all that
 * it has read at once: thousands of them, while nobody else has a turn.
 */
export function handleOneByOne(server: Server): void {
  const listeners = server.listeners("request") as RequestListener[];
  server.removeAllListeners("request");
  const lines = new WeakMap<Socket, Line>();
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    const { socket } = request;
    let line = lines.get(socket);
    if (!line) {
      line = new Line(socket, (...next) => {
        for (const listener of listeners) listener.apply(server, next);
      });
      lines.set(socket, line);
    }
    line.add(request, response);
  });
}

type Exchange = [IncomingMessage, ServerResponse];

/** The requests of one connection. */
class Line {
  private busy = false;
  /** Absent as long as nothing has waited: most clients wait for each answer. */
  private waiting: Exchange[] | undefined;

  constructor(
    private readonly socket: Socket,
    private readonly handle: (...exchange: Exchange) => void,
  ) {}

  add(...exchange: Exchange): void {
    if (!this.busy) return this.begin(exchange);
    // Node reads on with the end of each request.
    if (!this.waiting) this.socket.on("resume", () => this.pauseIfFull());
    (this.waiting ??= []).push(exchange);
    this.pauseIfFull();
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
    if (!exchange) return;
    this.busy = true;
    if (waiting?.length === MAX_WAITING - 1) socket.resume();
    setImmediate(() => {
      if (!socket.destroyed) this.begin(exchange);
    });
  }

  private pauseIfFull(): void {
    if (this.waiting && this.waiting.length >= MAX_WAITING) this.socket.pause();
  }
}
