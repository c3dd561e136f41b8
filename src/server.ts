import { lookup } from "node:dns/promises";
import { maxHeaderSize, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Writable } from "node:stream";
import type { Server as TlsServer } from "node:tls";
import Fastify, { type FastifyInstance, type FastifyServerOptions, LogController } from "fastify";
import { isPrivate, type Settings, SettingsError } from "./config.js";
import type { Engine } from "./core/engine.js";
import { within } from "./core/within.js";
import { ConnectionGuard, HEAD_WITHIN } from "./guard.js";
import { loggedObserver } from "./logging.js";
import { addRelay, loadKeys } from "./plugin.js";
import { refuseNowhere, routeBadPath } from "./routes/nowhere.js";
import { problem } from "./routes/problems.js";
import { closeOnSignals } from "./shutdown.js";
import type { Startup } from "./startup.js";
import { CertificateFiles } from "./tls.js";
import { isLoopback } from "./trust/hosts.js";
import type { ApiKeys } from "./trust/keys.js";
import { warnOfWeakKeys, warnOfWeakness } from "./warnings.js";

/**
 * Connections that may wait to be taken: as many as the system allows. When thousands come back at once, those that are
 * too many for Node's own 511 would try again after a second.
 */
const BACKLOG = 65_535;

/** Characters of a path's parameter: a user id of 128, percent-encoded. */
const MAX_PARAM = 128 * 12;

/** Milliseconds for an answer to arrive at somebody who does not speak HTTP, before the connection is cut. */
const ANSWER_WITHIN = 1000;

/** Milliseconds for a request's head; of the first one on a connection see `HEAD_WITHIN`. */
const HEADERS_WITHIN = 60_000;

/** Milliseconds between two looks for requests that do not arrive. */
const CHECK_EVERY = 5000;

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
  const { requestTimeout, trustProxy, maxConnections } = settings;
  const headWithin = Math.min(HEAD_WITHIN, requestTimeout);
  const timeouts = {
    headersTimeout: Math.min(HEADERS_WITHIN, requestTimeout),
    connectionsCheckingInterval: Math.min(CHECK_EVERY, requestTimeout / 2),
  };
  const certificate = certificateOf(settings);
  const app: FastifyInstance = Fastify({
    logger: { level: settings.logLevel, stream: given.logTo ?? process.stderr },
    // Two lines for each request would be the most work that a publish makes.
    logController: new LogController({ disableRequestLogging: true }),
    // One proxy, the other end of the connection: what others before it say of themselves, anybody could have said.
    trustProxy: trustProxy && ((_address: string, hop: number) => hop === 0),
    requestTimeout,
    // The relay itself says that it ends, as a problem like all others.
    return503OnClosing: false,
    http: timeouts,
    ...(certificate && {
      https: { allowHalfOpen: true, ...certificate.read(), ...timeouts, handshakeTimeout: headWithin },
    }),
    routerOptions: { maxParamLength: MAX_PARAM },
    clientErrorHandler: (error: NodeJS.ErrnoException, socket: Socket) => {
      // It would be taken for the answer to an earlier request that is under way.
      if (isReceiving(socket)) answerClientError(error, socket);
      else guard.whenAnswered(socket, () => answerClientError(error, socket));
    },
    frameworkErrors: routeBadPath((request, response) => app.routing(request, response)),
  } as FastifyServerOptions);
  const observer = loggedObserver(app.log);
  const perAddress = trustProxy ? undefined : maxConnections;
  const guarded = { isPrivate: isPrivate(settings), perAddress, patience: headWithin, observer };
  const guard = new ConnectionGuard(app.server, guarded);
  guard.endOnClose(app);
  if (certificate) reloadCertificate(app, certificate);
  let startup: Startup | undefined;
  await app.register(async (scope) => {
    const refused = guard.handBack.bind(guard);
    ({ startup } = await addRelay(scope, { settings, keys, engine: given.engine, observer, refused }));
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

/** Whether the request that is answered next on a connection has not come whole yet. */
function isReceiving(socket: Socket): boolean {
  const { _httpMessage: answer } = socket as { _httpMessage?: ServerResponse | null };
  return answer !== null && answer !== undefined && !answer.req.complete && !answer.headersSent;
}

/** What Node finds wrong with a request that is HTTP. */
const DETAILS: Record<number, string> = {
  408: "the request did not arrive whole in time",
  431: `the URL and the headers are too large: together they may have ${maxHeaderSize} bytes`,
};

/** What is not even HTTP is answered as an error too, if it can be. */
function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  const { code = "" } = error;
  // What is not about HTTP is of the connection itself, as a handshake that does not come to its end.
  if (!/^(?:HPE_|ERR_HTTP_)/.test(code) || !socket.writable) return void socket.destroy();
  const status = { ERR_HTTP_REQUEST_TIMEOUT: 408, HPE_HEADER_OVERFLOW: 431 }[code] ?? 400;
  const detail = DETAILS[status] ?? "this is not a request that can be understood";
  const answer = problem(status, detail, "bad_request");
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
    // Of several addresses Fastify would make a server each, without what the first one has.
    const host =
      listen.host === "localhost" ? (await lookup(listen.host, { order: "ipv4first" })).address : listen.host;
    await app.listen({ host, port: listen.port, backlog: BACKLOG });
    warnOfWeakness(app.log, settings, keys);
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

function engineOf({ engine, dataDir }: Settings): string {
  return engine === "memory" ? engine : `${engine} in ${dataDir}`;
}
