import type { IncomingMessage } from "node:http";
import type { FastifyBaseLogger, FastifyInstance, FastifyRequest } from "fastify";
import type { RawData, WebSocket } from "ws";
import type { Connection } from "../core/connection.js";
import { RelayError } from "../core/errors.js";
import type { OpenOptions } from "../core/connections.js";
import { FAILED, REMOVED } from "../core/notice.js";
import { Wheel } from "../core/wheel.js";
import type { FramedEncoder } from "../formats/encoder.js";
import { chooseSubprotocol, formats } from "../formats/index.js";
import type { Format } from "../formats/format.js";
import { CLOSE } from "../protocol.js";
import {
  clientIdOf,
  type ConnectionQuery,
  type Context,
  requestedAck,
  requestedFormat,
  requestedSince,
  shortId,
} from "./context.js";
import { Frames } from "./frames.js";
import { TokenBucket } from "./limits.js";
import { HttpError, InvalidInput } from "./problems.js";
import { SocketSink, socketEncoders } from "./socket.js";
import type { UpgradeConfig } from "./upgrades.js";

/** Frames that a client sent and that are not handled yet: above this the socket is not read. */
const MAX_INBOX = 32;

/** Bad frames: so many at once, and so many a second, before the connection is closed with 4429. */
const BAD_FRAMES = { burst: 50, perSecond: 10 };

/** Upgrade requests whose response says `Relay-Gap: true`. */
const gaps = new WeakSet<IncomingMessage>();

export function gapHeader(headers: string[], request: IncomingMessage): void {
  if (gaps.has(request)) headers.push("Relay-Gap: true");
}

/** `/ws/ID`, `/ws` and `/echo`. */
export function wsRoutes(app: FastifyInstance, context: Context): void {
  const { relay, settings } = context;
  const plain = async (): Promise<never> => {
    throw new HttpError(426, "this is a WebSocket: connect with a WebSocket client", { upgrade: "websocket" });
  };

  app.route<{ Params: { id: string }; Querystring: ConnectionQuery }>({
    method: "GET",
    url: "/ws/:id",
    exposeHeadRoute: false,
    config: { webSocket: true } satisfies UpgradeConfig,
    preHandler: async (request) => {
      const id = clientIdOf(request.params.id) ?? "";
      const { since } = connectionOptions(request);
      if ((await relay.connections.preview(id, since)).gap) gaps.add(request.raw);
    },
    handler: plain,
    wsHandler: (socket, request) => {
      const id = clientIdOf(request.params.id) ?? "";
      const encoder = socketEncoders[chosenFormat(request, formats.raw).name];
      new SocketSession(context, socket, request, encoder, false).run(async () => id);
    },
  });

  app.route<{ Querystring: ConnectionQuery }>({
    method: "GET",
    url: "/ws",
    exposeHeadRoute: false,
    config: { webSocket: true } satisfies UpgradeConfig,
    preHandler: async (request) => {
      connectionOptions(request);
      requestedTtl(context, request.query);
    },
    handler: plain,
    wsHandler: (socket, request) => {
      const encoder = socketEncoders[chosenFormat(request, formats.json).name];
      const ttl = requestedTtl(context, request.query);
      new SocketSession(context, socket, request, encoder, true).run(async () => {
        const record = await relay.clients.registerAnonymous(ttl);
        return record.id;
      });
    },
  });

  const silent = new WeakSet<WebSocket>();
  const beats = new Wheel<WebSocket>(Math.min(1000, settings.pingInterval / 4), (socket) => {
    if (silent.has(socket)) return socket.terminate();
    silent.add(socket);
    socket.ping();
    beats.add(socket, settings.pingInterval);
  });
  app.route({
    method: "GET",
    url: "/echo",
    exposeHeadRoute: false,
    config: { webSocket: true } satisfies UpgradeConfig,
    handler: plain,
    wsHandler: (socket) => {
      beats.add(socket, settings.pingInterval);
      socket.on("error", () => socket.terminate());
      socket.on("pong", () => silent.delete(socket));
      socket.on("close", () => beats.delete(socket));
      socket.on("message", (data, isBinary) => {
        // A client that does not read what comes back is not read either.
        socket.pause();
        socket.send(data, { binary: isBinary }, () => socket.resume());
      });
    },
  });
}

/** One WebSocket of a client: frames go in, in order and one at a time; the connection is its way out. */
class SocketSession {
  private readonly inbox: { data: RawData; isBinary: boolean }[] = [];
  private readonly bad = new TokenBucket(BAD_FRAMES.burst, BAD_FRAMES.perSecond);
  private readonly log: FastifyBaseLogger;
  private readonly sink: SocketSink;
  private connection: Connection | undefined;
  private frames: Frames | undefined;
  private busy = true;

  constructor(
    private readonly context: Context,
    private readonly socket: WebSocket,
    private readonly request: FastifyRequest,
    private readonly encoder: FramedEncoder,
    private readonly inLobby: boolean,
  ) {
    this.log = request.log;
    this.sink = new SocketSink(socket, request.raw.socket);
  }

  /** Listens from the first moment on; what comes before the client is there waits in the inbox. */
  run(client: () => Promise<string>): void {
    const { socket } = this;
    socket.on("message", (data, isBinary) => this.receive(data, isBinary));
    socket.on("ping", () => this.connection?.hear());
    socket.on("pong", (payload) => {
      this.connection?.hear();
      this.connection?.ponged(payload.toString());
    });
    socket.on("error", (error) => this.log.debug({ err: error }, "socket failed"));
    socket.on("close", (code) => this.closed(code));
    void this.open(client).catch((error: unknown) => this.fail(error));
  }

  private async open(client: () => Promise<string>): Promise<void> {
    const { context, sink, encoder } = this;
    const id = await client();
    this.connection = await context.relay.connections.open(id, sink, encoder, connectionOptions(this.request));
    if (this.socket.readyState !== this.socket.OPEN) return this.closed(1006);
    this.frames = new Frames(context.relay, this.connection, encoder, context.settings.maxMessage, this.inLobby);
    this.log.info({ user_id: this.connection.reader.userId, client: shortId(id) }, "connected");
    await this.work();
  }

  private receive(data: RawData, isBinary: boolean): void {
    if (this.socket.readyState !== this.socket.OPEN) return;
    this.connection?.hear();
    this.inbox.push({ data, isBinary });
    if (this.inbox.length > MAX_INBOX) this.socket.pause();
    if (!this.busy) void this.work().catch((error: unknown) => this.fail(error));
  }

  private async work(): Promise<void> {
    this.busy = true;
    for (let frame = this.inbox.shift(); frame; frame = this.inbox.shift()) {
      if (this.socket.readyState !== this.socket.OPEN) return;
      if (!(await this.handle(frame.data, frame.isBinary)) && !this.bad.take()) {
        this.connection?.close({ code: CLOSE.tooMany, reason: "too many bad frames", reconnect: false });
        return;
      }
      // Answers go through the same outbox as events: no more of them than the client reads.
      await this.connection?.ready();
    }
    this.busy = false;
    if (this.socket.isPaused) this.socket.resume();
  }

  private async handle(data: RawData, isBinary: boolean): Promise<boolean> {
    const { frames, connection } = this;
    if (!frames || !connection) return true;
    if (isBinary) {
      frames.refuse(new InvalidInput([{ path: "", message: "binary frames are not understood: send text" }]));
      return false;
    }
    const text = (data as Buffer).toString();
    if (this.inLobby) {
      this.log.info({ user_id: connection.reader.userId, bytes: text.length }, "message");
    }
    return frames.handle(text);
  }

  private closed(code: number): void {
    const { connection } = this;
    if (!connection) return;
    this.connection = undefined;
    this.log.info({ user_id: connection.reader.userId, code }, "disconnected");
    void this.context.relay.connections.closed(connection).catch((error: unknown) => this.fail(error));
  }

  private fail(error: unknown): void {
    if (!(error instanceof RelayError)) this.log.error({ err: error }, "connection failed");
    const { code, reason } = error instanceof RelayError && error.code === "not_found" ? REMOVED : FAILED;
    this.socket.close(code, reason);
  }
}

/** @throws {InvalidInput} what the query or a header asks for is not there */
function connectionOptions(request: FastifyRequest): OpenOptions {
  const query = request.query as ConnectionQuery;
  requestedFormat(query);
  return { since: requestedSince(request), manualAck: requestedAck(query) };
}

/** The subprotocol decides, as the client is told which one was chosen; then the query. */
function chosenFormat(request: FastifyRequest, otherwise: Format): Format {
  const offered = (request.headers["sec-websocket-protocol"] ?? "").split(",").map((name) => name.trim());
  return chooseSubprotocol(offered)?.format ?? requestedFormat(request.query as ConnectionQuery) ?? otherwise;
}

/** Seconds for which a client of `/ws` is kept after its connection: none, unless it asks for some. */
function requestedTtl({ settings }: Context, { ttl }: ConnectionQuery): number {
  if (ttl === undefined) return 0;
  const longest = settings.maxClientTtl / 1000;
  if (/^\d{1,9}$/.test(ttl) && Number(ttl) <= longest) return Number(ttl);
  throw new InvalidInput([{ path: "ttl", message: `must be seconds, from 0 to ${longest}` }]);
}
