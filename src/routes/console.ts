import helmet from "@fastify/helmet";
import { createHash } from "node:crypto";
import type { FastifyInstance } from "fastify";
import { page, script, style } from "../console/page.js";
import { CHALLENGE, keyOf, unauthorized } from "./access.js";
import type { Context } from "./context.js";

function hash(text: string): string {
  return `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
}

/** Nothing but the page's own script and style, and the relay itself. */
const DIRECTIVES = {
  "default-src": ["'none'"],
  "script-src": [hash(script)],
  "style-src": [hash(style)],
  "img-src": ["data:"],
  "connect-src": ["'self'", "ws:", "wss:"],
  "base-uri": ["'none'"],
  "form-action": ["'none'"],
  "frame-ancestors": ["'none'"],
};

/** `/`: a page to try the relay with. */
export async function consoleRoutes(app: FastifyInstance, { keys }: Context): Promise<void> {
  await app.register(async (scope) => {
    await scope.register(helmet, {
      contentSecurityPolicy: { useDefaults: false, directives: DIRECTIVES },
      // For the operator to say: it outlives a certificate.
      strictTransportSecurity: false,
    });

    scope.get("/", { config: { access: { scope: "none" } } }, async (request, reply) => {
      if (keys && !keyOf(request)) {
        // A browser can send no key with a page that it opens: the page is what asks for one.
        if (!/text\/html/i.test(request.headers.accept ?? "")) throw unauthorized(request, "a key");
        void reply.code(401).headers(CHALLENGE);
      }
      return reply.type("text/html; charset=utf-8").header("cache-control", "no-store").send(page);
    });
  });
}
