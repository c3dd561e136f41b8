import { EventEmitter } from "node:events";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { Server as TlsServer } from "node:tls";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { WebSocket } from "ws";
import { refuse } from "../core/refuse.js";
import { OWN_SUBPROTOCOL, type Problem, REFUSED_HANDSHAKES, SUBPROTOCOLS } from "../protocol.js";
import type { CallerLimits } from "./limits.js";
import { HttpError } from "./problems.js";
import { SocketSink, socketEncoders } from "./socket.js";

/** Requests that came as upgrades to WebSocket, each with the bytes that came after its head. */
const upgrading = new WeakMap<IncomingMessage, Buffer>();

/** Well-formed upgrades of clients that know the relay's close codes. */
const closable = new WeakSet<IncomingMessage>();

/** Refused clients that may take their time to close, of one relay. */
const MAX_CLOSING = 256;

/** Bytes that the relay reads of a refused client, whose close frame may follow frames that it sent at once. */
const READ_FROM_REFUSED = 64 * 1024;

/** Milliseconds in which an upgrade is accepted or refused: as long as the server of a token's keys may take, and more. */
const DECIDE_WITHIN = 10_000;

/**
 * The upgrades to WebSocket alone. Node hands every request with an `Upgrade` header to the same listeners, and looks after
 * its socket no more. Those that do not mean WebSocket (Java's and curl's HTTP clients offer `h2c` with ordinary requests)
 * are answered as if the header were not there (RFC 9110 section 7.8); the sockets of the others end here when nobody
 * accepts them.
 */
export class WebSocketUpgrades extends EventEmitter {
  private readonly undecided = new Map<Duplex, NodeJS.Timeout>();
  private closing = false;

  constructor(server: Server) {
    super();
    const arrive = (request: IncomingMessage, socket: Duplex, head: Buffer): void => {
      // It waits for the answers to requests that came before it on its connection.
      const { _httpMessage: before } = socket as { _httpMessage?: ServerResponse | null };
      if (before) return void before.once("close", () => arrive(request, socket, head));
      if (this.closing || socket.destroyed) return void socket.destroy();
      if (request.headers.upgrade?.toLowerCase() !== "websocket") return serveAgain(server, request, socket, head);
      upgrading.set(request, head);
      this.undecided.set(socket, setTimeout(() => socket.destroy(), DECIDE_WITHIN).unref());
      socket.once("close", () => this.decided(socket));
      this.emit("upgrade", request, socket, head);
    };
    server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      // Node's own listener is gone, and the next one may come late or never. A socket comes here again after
      // `serveAgain`.
      socket.off("error", ignore).on("error", ignore);
      arrive(request, socket, head);
    });
  }

  /** To be called when it has become a WebSocket. */
  decided(socket: Duplex): void {
    clearTimeout(this.undecided.get(socket));
    this.undecided.delete(socket);
  }

  /** Ends those that are neither accepted nor refused yet, and those that are still to come. */
  close(): void {
    this.closing = true;
    for (const socket of this.undecided.keys()) socket.destroy();
  }
}

/** An error destroys its socket by itself; without a listener it would end the process. */
function ignore(): void {}

/** Puts the request back before its socket, without the upgrade, and has the server read it anew. */
function serveAgain(server: Server, request: IncomingMessage, socket: Duplex, head: Buffer): void {
  const lines = [`${request.method} ${request.url} HTTP/${request.httpVersion}`];
  for (let index = 0; index < request.rawHeaders.length; index += 2) {
    const name = request.rawHeaders[index] as string;
    if (!/^(?:upgrade|connection|http2-settings)$/i.test(name)) lines.push(`${name}: ${request.rawHeaders[index + 1]}`);
  }
  // To a secure server, a connection is what it hands on when it has made it one.
  const arrival = server instanceof TlsServer ? "secureConnection" : "connection";
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), head]));
  server.emit(arrival, socket);
}

declare module "fastify" {
  interface FastifyContextConfig {
    /** The route is a WebSocket. */
    webSocket?: true;
  }
}

/**
 * Refuses what can not become a WebSocket, before anything else is done (RFC 6455 section 4.2). From here on the relay
 * may refuse an upgrade by a close code.
 */
export function checkUpgrade(request: FastifyRequest): void {
  if (!upgrading.has(request.raw)) return;
  const offered = checkHandshake(request);
  if (becomesWebSocket(request) && offered.includes(OWN_SUBPROTOCOL)) closable.add(request.raw);
}

/** Counts upgrades as connections of their address. */
export function countUpgrade(limits: CallerLimits) {
  return (request: FastifyRequest): void => {
    if (upgrading.has(request.raw) && becomesWebSocket(request)) limits.connect(request);
  };
}

function becomesWebSocket({ method, routeOptions }: FastifyRequest): boolean {
  return method === "GET" && routeOptions.config.webSocket === true;
}

/** @returns the subprotocols that the client offers. @throws {HttpError} 400, 426 */
function checkHandshake(request: FastifyRequest): readonly string[] {
  const { headers } = request;
  const { url, config } = request.routeOptions;
  if (url !== undefined && !config.webSocket) {
    throw new HttpError(400, "this is not a WebSocket: ask without an upgrade");
  }
  if (headers["sec-websocket-version"] !== "13") {
    throw new HttpError(426, "the WebSocket version must be 13", { "sec-websocket-version": "13" });
  }
  if (!/^[+/\d A-Za-z]{22}==$/.test(headers["sec-websocket-key"] ?? "")) {
    throw new HttpError(400, "the header Sec-WebSocket-Key is missing, or not 16 bytes in base64");
  }
  const offered = headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim()) ?? [];
  if (new Set(offered).size < offered.length || !offered.every((name) => /^[!#$%&'*+.^`|~\w-]+$/.test(name))) {
    throw new HttpError(400, "the header Sec-WebSocket-Protocol is not a list of different names");
  }
  return offered;
}

/**
 * Accepts the handshake of a client that knows the relay's close codes, and closes at once with the one for the status.
 * A page sees neither the status of a handshake nor its body. The returned function returns false, and does nothing,
 * when the client gets the HTTP answer.
 * @param refused called with each socket that is refused and closes in its own time: it may be ended before that
 */
export function refuseByCode(refused: (socket: Socket) => void) {
  /** The oldest first. */
  const closing = new Set<WebSocket>();
  return (request: FastifyRequest, reply: FastifyReply, { status, detail }: Problem): boolean => {
    const { raw, server } = request;
    const head = upgrading.get(raw);
    const reason = status in REFUSED_HANDSHAKES && REFUSED_HANDSHAKES[status as keyof typeof REFUSED_HANDSHAKES];
    if (!head || !closable.has(raw) || !reason) return false;
    void reply.hijack();
    const { socket } = raw;
    const before = socket.bytesRead;
    server.websocketServer.handleUpgrade(raw, socket, head, (webSocket) => {
      server.websocketServer.emit("connection", webSocket, raw);
      webSocket.on("error", () => webSocket.terminate());
      socket.on("data", () => {
        if (socket.bytesRead - before > READ_FROM_REFUSED) webSocket.pause();
      });
      const encoder = socketEncoders[SUBPROTOCOLS[webSocket.protocol] ?? "raw"];
      refuse(new SocketSink(webSocket, socket), encoder, { reason, detail });
      refused(socket);
      webSocket.once("close", () => closing.delete(webSocket));
      if (closing.add(webSocket).size > MAX_CLOSING) endOldest(closing);
    });
    return true;
  };
}

function endOldest(closing: Set<WebSocket>): void {
  const [oldest] = closing;
  if (oldest && closing.delete(oldest)) oldest.terminate();
}

/** Node does not look after the socket of an upgrade any more: one that was refused has to be ended. */
export async function endRefusedUpgrade({ raw }: FastifyRequest): Promise<void> {
  if (upgrading.has(raw)) raw.socket.destroySoon();
}
