import type { AddressInfo } from "node:net";
import closeWithGrace from "close-with-grace";
import Fastify, { type FastifyInstance, LogController } from "fastify";
import { isLoopback, type Settings, SettingsError } from "./config.js";
import { topicRelay } from "./plugin.js";
import { handleNotFound, sendProblem } from "./routes/problems.js";

/** Milliseconds in which a process that was told to stop has to be gone. */
const GRACE = 10_000;

/** Milliseconds for a request to arrive whole. */
const REQUEST_TIMEOUT = 60_000;

/** The process around the plugin: listens, logs, and ends in good order. */
export async function serve(settings: Settings): Promise<FastifyInstance> {
  const { listen, ...options } = settings;
  if (!isLoopback(listen.host) && !settings.insecureOpen) {
    throw new SettingsError(
      `--listen: ${listen.host} can be reached from other machines, and anyone there could register and publish. ` +
        "Listen on 127.0.0.1, or say --insecure-open.",
    );
  }
  const app = Fastify({
    logger: { level: settings.logLevel, stream: process.stderr },
    // Two lines for each request would be the most work that a publish makes.
    logController: new LogController({ disableRequestLogging: true }),
    trustProxy: settings.trustProxy,
    requestTimeout: REQUEST_TIMEOUT,
    frameworkErrors: (error, _request, reply) => void sendProblem(reply, error),
  });
  app.setNotFoundHandler(handleNotFound);
  await app.register(topicRelay, options);
  await app.listen({ host: listen.host, port: listen.port });
  if (!isLoopback(listen.host)) app.log.warn("open to other machines without keys: anyone can register and publish");
  closeWithGrace({ delay: GRACE, logger: app.log }, async ({ signal, err }) => {
    if (err) app.log.error({ err }, "ending after an error");
    else app.log.info({ signal }, "ending");
    await app.close();
  });
  const { address, family, port } = app.server.address() as AddressInfo;
  const host = family === "IPv6" ? `[${address}]` : address;
  process.stdout.write(`topic-relay listening on http://${host}:${port} (engine: ${settings.engine})\n`);
  return app;
}
