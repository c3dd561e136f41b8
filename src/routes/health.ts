import type { FastifyInstance, FastifyRequest } from "fastify";
import { isRelayError, RelayError } from "../core/errors.js";
import { within } from "../core/within.js";
import { Metrics } from "../metrics.js";
import type { Health, Readiness } from "../protocol.js";
import type { Startup } from "../startup.js";
import { type Context, noStore } from "./context.js";

/** Milliseconds for which a check of the engine is believed: whoever asks more often costs nothing. */
const BELIEVED = 1000;

/** Milliseconds that the engine may take to keep something. */
const PROBE_WITHIN = 2000;

declare module "fastify" {
  interface FastifyContextConfig {
    /** The route answers while the relay loads. */
    whileLoading?: true;
  }
}

/**
 * Nothing is known before the relay has loaded: to answer 404 would tell clients that they were removed. While it ends,
 * nothing new begins.
 */
export function refuseUnlessReady(startup: Startup) {
  return ({ routeOptions }: FastifyRequest): void => {
    const { refusal } = startup;
    if (refusal && !routeOptions.config.whileLoading) throw refusal;
  };
}

/** `/health`: the process is alive; `/ready`: the relay can be used; `/metrics`: what there is to count. */
export function healthRoutes(app: FastifyInstance, { metrics, startup }: Context): void {
  const open = { access: { scope: "none" }, whileLoading: true } as const;

  app.get("/health", { config: open }, async (_request, reply) => {
    noStore(reply);
    return { status: "ok" } satisfies Health;
  });

  const engine = new EngineCheck(startup);
  app.get("/ready", { config: open }, async (_request, reply) => {
    noStore(reply);
    const { refusal } = startup;
    if (refusal) throw refusal;
    await engine.check();
    return { status: "ready" } satisfies Readiness;
  });

  app.get("/metrics", { config: { access: { scope: "admin" } } }, async (_request, reply) => {
    return reply.type(Metrics.contentType).send(await metrics.text());
  });
}

/** Whether the engine can keep what it is given, looked at once a second at most. */
class EngineCheck {
  private checked: Promise<void> | undefined;

  constructor(private readonly startup: Startup) {}

  /** @throws {RelayError} unavailable: it can not, or not in time */
  async check(): Promise<void> {
    if (!this.checked) {
      this.checked = this.probe();
      void this.checked
        .catch(() => undefined)
        .then(() => setTimeout(() => (this.checked = undefined), BELIEVED).unref());
    }
    await this.checked;
  }

  private async probe(): Promise<void> {
    try {
      if (await within(PROBE_WITHIN, this.startup.relay.probe())) return;
    } catch (error) {
      if (!isRelayError(error)) throw error;
      throw notReady(error.message, error);
    }
    throw notReady(`it did not keep anything within ${PROBE_WITHIN / 1000} seconds`);
  }
}

function notReady(why: string, cause?: unknown): RelayError {
  return new RelayError("unavailable", `the relay is not ready: engine: ${why}`, { cause });
}
