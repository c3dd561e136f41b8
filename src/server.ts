import type { AddressInfo, Socket } from "node:net";
import type { Writable } from "node:stream";
import { Server as TlsServer } from "node:tls";
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyServerOptions,
  LogController,
} from "fastify";
import { isPrivate, type Settings, SettingsError } from "./config.js";
import type { Engine } from "./core/engine.js";
import { within } from "./core/within.js";
import { addRelay, loadKeys } from "./plugin.js";
import { refuseNowhere, routeBadPath } from "./routes/nowhere.js";
import { problem } from "./routes/problems.js";
import { closeOnSignals } from "./shutdown.js";
import type { Startup } from "./startup.js";
import { CertificateFiles } from "./tls.js";
import { isLoopback } from "./trust/hosts.js";
import type { ApiKeys } from "./trust/keys.js";
import { STRONG_SECRET } from "./trust/tokens.js";

/** Milliseconds for a request that is under way when the server closes. */
const UNDER_WAY = 5000;

/**
 * Connections that may wait to be taken: as many as the system allows. When thousands come back at once, those that are
 * too many for Node's own 511 would try again after a second.
 */
const BACKLOG = 65_535;

/** Characters of a path's parameter: a user id of 128, percent-encoded. */
const MAX_PARAM = 128 * 12;

/** Milliseconds for an answer to arrive at somebody who does not speak HTTP, before the connection is cut. */
const ANSWER_WITHIN = 1000;

/** Milliseconds between two looks for requests that do not arrive. */
const CHECK_EVERY = 30_000;

/** Ends the process as other signals do, unless there is something to read again. */
const RELOAD = "SIGHUP";

/** Milliseconds that loading may take without a word, and between two words on how far it is. */
const TELL_AFTER = 2000;

/** What a server does not have to make from its settings. */
export interface ServerParts {
  readonly keys?: ApiKeys | undefined;
  readonly engine?: Engine;
  /** Where its log goes; default: standard error. */
  readonly logTo?: Writable;
}

export interface RelayServer {
  readonly app: FastifyInstance;
  readonly startup: Startup;
}

/**
 * A server with nothing but the relay, which loads from now on.
 * @throws {SettingsError} files that settings name are not there or not good
 * @throws {RelayError} unavailable: the engine can not be opened
 */
export async function createServer(settings: Settings, given: ServerParts = {}): Promise<RelayServer> {
  const keys = given.keys ?? (await loadKeys(settings));
  const { requestTimeout } = settings;
  const timeouts = {
    headersTimeout: requestTimeout,
    connectionsCheckingInterval: Math.min(CHECK_EVERY, requestTimeout / 2),
  };
  const certificate = certificateOf(settings);
  const app: FastifyInstance = Fastify({
    logger: { level: settings.logLevel, stream: given.logTo ?? process.stderr },
    // Two lines for each request would be the most work that a publish makes.
    logController: new LogController({ disableRequestLogging: true }),
    // One proxy, the other end of the connection: what others before it say of themselves, anybody could have said.
    trustProxy: settings.trustProxy && ((_address: string, hop: number) => hop === 0),
    requestTimeout,
    http: timeouts,
    ...(certificate && { https: { ...certificate.read(), ...timeouts, handshakeTimeout: requestTimeout } }),
    routerOptions: { maxParamLength: MAX_PARAM },
    clientErrorHandler: answerClientError,
    frameworkErrors: routeBadPath((request, response) => app.routing(request, response)),
  } as FastifyServerOptions);
  endConnectionsOnClose(app);
  if (certificate) reloadCertificate(app, certificate);
  let startup: Startup | undefined;
  await app.register(async (scope) => {
    startup = await addRelay(scope, settings, keys, given.engine);
    scope.setNotFoundHandler(refuseNowhere);
  });
  return { app, startup: startup as unknown as Startup };
}

function certificateOf({ tlsCert, tlsKey }: Settings): CertificateFiles | undefined {
  return tlsCert === undefined || tlsKey === undefined ? undefined : new CertificateFiles(tlsCert, tlsKey);
}

function reloadCertificate(app: FastifyInstance, certificate: CertificateFiles): void {
  const stop = certificate.watch(() => {
    try {
      certificate.reload(app.server as unknown as TlsServer);
      app.log.info("certificate: read anew");
    } catch (error) {
      app.log.error({ err: error }, "certificate: could not be read anew, the old one stays");
    }
  });
  app.addHook("onClose", async () => stop());
}

/**
 * When the server closes, what is under way is answered and its connection ended with it. Two kinds of connections would
 * keep it open: those that never had a request, as browsers open them ahead of need (to Node they are not idle), and
 * those whose request does not come to its end.
 */
function endConnectionsOnClose(app: FastifyInstance): void {
  const unused = new Set<Socket>();
  /** Connections that are to be secure and are not yet, by their other ends: to Node these are two sockets. */
  const handshaking = new Map<string, Socket>();
  let closing = false;
  const seen = new WeakSet<Socket>();
  const take = (socket: Socket): void => {
    // A connection comes again when an upgrade on it was not to be had.
    if (seen.has(socket)) return;
    seen.add(socket);
    unused.add(socket);
    socket.once("close", () => unused.delete(socket));
    if (closing) socket.destroy();
  };
  if (app.server instanceof TlsServer) {
    app.server.on("connection", (socket: Socket) => {
      const end = otherEnd(socket);
      handshaking.set(end, socket);
      socket.once("close", () => handshaking.delete(end));
      if (closing) socket.destroy();
    });
    app.server.on("secureConnection", (socket: Socket) => {
      handshaking.delete(otherEnd(socket));
      take(socket);
    });
  } else app.server.on("connection", take);
  app.addHook("onRequest", async ({ raw }) => void unused.delete(raw.socket));
  app.addHook("onSend", async (_request, reply) => {
    if (closing) void reply.header("connection", "close");
  });
  app.addHook("preClose", async () => {
    closing = true;
    for (const socket of [...unused, ...handshaking.values()]) socket.destroy();
    setTimeout(() => app.server.closeAllConnections(), UNDER_WAY).unref();
  });
}

function otherEnd({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

/** What is not even HTTP is answered as an error too, if it can be. */
function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  const { code = "" } = error;
  // What is not about HTTP is of the connection itself, as a handshake that does not come to its end.
  if (!/^(?:HPE_|ERR_HTTP_)/.test(code) || !socket.writable) return void socket.destroy();
  const status = { ERR_HTTP_REQUEST_TIMEOUT: 408, HPE_HEADER_OVERFLOW: 431 }[code] ?? 400;
  const answer = problem(status, "this is not a request that can be understood", "bad_request");
  const body = JSON.stringify(answer);
  socket.end(
    `HTTP/1.1 ${status} ${answer.title}\r\nContent-Type: application/problem+json\r\n` +
      `Content-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`,
  );
  // The other end may not close its half.
  setTimeout(() => socket.destroy(), ANSWER_WITHIN).unref();
}

/**
 * The process around the plugin: listens, logs, and ends in good order.
 * @throws {SettingsError} listening where others can reach it, without saying so
 */
export async function serve(settings: Settings): Promise<void> {
  const { listen } = settings;
  if (isPrivate(settings) && !isLoopback(listen.host)) throw openToOthers(listen.host);
  const keys = await loadKeys(settings);
  const { app, startup } = await createServer(settings, { keys });
  const reloads = settings.apiKeysFile !== undefined || settings.tlsCert !== undefined;
  if (reloads) process.on(RELOAD, () => void reload(app, settings, keys));
  const ignoreSignals = closeOnSignals(app, reloads ? RELOAD : undefined);
  try {
    await app.listen({ host: listen.host, port: listen.port, backlog: BACKLOG });
    warnOfWeakness(app, settings, keys);
    await told(app, startup, settings);
  } catch (error) {
    // A signal ends the process while the relay loads: nothing went wrong.
    if (startup.isStopped) return;
    ignoreSignals();
    await app.close();
    throw error;
  }
}

/**
 * Prints the address when the relay has loaded, or after `TELL_AFTER`; in that case also how far it is, until it has.
 * @throws what keeps it from loading
 */
async function told(app: FastifyInstance, startup: Startup, settings: Settings): Promise<void> {
  const began = performance.now();
  const say = (text: string): void => void process.stdout.write(`topic-relay ${text}\n`);
  const { address, family, port } = app.server.address() as AddressInfo;
  const host = family === "IPv6" ? `[${address}]` : address;
  const scheme = settings.tlsCert === undefined ? "http" : "https";
  const isLoaded = await within(TELL_AFTER, startup.loaded);
  say(`listening on ${scheme}://${host}:${port} (engine: ${engineOf(settings)})`);
  if (isLoaded) return;
  do say(startup.state);
  while (!(await within(TELL_AFTER, startup.loaded)));
  say(`ready after ${((performance.now() - began) / 1000).toFixed(1)} s`);
}

function openToOthers(host: string): SettingsError {
  return new SettingsError(
    `--listen: ${host} can be reached from other machines, and without keys anyone there could register and publish. ` +
      "There are two ways out:\n" +
      '  keys:    make one with "topic-relay keys new backend", and set it as RELAY_API_KEYS (or --api-keys-file)\n' +
      "  open:    say --insecure-open, when all who can reach it may use it",
  );
}

/** Reads again what is in files: keys and certificate. What can not be read stays as it is. */
async function reload(app: FastifyInstance, settings: Settings, keys: ApiKeys | undefined): Promise<void> {
  const reloads: [string, () => Promise<void> | void][] = [];
  const certificate = certificateOf(settings);
  if (keys) reloads.push(["keys", () => keys.reload()]);
  if (certificate) reloads.push(["certificate", () => certificate.reload(app.server as unknown as TlsServer)]);
  for (const [what, again] of reloads) {
    try {
      await again();
      if (what === "keys") warnOfWeakKeys(app.log, keys);
      app.log.info({ keys: keys?.all.map(({ name }) => name) }, `${what}: read anew`);
    } catch (error) {
      app.log.error({ err: error }, `${what}: could not be read anew, and stay as they are`);
    }
  }
}

function warnOfWeakKeys(log: FastifyBaseLogger, keys: ApiKeys | undefined): void {
  const weak = keys?.all.filter(({ strong }) => !strong).map(({ name }) => name) ?? [];
  if (weak.length > 0) log.warn({ keys: weak }, "keys with short secrets: make better ones with topic-relay keys new");
}

/** Loud, but no reason not to start. */
function warnOfWeakness({ log }: FastifyInstance, settings: Settings, keys: ApiKeys | undefined): void {
  if (!keys && settings.insecureOpen) log.warn("open to other machines without keys: anyone can register and publish");
  warnOfWeakKeys(log, keys);
  const { symmetricKeySize = STRONG_SECRET } = settings.jwtSecret ?? {};
  if (symmetricKeySize < STRONG_SECRET) {
    log.warn(`--jwt-secret has less than ${STRONG_SECRET} bytes: it can be found by trying, from any one token`);
  }
}

function engineOf({ engine, dataDir }: Settings): string {
  return engine === "memory" ? engine : `${engine} in ${dataDir}`;
}
