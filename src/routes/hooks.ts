import cors from "@fastify/cors";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { isPrivate } from "../config.js";
import { tokenVerifier } from "../trust/tokens.js";
import { authorize, authorizeAgain, identify } from "./access.js";
import { Attempts } from "./attempts.js";
import type { Context } from "./context.js";
import { refuseUnlessReady } from "./health.js";
import { limitRequests } from "./limits.js";
import { refuseNowhere } from "./nowhere.js";
import { answerPreflight, checkSource, isAllowedOrigin } from "./origins.js";
import { checkUpgrade, countUpgrade, endRefusedUpgrade } from "./upgrades.js";

/** Refuses a request by throwing, answers it, or lets it through. */
type Hook = (request: FastifyRequest, reply: FastifyReply) => void | Promise<void>;

/**
 * What every request passes before its route, in this order: also one for no route (404), for another method (405), with
 * a path that can not be read, a preflight, an upgrade.
 */
export async function addHooks(
  app: FastifyInstance,
  { startup, settings, limits, keys, observer }: Context,
): Promise<void> {
  const attempts = new Attempts(observer, !isPrivate(settings));
  // Before all that refuses: a page can read why, and when to come back. (But for preflights, of which it sees nothing.)
  await app.register(cors, {
    origin: (origin, allow) => {
      allow(null, origin !== undefined && isAllowedOrigin(origin, settings.allowedOrigins));
    },
    methods: ["GET", "POST", "PATCH", "DELETE"],
    exposedHeaders: ["Relay-Gap", "Retry-After"],
    strictPreflight: false,
    preflightContinue: true,
  });
  addInOrder(
    app,
    // Limits depend on who calls.
    keys && identify(keys, attempts),
    // Before all that tells something or costs more.
    isPrivate(settings) ? undefined : limitRequests(settings),
    // A browser carries requests of any site here.
    checkSource(settings),
    // A browser sends no key with a preflight, and takes only 2xx for a yes.
    answerPreflight,
    // Without its keys and clients loaded, the relay can not tell what there is.
    refuseUnlessReady(startup),
    checkUpgrade,
    authorize(keys, tokenVerifier(settings), attempts),
    // Who may not connect takes no connection from others of the same address.
    countUpgrade(limits),
    // Last: what there is and what not is told only to those who may know.
    refuseNowhere,
  );
  if (keys) app.addHook("preHandler", authorizeAgain(keys));
  app.addHook("onResponse", endRefusedUpgrade);
}

/** As one hook of Fastify's, which waits a turn of the microtasks after each. */
function addInOrder(app: FastifyInstance, ...hooks: readonly (Hook | undefined)[]): void {
  const inOrder = hooks.filter((hook) => hook !== undefined);
  app.addHook("onRequest", async (request, reply) => {
    for (const hook of inOrder) {
      const pending = hook(request, reply);
      if (pending) await pending;
      if (reply.sent) return;
    }
  });
}
