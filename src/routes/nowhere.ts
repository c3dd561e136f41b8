import type { IncomingMessage, ServerResponse } from "node:http";
import type { FastifyError, FastifyReply, FastifyRequest } from "fastify";
import { HttpError, isAnyPath } from "./problems.js";

/** A path without a route. */
const NOWHERE = "/.nowhere";

/** What is wrong with the path of a request, where Fastify could not read it. */
const badPaths = new WeakMap<IncomingMessage, FastifyError>();

/**
 * Fastify runs no hooks for a path that it can not read (percent-encoding, length). Routes such a request again, as one
 * for a path where there is nothing: then it passes the same hooks as all others.
 */
export function routeBadPath(route: (request: IncomingMessage, response: ServerResponse) => void) {
  return (error: FastifyError, { raw }: FastifyRequest, reply: FastifyReply): void => {
    badPaths.set(raw, error);
    raw.url = NOWHERE;
    route(raw, reply.raw);
  };
}

/** Refuses requests for paths where there is nothing, before the body is looked at: its type does not matter. */
export function refuseNowhere({ is404, routeOptions, raw }: FastifyRequest): void {
  // The path is not repeated: it may have a client's id in it.
  if (is404 || isAnyPath(routeOptions.url))
    throw badPaths.get(raw) ?? new HttpError(404, "there is nothing at this path");
}
