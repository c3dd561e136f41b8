import type { AddressInfo, Socket } from "node:net";
import type { Writable } from "node:stream";
import closeWithGrace from "close-with-grace";
import Fastify, { type FastifyInstance, LogController } from "fastify";
import { isLoopback, type Settings, SettingsError } from "./config.js";
import { topicRelay } from "./plugin.js";
import { handleNotFound, problem, sendProblem } from "./routes/problems.js";
import { endRefusedUpgrade } from "./routes/upgrades.js";

/** Milliseconds for a request that is under way when the server closes. */
const UNDER_WAY = 5000;

/** Milliseconds in which a process that was told to stop has to be gone. */
const GRACE = 10_000;

/**
 * Connections that may wait to be taken: as many as the system allows. When thousands come back at once, those that are
 * too many for Node's own 511 would try again after a second.
 */
const BACKLOG = 65_535;

/** Characters of a path's parameter: a user id of 128, percent-encoded. */
const MAX_PARAM = 128 * 12;

/** Milliseconds for a request to arrive whole. */
const REQUEST_TIMEOUT = 60_000;

/** A server with nothing but the relay. */
export async function createServer(settings: Settings, logTo: Writable = process.stderr): Promise<FastifyInstance> {
  const { listen: _, ...options } = settings;
  const app = Fastify({
    logger: { level: settings.logLevel, stream: logTo },
    // Two lines for each request would be the most work that a publish makes.
    logController: new LogController({ disableRequestLogging: true }),
    trustProxy: settings.trustProxy,
    requestTimeout: REQUEST_TIMEOUT,
    routerOptions: { maxParamLength: MAX_PARAM },
    clientErrorHandler: answerClientError,
    frameworkErrors: (error, _request, reply) => void sendProblem(reply, error),
  });
  app.setNotFoundHandler(handleNotFound);
  app.addHook("onResponse", endRefusedUpgrade);
  endConnectionsOnClose(app);
  await app.register(topicRelay, options);
  return app;
}

/**
 * When the server closes, what is under way is answered and its connection ended with it. Two kinds of connections would
 * keep it open: those that never had a request, as browsers open them ahead of need (to Node they are not idle), and
 * those whose request does not come to its end.
 */
function endConnectionsOnClose(app: FastifyInstance): void {
  const unused = new Set<Socket>();
  let closing = false;
  const seen = new WeakSet<Socket>();
  app.server.on("connection", (socket: Socket) => {
    // A connection comes again when an upgrade on it was not to be had.
    if (seen.has(socket)) return;
    seen.add(socket);
    unused.add(socket);
    socket.once("close", () => unused.delete(socket));
    if (closing) socket.destroy();
  });
  app.addHook("onRequest", async ({ raw }) => void unused.delete(raw.socket));
  app.addHook("onSend", async (_request, reply) => {
    if (closing) void reply.header("connection", "close");
  });
  app.addHook("preClose", async () => {
    closing = true;
    for (const socket of unused) socket.destroy();
    setTimeout(() => app.server.closeAllConnections(), UNDER_WAY).unref();
  });
}

/** What is not even HTTP is answered as an error too, if it can be. */
function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  const status = { ERR_HTTP_REQUEST_TIMEOUT: 408, HPE_HEADER_OVERFLOW: 431 }[error.code ?? ""] ?? 400;
  if (error.code === "ECONNRESET" || !socket.writable) return void socket.destroy();
  const answer = problem(status, "this is not a request that can be understood", "bad_request");
  const body = JSON.stringify(answer);
  socket.end(
    `HTTP/1.1 ${status} ${answer.title}\r\nContent-Type: application/problem+json\r\n` +
      `Content-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`,
  );
}

/**
 * The process around the plugin: listens, logs, and ends in good order.
 * @throws {SettingsError} listening where others can reach it, without saying so
 */
export async function serve(settings: Settings): Promise<FastifyInstance> {
  const { listen } = settings;
  if (!isLoopback(listen.host) && !settings.insecureOpen) {
    throw new SettingsError(
      `--listen: ${listen.host} can be reached from other machines, and anyone there could register and publish. ` +
        "Listen on 127.0.0.1, or say --insecure-open.",
    );
  }
  const app = await createServer(settings);
  await app.listen({ host: listen.host, port: listen.port, backlog: BACKLOG });
  if (!isLoopback(listen.host)) app.log.warn("open to other machines without keys: anyone can register and publish");
  closeWithGrace({ delay: GRACE, logger: app.log }, async ({ signal, err }) => {
    if (err) app.log.error({ err }, "ending after an error");
    else app.log.info({ signal }, "ending");
    await app.close();
  });
  const { address, family, port } = app.server.address() as AddressInfo;
  const host = family === "IPv6" ? `[${address}]` : address;
  process.stdout.write(`topic-relay listening on http://${host}:${port} (engine: ${engineOf(settings)})\n`);
  return app;
}

function engineOf({ engine, dataDir }: Settings): string {
  return engine === "memory" ? engine : `${engine} in ${dataDir}`;
}
