import type { FastifyInstance } from "fastify";

/** `/health`: the process is alive. */
export function healthRoutes(app: FastifyInstance): void {
  app.get("/health", async () => ({ status: "ok" }));
}
