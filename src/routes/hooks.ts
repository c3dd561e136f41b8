import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { isPrivate } from "../config.js";
import { tokenVerifier } from "../trust/tokens.js";
import { authorize, authorizeAgain, identify } from "./access.js";
import { Attempts } from "./attempts.js";
import type { Context } from "./context.js";
import { refuseWhileLoading } from "./health.js";
import { limitRequests } from "./limits.js";
import { refuseNowhere } from "./nowhere.js";
import { allowPages, answerPreflight, checkSource } from "./origins.js";
import { checkUpgrade, endRefusedUpgrade } from "./upgrades.js";

/** Refuses a request by throwing, answers it, or lets it through. */
type Hook = (request: FastifyRequest, reply: FastifyReply) => void | Promise<void>;

/**
 * What every request passes before its route, in this order: also one for no route (404), for another method (405), with
 * a path that can not be read, a preflight, an upgrade.
 */
export function addHooks(app: FastifyInstance, { startup, settings, keys, metrics }: Context): void {
  const attempts = new Attempts(metrics, !isPrivate(settings));
  const hooks: readonly (Hook | undefined)[] = [
    // First, as a browser carries requests of any site here: they use up no limit of the one who browses.
    checkSource(settings),
    // Before all that refuses: a page can read why, and when to come back.
    allowPages(settings),
    // Limits depend on who calls.
    keys && identify(keys, attempts),
    // Before all that tells something or costs more.
    isPrivate(settings) ? undefined : limitRequests(settings),
    // A browser sends no key with a preflight, and takes only 2xx for a yes.
    answerPreflight,
    // Without its keys and clients loaded, the relay can not tell what there is.
    refuseWhileLoading(startup),
    checkUpgrade,
    authorize(keys, tokenVerifier(settings), attempts),
    // Last: what there is and what not is told only to those who may know.
    refuseNowhere,
  ];
  const inOrder = hooks.filter((hook) => hook !== undefined);
  // One hook of Fastify's: it waits a turn of the microtasks after each.
  app.addHook("onRequest", async (request, reply) => {
    for (const hook of inOrder) {
      const pending = hook(request, reply);
      if (pending) await pending;
      if (reply.sent) return;
    }
  });
  if (keys) app.addHook("preHandler", authorizeAgain(keys));
  app.addHook("onResponse", endRefusedUpgrade);
}
