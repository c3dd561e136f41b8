import cors from "@fastify/cors";
import websocket from "@fastify/websocket";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { parseSettings, type Settings, type SettingsInput } from "./config.js";
import type { Engine } from "./core/engine.js";
import { Relay } from "./core/relay.js";
import { openLmdbEngine } from "./engines/lmdb/index.js";
import type { Report } from "./engines/lmdb/commits.js";
import { MemoryEngine } from "./engines/memory.js";
import { chooseSubprotocol } from "./formats/index.js";
import { consoleRoutes } from "./routes/console.js";
import type { Context } from "./routes/context.js";
import { healthRoutes } from "./routes/health.js";
import { checkEncoding, decodeText, parseJson } from "./routes/json.js";
import { isAllowedOrigin } from "./routes/origins.js";
import { answerOtherMethods, handleError, HttpError } from "./routes/problems.js";
import { acceptAnyBody, publishRoutes } from "./routes/publish.js";
import { registerRoutes } from "./routes/register.js";
import { streamRoutes } from "./routes/stream.js";
import { checkUpgrade, endRefusedUpgrade, webSocketUpgrades } from "./routes/upgrades.js";
import { gapHeader, wsRoutes } from "./routes/ws.js";

/** Settings as in the README's table, in camel case; and an engine, if it is not to be made from them. */
export interface TopicRelayOptions extends Omit<SettingsInput, "listen" | "engine"> {
  readonly engine?: SettingsInput["engine"] | Engine;
}

/** Bytes over the largest message that a WebSocket frame may have: room for as many topics as a client may have. */
const FRAME_ROOM = 320 * 1024;

/** Fragments that one WebSocket message may come in. */
const MAX_FRAGMENTS = 32;

/** Reads of the socket that one frame may come in: the largest, in the smallest segments that networks make. */
const MAX_CHUNKS = 1024;

/** Milliseconds for the other end to answer a close frame. */
const CLOSE_TIMEOUT = 3000;

/**
 * The relay as a Fastify plugin: `app.register(topicRelay, options)`, under a `prefix` if you like.
 * @throws {SettingsError} an option that can not be
 */
export async function topicRelay(app: FastifyInstance, options: TopicRelayOptions): Promise<void> {
  const { engine: given, prefix: _, ...rest } = options as TopicRelayOptions & { prefix?: string };
  const settings = parseSettings({ ...rest, ...(typeof given === "object" ? {} : { engine: given }) });
  const engine = typeof given === "object" ? given : await openEngine(app, settings);
  const relay = await Relay.start(engine, settings);
  const context: Context = { relay, settings, prefix: app.prefix === "/" ? "" : app.prefix };

  app.setErrorHandler(handleError);
  app.addHook("onResponse", endRefusedUpgrade);
  app.addHook("onRequest", checkOrigin(settings));
  await app.register(cors, {
    origin: (origin, allow) => {
      allow(null, origin !== undefined && isAllowedOrigin(origin, settings.allowedOrigins));
    },
    methods: ["GET", "POST", "PATCH", "DELETE"],
    exposedHeaders: ["Relay-Gap", "Retry-After"],
    strictPreflight: false,
  });
  await registerWebSockets(app, relay, settings);
  const addOtherMethods = answerOtherMethods(app);
  acceptJson(app);
  healthRoutes(app);
  consoleRoutes(app);
  registerRoutes(app, context);
  wsRoutes(app, context);
  streamRoutes(app, context);
  await app.register(async (scope) => {
    acceptAnyBody(scope);
    publishRoutes(scope, context);
  });
  addOtherMethods();
}

/** An engine of the plugin's own, which ends with it. */
async function openEngine(app: FastifyInstance, settings: Settings): Promise<Engine> {
  const retention = { age: settings.retentionAge, count: settings.retentionCount, bytes: settings.retentionBytes };
  const report: Report = (level, message, error) => app.log[level]({ err: error, dataDir: settings.dataDir }, message);
  const engine =
    settings.engine === "memory"
      ? new MemoryEngine(retention)
      : await openLmdbEngine({ directory: settings.dataDir, retention, report });
  app.addHook("onClose", () => engine.close());
  return engine;
}

async function registerWebSockets(app: FastifyInstance, relay: Relay, settings: Settings): Promise<void> {
  const options = {
    server: webSocketUpgrades(app.server) as typeof app.server,
    maxPayload: settings.maxMessage + FRAME_ROOM,
    maxFragments: MAX_FRAGMENTS,
    maxBufferedChunks: MAX_CHUNKS,
    closeTimeout: CLOSE_TIMEOUT,
    perMessageDeflate: false,
    clientTracking: true,
    handleProtocols: (offered: Set<string>) => chooseSubprotocol(offered)?.name ?? false,
  };
  await app.register(websocket, {
    options,
    preClose: (done: () => void) => {
      void relay
        .stop()
        .catch((error: unknown) => app.log.error({ err: error }, "the relay did not end well"))
        .then(() => closeSockets(app))
        .finally(done);
    },
  });
  app.websocketServer.on("headers", gapHeader);
  app.addHook("onRequest", checkUpgrade);
}

/** Waits for the sockets that are closing; ends those whose other end does not answer. */
async function closeSockets({ websocketServer }: FastifyInstance): Promise<void> {
  const { clients } = websocketServer;
  const closed = [...clients].map((socket) => new Promise<void>((resolve) => socket.once("close", () => resolve())));
  for (const socket of clients) if (socket.readyState === socket.OPEN) socket.close(1001, "going away");
  const timer = setTimeout(() => {
    for (const socket of clients) socket.terminate();
  }, CLOSE_TIMEOUT);
  await Promise.all(closed);
  clearTimeout(timer);
}

/** A page of another site has no business here, whatever its browser would let it read. */
function checkOrigin({ allowedOrigins }: Settings) {
  return async ({ headers }: FastifyRequest): Promise<void> => {
    const { origin, upgrade } = headers;
    if (origin === undefined || upgrade === undefined || isAllowedOrigin(origin, allowedOrigins)) return;
    throw new HttpError(403, "pages of this origin may not connect: see --allowed-origins");
  };
}

function acceptJson(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    ["application/json"],
    { parseAs: "buffer" },
    async ({ headers }: FastifyRequest, body: Buffer) => {
      checkEncoding(headers);
      // Many clients name a type also where they send nothing.
      return body.length === 0 ? undefined : parseJson(decodeText(body));
    },
  );
}
