import type { FastifyInstance } from "fastify";
import { Metrics } from "../metrics.js";
import { type Context, noStore } from "./context.js";

/** `/health`: the process is alive; `/metrics`: what there is to count. */
export function healthRoutes(app: FastifyInstance, { metrics }: Context): void {
  app.get("/health", { config: { access: { scope: "none" } } }, async (_request, reply) => {
    noStore(reply);
    return { status: "ok" };
  });

  app.get("/metrics", { config: { access: { scope: "admin" } } }, async (_request, reply) => {
    return reply.type(Metrics.contentType).send(await metrics.text());
  });
}
