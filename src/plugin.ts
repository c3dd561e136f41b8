import type { Socket } from "node:net";
import websocket from "@fastify/websocket";
import type { FastifyInstance, FastifyRequest } from "fastify";
import type { WebSocket } from "ws";
import { parseSettings, type Settings, SettingsError, type SettingsInput } from "./config.js";
import type { Engine } from "./core/engine.js";
import type { Loading } from "./core/loading.js";
import type { Observer } from "./core/observer.js";
import { within } from "./core/within.js";
import { openLmdbEngine } from "./engines/lmdb/index.js";
import type { Report } from "./engines/lmdb/commits.js";
import { MemoryEngine } from "./engines/memory.js";
import { chooseSubprotocol } from "./formats/index.js";
import { InProcessRelay } from "./in-process.js";
import { loggedObserver } from "./logging.js";
import { Metrics } from "./metrics.js";
import { CLOSE } from "./protocol.js";
import { consoleRoutes } from "./routes/console.js";
import type { Context } from "./routes/context.js";
import { healthRoutes } from "./routes/health.js";
import { addHooks } from "./routes/hooks.js";
import { checkEncoding, decodeText, parseJson } from "./routes/json.js";
import { CallerLimits } from "./routes/limits.js";
import { refuseNowhere } from "./routes/nowhere.js";
import { answerOtherMethods, errorHandler } from "./routes/problems.js";
import { acceptAnyBody, publishRoutes } from "./routes/publish.js";
import { registerRoutes } from "./routes/register.js";
import { streamRoutes } from "./routes/stream.js";
import { refuseByCode, WebSocketUpgrades } from "./routes/upgrades.js";
import { gapHeader, wsRoutes } from "./routes/ws.js";
import { Startup } from "./startup.js";
import { ApiKeys } from "./trust/keys.js";

/** Settings of the server, which is not the plugin's. */
type OfServer = "listen" | "trustProxy" | "tlsCert" | "tlsKey" | "requestTimeout" | "logLevel";

/** Settings as in the README's table, in camel case (`--data-dir` is `dataDir`). Durations are text such as `30s`, or milliseconds. */
export interface TopicRelayOptions extends Omit<SettingsInput, "engine" | OfServer> {
  /** Where the log is kept: `lmdb` (in `dataDir`) or `memory`; or an engine of your own, which you close yourself. */
  readonly engine?: SettingsInput["engine"] | Engine;
  /** The path under which the relay's routes are. */
  readonly prefix?: string;
}

declare module "fastify" {
  interface FastifyInstance {
    /** The relay that was registered here, or in the scope around this one. Of several in one scope: the first. */
    relay: InProcessRelay;
  }
}

/** Bytes over the largest message that a WebSocket frame may have: room for as many topics as a client may have. */
const FRAME_ROOM = 320 * 1024;

/** Fragments that one WebSocket message may come in. */
const MAX_FRAGMENTS = 32;

/** Reads of the socket that one frame may come in: the largest, in the smallest segments that networks make. */
const MAX_CHUNKS = 1024;

/** Milliseconds that a plugin may take to load before its host goes on without: half of what Fastify allows a plugin. */
const LOAD_WITHIN = 5000;

/**
 * The relay as a Fastify plugin: `await app.register(topicRelay, options)`, under a `prefix` if you like. From then on
 * `app.relay` is the relay, for the scope that registered it and those inside.
 *
 * Several relays may be in one app, with a prefix and a `dataDir` each. `app.relay` is then the first one that its scope
 * registered. To use the others, register each in a scope of its own:
 * `app.register(async (scope) => { await scope.register(topicRelay, options); scope.relay.on(…); })`.
 * @throws {SettingsError} an option that can not be
 */
export async function topicRelay(app: FastifyInstance, options: TopicRelayOptions): Promise<void> {
  const { engine, prefix: path, ...rest } = options;
  const prefix = path?.replace(/\/+$/, "");
  refuseTaken(app);
  const settings = parseSettings({ ...rest, ...(typeof engine === "object" ? {} : { engine }) });
  const given = typeof engine === "object" ? engine : undefined;
  const keys = await loadKeys(settings);
  // Its hooks and parsers are for its own routes.
  await app.register(
    async (scope) => {
      const { startup, context } = await addRelay(scope, { settings, keys, engine: given });
      if (!hasRelay(app)) app.decorate("relay", new InProcessRelay(app, context));
      // Without a prefix, paths where there is nothing are the host's to answer.
      if (prefix) scope.setNotFoundHandler(refuseNowhere);
      // Most relays have loaded by then, and their hosts need not know of it.
      if (await within(LOAD_WITHIN, startup.loaded)) return;
      startup.loaded.catch((error: unknown) => app.log.fatal({ err: error }, "the relay could not load"));
    },
    { ...(prefix && { prefix }) },
  );
}

// What Fastify asks of a plugin that decorates the scope of its host.
Object.assign(topicRelay, {
  [Symbol.for("skip-override")]: true,
  [Symbol.for("fastify.display-name")]: "topic-relay",
});

/** Fastify has room for one of each of these plugins in a scope, and says so only when it is too late to catch that. */
function refuseTaken(app: FastifyInstance): void {
  const taken = { "@fastify/cors": "corsPreflightEnabled", "@fastify/websocket": "ws" };
  for (const [name, decorator] of Object.entries(taken)) {
    if (!app.hasRequestDecorator(decorator)) continue;
    throw new SettingsError(
      `register topic-relay before ${name}, or ${name} in a scope of its own: the relay has one too`,
    );
  }
}

/** Whether the scope itself has a relay. Something else of that name is for Fastify to refuse. */
function hasRelay(app: FastifyInstance): boolean {
  return Object.hasOwn(app, "relay") && app.relay instanceof InProcessRelay;
}

/** The keys that the settings speak of; undefined when the relay is to be open. @throws {SettingsError} */
export async function loadKeys({ apiKeys, apiKeysFile }: Settings): Promise<ApiKeys | undefined> {
  if (!apiKeys && apiKeysFile === undefined) return undefined;
  try {
    return await ApiKeys.load(apiKeys ?? [], apiKeysFile);
  } catch (error) {
    const where = apiKeysFile === undefined ? "--api-keys" : `--api-keys-file: ${apiKeysFile}`;
    throw new SettingsError(`${where}: ${(error as Error).message}`, { cause: error });
  }
}

export interface RelayParts {
  readonly settings: Settings;
  /** Absent: the relay is open. */
  readonly keys: ApiKeys | undefined;
  /** Absent: one of its own, as the settings say. */
  readonly engine?: Engine | undefined;
  /** Absent: one of its own. */
  readonly observer?: Observer;
  /** Told of each socket that a close code refuses: it is no WebSocket that anybody uses. */
  readonly refused?: (socket: Socket) => void;
}

/**
 * Adds the routes of a relay, which loads from then on.
 * @throws what keeps it from loading, as far as that is known at once
 */
export async function addRelay(
  app: FastifyInstance,
  { settings, keys, engine, observer = loggedObserver(app.log), refused }: RelayParts,
): Promise<{ startup: Startup; context: Context }> {
  const startup = new Startup({
    open: async (loading) => engine ?? openEngine(app, settings, loading),
    settings: { ...settings, observer },
    prepare: (relay) => {
      // From here on a client whose key is gone is refused; it is removed in its own time.
      if (keys) void relay.lifetimes.retainKeys(keys.names);
    },
  });
  if (!engine) app.addHook("onClose", () => startup.close());
  await Promise.race([startup.loaded, new Promise(setImmediate)]);
  const limits = new CallerLimits(settings);
  const prefix = app.prefix === "/" ? "" : app.prefix;
  const metrics = new Metrics(observer);
  const context: Context = { startup, settings, limits, metrics, observer, keys, prefix };
  metrics.gauge("relay_clients", "Clients that this relay holds", () => startup.relay.clients.count);
  metrics.gauge("relay_topic_bytes", "Memory that topics take", () => startup.relay.clients.weight);
  metrics.gauge(
    "relay_buffered_bytes",
    "Bytes that wait for slow connections",
    () => startup.relay.connections.buffered,
  );
  metrics.gauge("relay_connections", "Connections that are open", () => startup.relay.connections.count);

  const byCode = refuseByCode((socket) => {
    limits.disconnect(socket);
    refused?.(socket);
  });
  app.setErrorHandler(errorHandler(observer, byCode));
  await addHooks(app, context);
  await registerWebSockets(app, startup, settings);
  const addOtherMethods = answerOtherMethods(app);
  acceptJson(app);
  healthRoutes(app, context);
  await consoleRoutes(app, context);
  registerRoutes(app, context);
  wsRoutes(app, context);
  streamRoutes(app, context);
  await app.register(async (scope) => {
    acceptAnyBody(scope);
    publishRoutes(scope, context);
  });
  addOtherMethods();
  if (keys) revokeOnReload(app, startup, keys);
  return { startup, context };
}

/** Clients go with the keys that they were registered with. */
function revokeOnReload(app: FastifyInstance, startup: Startup, keys: ApiKeys): void {
  const stop = keys.onReload(() => {
    // When it has not loaded yet, it will look at the keys by itself.
    if (!startup.fault) void startup.relay.lifetimes.retainKeys(keys.names);
  });
  app.addHook("onClose", async () => stop());
}

async function openEngine(app: FastifyInstance, settings: Settings, loading: Loading): Promise<Engine> {
  const retention = { age: settings.retentionAge, count: settings.retentionCount, bytes: settings.retentionBytes };
  if (settings.engine === "memory") return new MemoryEngine(retention);
  const report: Report = (level, message, error) => app.log[level]({ err: error, dataDir: settings.dataDir }, message);
  return openLmdbEngine({ directory: settings.dataDir, retention, report, loading });
}

async function registerWebSockets(app: FastifyInstance, startup: Startup, settings: Settings): Promise<void> {
  const upgrades = new WebSocketUpgrades(app.server);
  const options = {
    server: upgrades as unknown as typeof app.server,
    maxPayload: settings.maxMessage + FRAME_ROOM,
    maxFragments: MAX_FRAGMENTS,
    maxBufferedChunks: MAX_CHUNKS,
    closeTimeout: CLOSE.going_away.closeWithin,
    perMessageDeflate: false,
    clientTracking: true,
    handleProtocols: (offered: Set<string>) => chooseSubprotocol(offered)?.name ?? false,
  };
  await app.register(websocket, {
    options,
    errorHandler: (error: Error & { code?: string }, socket: WebSocket, { log }: FastifyRequest) => {
      // What the other end sends or does is nothing to fill a log with.
      const isTheirs = /^(?:WS_ERR_|E[A-Z]+$)/.test(error.code ?? "");
      log[isTheirs ? "debug" : "error"]({ err: error }, "socket failed");
      socket.terminate();
    },
    preClose: (done: () => void) => {
      upgrades.close();
      void startup
        .stop()
        .catch((error: unknown) => app.log.error({ err: error }, "the relay did not end well"))
        .then(() => closeSockets(app))
        .then(() => (startup.fault ? undefined : startup.relay.connections.keepProgress()))
        .finally(done);
    },
  });
  app.websocketServer.on("headers", gapHeader);
  app.websocketServer.on("connection", (_socket, { socket }) => upgrades.decided(socket));
}

/** Waits for the sockets that are closing; ends those whose other end does not answer. */
async function closeSockets({ websocketServer }: FastifyInstance): Promise<void> {
  const { clients } = websocketServer;
  const closed = [...clients].map((socket) => new Promise<void>((resolve) => socket.once("close", () => resolve())));
  const { code, text, closeWithin } = CLOSE.going_away;
  for (const socket of clients) if (socket.readyState === socket.OPEN) socket.close(code, text);
  const timer = setTimeout(() => {
    for (const socket of clients) socket.terminate();
  }, closeWithin);
  await Promise.all(closed);
  clearTimeout(timer);
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
