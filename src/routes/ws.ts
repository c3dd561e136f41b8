import type { IncomingMessage } from "node:http";
import type { FastifyInstance, FastifyRequest } from "fastify";
import type { WebSocket } from "ws";
import type { ClientId } from "../core/client.js";
import { Wheel } from "../core/wheel.js";
import { chooseSubprotocol, formats } from "../formats/index.js";
import type { Format } from "../formats/format.js";
import { CLOSE } from "../protocol.js";
import { keyOf, tokenOf } from "./access.js";
import {
  clientIdOf,
  connectionOptions,
  type ConnectionQuery,
  type Context,
  requestedFormat,
  requestedTtl,
} from "./context.js";
import { HttpError } from "./problems.js";
import { SocketSession } from "./session.js";
import { socketEncoders } from "./socket.js";

/** The clients of requests that are about to be connections, and whether these are to be told of a gap. */
const arrivals = new WeakMap<IncomingMessage, Arrival>();

/** A proxy drops both headers unless it is told to pass them on (RFC 9110 section 7.6.1). */
const NO_UPGRADE =
  "this is a WebSocket: connect with a WebSocket client; if you did, a proxy on the way may have dropped the headers " +
  "Upgrade and Connection: have it send both on, over HTTP/1.1";

interface Arrival {
  readonly id: ClientId;
  readonly gap: boolean;
}

export function gapHeader(headers: string[], request: IncomingMessage): void {
  if (arrivals.get(request)?.gap) headers.push("Relay-Gap: true");
}

/** `/ws/ID`, `/ws` and `/echo`. */
export function wsRoutes(app: FastifyInstance, context: Context): void {
  const { startup, settings, limits } = context;
  const plain = async (): Promise<never> => {
    throw new HttpError(426, NO_UPGRADE, { upgrade: "websocket" });
  };

  const run = (socket: WebSocket, request: FastifyRequest, otherwise: Format, inLobby: boolean): void => {
    const encoder = socketEncoders[chosenFormat(request, otherwise).name];
    const { id, gap } = arrivals.get(request.raw) as Arrival;
    new SocketSession(context, socket, request, encoder, inLobby).run(id, gap);
  };

  app.route<{ Params: { id: string }; Querystring: ConnectionQuery }>({
    method: "GET",
    url: "/ws/:id",
    exposeHeadRoute: false,
    config: { webSocket: true, access: { scope: "none" } },
    preHandler: async (request) => {
      const { since } = connectionOptions(request);
      const { clients, connections } = startup.relay;
      const id = await clients.identify(clientIdOf(request.params.id) ?? "");
      if (!request.ws) return;
      limits.connection(id);
      arrivals.set(request.raw, { id, gap: (await connections.preview(id, since)).gap });
    },
    handler: plain,
    wsHandler: (socket, request) => run(socket, request, formats.raw, false),
  });

  app.route<{ Querystring: ConnectionQuery }>({
    method: "GET",
    url: "/ws",
    exposeHeadRoute: false,
    config: { webSocket: true, access: { scope: "register", token: true } },
    preHandler: async (request) => {
      const { since } = connectionOptions(request);
      const ttl = requestedTtl(context, request.query);
      if (!request.ws) return;
      const claims = tokenOf(request);
      const { clients, connections } = startup.relay;
      const { id } = claims
        ? await clients.register({ ...claims, ttl, inLobby: true })
        : await clients.registerAnonymous(ttl, keyOf(request)?.name);
      arrivals.set(request.raw, { id, gap: (await connections.preview(id, since)).gap });
    },
    handler: plain,
    wsHandler: (socket, request) => run(socket, request, formats.json, true),
  });

  /** Those of `/echo` by the names of their keys: they have no client that could be removed. */
  const guests = new Map<WebSocket, string>();
  const stop = context.keys?.onReload(() => {
    const names = context.keys?.names;
    for (const [socket, key] of guests) if (!names?.has(key)) socket.close(CLOSE.revoked.code, CLOSE.revoked.text);
  });
  app.addHook("onClose", async () => stop?.());
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
    config: { webSocket: true, access: { scope: "any" } },
    handler: plain,
    wsHandler: (socket, request) => {
      const key = keyOf(request)?.name;
      if (key !== undefined) guests.set(socket, key);
      beats.add(socket, settings.pingInterval);
      socket.on("error", () => socket.terminate());
      socket.on("pong", () => silent.delete(socket));
      socket.on("close", () => {
        beats.delete(socket);
        guests.delete(socket);
      });
      socket.on("message", (data, isBinary) => {
        // A client that does not read what comes back is not read either.
        socket.pause();
        socket.send(data, { binary: isBinary }, () => socket.resume());
      });
    },
  });
}

/** The subprotocol decides, as the client is told which one was chosen; then the query. */
function chosenFormat(request: FastifyRequest, otherwise: Format): Format {
  const offered = (request.headers["sec-websocket-protocol"] ?? "").split(",").map((name) => name.trim());
  return chooseSubprotocol(offered)?.format ?? requestedFormat(request.query as ConnectionQuery) ?? otherwise;
}
