import { createHash } from "node:crypto";
import type { FastifyInstance } from "fastify";
import { page, script, style } from "../console/page.js";

function hash(text: string): string {
  return `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
}

const POLICY = [
  "default-src 'none'",
  `script-src ${hash(script)}`,
  `style-src ${hash(style)}`,
  "connect-src 'self' ws: wss:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** `/`: a page to try the relay with. */
export function consoleRoutes(app: FastifyInstance): void {
  app.get("/", async (_request, reply) => {
    void reply.headers({ "content-security-policy": POLICY, "x-content-type-options": "nosniff" });
    return reply.type("text/html; charset=utf-8").send(page);
  });
}
