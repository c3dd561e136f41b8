import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Since } from "../core/log.js";
import type { TransportFields } from "../core/observer.js";
import type { Sink } from "../core/outbox.js";
import { formatId } from "../core/id.js";
import type { Disconnect } from "../core/notice.js";
import { encodersFor, formats } from "../formats/index.js";
import { CLOSE, type Restarting } from "../protocol.js";
import { tokenOf } from "./access.js";
import {
  clientIdOf,
  type ConnectionQuery,
  type Context,
  logFields,
  requestedFormat,
  requestedSince,
  requestedTtl,
} from "./context.js";
import { notFound } from "../core/clients.js";
import { HttpError } from "./problems.js";

/** Milliseconds after which `EventSource` comes back when its connection is lost. */
const RETRY = 2000;

/**
 * Milliseconds until `EventSource` reconnects after another connection has replaced its own: two tabs must not take
 * turns.
 */
const RETRY_REPLACED = 3_600_000;

/** Least milliseconds until `EventSource` reconnects after a shutdown: it waits no longer between later attempts. */
const RETRY_LEAST = 500;

/** A field of a server-sent event: each line by itself (HTML Living Standard, section 9.2.6). */
function field(text: string): string {
  return `data: ${text.replaceAll(/\r\n|\r|\n/g, "\ndata: ")}\n\n`;
}

/** What a stream consists of besides frames. */
interface Framing {
  readonly type: string;
  readonly start: string;
  /** Keeps an idle stream open. */
  readonly idle: string;
  /** The last words of a stream that the relay ends. */
  end(disconnect: Disconnect): string;
  readonly encoders: ReturnType<typeof encodersFor>;
}

/** Tells a page that the relay restarts, and `EventSource` when to reconnect. */
function endOfEvents({ reason, retryAfter = 0 }: Disconnect): string {
  if (reason === "replaced") return `retry: ${RETRY_REPLACED}\n`;
  if (reason !== "restarting") return "";
  const data = JSON.stringify({ retry_after_ms: retryAfter } satisfies Restarting);
  return `event: restarting\nretry: ${Math.max(retryAfter, RETRY_LEAST)}\n${field(data)}`;
}

/**
 * Server-sent events. No empty line follows `retry` and comments: the Python library httpx-sse takes each empty line
 * after an id or `retry` for the end of an event.
 */
const eventStream: Framing = {
  type: "text/event-stream; charset=utf-8",
  start: `retry: ${RETRY}\n`,
  idle: ":\n",
  end: endOfEvents,
  encoders: encodersFor({
    event: (format, event, userId) => Buffer.from(`id: ${formatId(event.id)}\n${field(format.event(event, userId))}`),
    text: (text) => Buffer.from(field(text)),
  }),
};

const lines: Framing = {
  type: "application/x-ndjson",
  start: "",
  idle: "\n",
  end: () => "",
  encoders: encodersFor({
    event: (format, event, userId) => Buffer.from(`${format.line(event, userId)}\n`),
    text: (text) => Buffer.from(`${text}\n`),
  }),
};

/** `/stream/ID`, and `/stream` for those with a token: a client's events as a response that does not end. */
export function streamRoutes(app: FastifyInstance, context: Context): void {
  const { startup, limits } = context;

  app.get<{ Params: { id: string }; Querystring: ConnectionQuery }>(
    "/stream/:id",
    { exposeHeadRoute: false, config: { access: { scope: "none" } } },
    async (request, reply) =>
      stream(request, reply, () => startup.relay.clients.identify(clientIdOf(request.params.id) ?? "")),
  );

  app.get<{ Querystring: ConnectionQuery }>(
    "/stream",
    { exposeHeadRoute: false, config: { access: { scope: "token", token: true } } },
    async (request, reply) => {
      const ttl = requestedTtl(context, request.query);
      const claims = tokenOf(request);
      return stream(request, reply, async () => {
        if (!claims) throw notFound();
        const { id } = await startup.relay.clients.register({ ...claims, ttl });
        return id;
      });
    },
  );

  async function prepared(
    client: () => Promise<string>,
    since: Since | undefined,
  ): Promise<{ id: string; gap: boolean }> {
    const id = await client();
    await startup.relay.clients.get(id);
    limits.connection(id);
    return { id, gap: (await startup.relay.connections.preview(id, since)).gap };
  }

  async function stream(request: FastifyRequest, reply: FastifyReply, client: () => Promise<string>): Promise<void> {
    const { socket } = reply.raw;
    // Behind another response on the same connection, nothing could be sent, nor its end be seen.
    if (!socket) throw new HttpError(400, "a stream needs a connection of its own: do not pipeline it");
    const format = requestedFormat(request.query as ConnectionQuery) ?? formats.raw;
    const since = requestedSince(request);
    limits.connect(request);
    const { id, gap } = await prepared(client, since).catch((error: unknown) => {
      limits.disconnect(socket);
      throw error;
    });
    const framing = /application\/(?:x-)?ndjson/i.test(request.headers.accept ?? "") ? lines : eventStream;

    void reply.hijack();
    const response = reply.raw;
    response.writeHead(200, {
      ...(reply.getHeaders() as Record<string, string>),
      "content-type": framing.type,
      "cache-control": "no-store, no-transform",
      // When the response does end, so does the connection: a relay that is shutting down waits for both.
      connection: "close",
      // Proxies that buffer (nginx) would hold events back.
      "x-accel-buffering": "no",
      ...(gap ? { "relay-gap": "true" } : {}),
    });
    // Who has closed its half does not read either.
    socket.once("end", () => response.destroy());
    response.on("error", (error) => request.log.debug({ err: error }, "stream failed"));
    response.flushHeaders();
    if (framing.start) response.write(framing.start);
    const sink = new StreamSink(response, socket, framing, logFields(request));
    const { connections } = startup.relay;
    const connection = await connections
      .open(id, sink, framing.encoders[format.name], { since, gapSaid: gap })
      .catch((error: unknown) => request.log.warn({ err: error }, "stream did not open"));
    if (!connection) {
      response.end();
      return;
    }
    const closed = (): void => {
      connections.closed(connection).catch((error: unknown) => request.log.error({ err: error }, "closing failed"));
    };
    if (response.destroyed) closed();
    else response.once("close", closed);
  }
}

class StreamSink implements Sink {
  constructor(
    private readonly response: ServerResponse,
    private readonly socket: Socket,
    private readonly framing: Framing,
    readonly fields: TransportFields,
  ) {}

  get open(): boolean {
    return !this.response.writableEnded && this.socket.writable;
  }

  get buffered(): number {
    return this.response.writableLength;
  }

  get taken(): number {
    return this.socket.bytesWritten - this.socket.writableLength;
  }

  write(bytes: Buffer): void {
    if (this.open) this.response.write(bytes);
  }

  whenTaken(callback: () => void): void {
    this.socket.write("", () => callback());
  }

  idle(): void {
    this.write(Buffer.from(this.framing.idle));
  }

  close(disconnect: Disconnect): void {
    this.response.end(this.framing.end(disconnect));
    setTimeout(() => this.socket.destroy(), CLOSE[disconnect.reason].closeWithin).unref();
  }
}
