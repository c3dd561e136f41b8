import { STATUS_CODES } from "node:http";
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from "fastify";
import { type ErrorCode, isRelayError, type LimitName, RelayError } from "../core/errors.js";
import type { Observer } from "../core/observer.js";
import type { FieldError, Problem, ProblemCode } from "../protocol.js";

const STATUS: Record<ErrorCode, number> = {
  bad_request: 400,
  forbidden: 403,
  not_found: 404,
  too_large: 413,
  idempotency_key_reused: 422,
  too_many: 429,
  unavailable: 503,
};

/** Codes for what HTTP itself or the server finds wrong. */
const CODES: Record<number, ProblemCode> = {
  400: "bad_request",
  401: "unauthorized",
  403: "forbidden",
  404: "not_found",
  405: "method_not_allowed",
  413: "too_large",
  415: "unsupported_media_type",
  426: "upgrade_required",
  429: "too_many",
  503: "unavailable",
};

/** Whether a route is for all paths: there is one, by which preflights have a route. */
export function isAnyPath(path: string | undefined): boolean {
  return path?.endsWith("*") === true;
}

/** Seconds after which `too_many` and `unavailable` are worth trying again, when nothing better is known. */
const RETRY_AFTER = 1;

/** Input that does not fit: which fields, and why. */
export class InvalidInput extends RelayError {
  /** @param limit the one that was reached, if it was one */
  constructor(
    readonly errors: readonly FieldError[],
    limit?: LimitName,
  ) {
    const text = errors.map(({ path, message }) => (path ? `${path}: ${message}` : message)).join("; ");
    super("bad_request", text, limit && { limit });
  }

  /** The same with so many of the errors at most. */
  shortened(most: number): InvalidInput {
    return this.errors.length <= most ? this : new InvalidInput(this.errors.slice(0, most), this.limit);
  }
}

/** An error that only HTTP has. */
export class HttpError extends Error {
  constructor(
    readonly statusCode: number,
    message: string,
    readonly headers: Record<string, string> = {},
  ) {
    super(message);
  }
}

export function problem(status: number, detail: string, code: ProblemCode): Problem {
  return { type: "about:blank", title: STATUS_CODES[status] ?? "Error", status, detail, code };
}

/** What a caller is told of an error. What is not the caller's doing is not told. */
export function problemOf(error: unknown): Problem {
  if (error instanceof InvalidInput) {
    return { ...problem(400, error.message, error.code), errors: [...error.errors] };
  }
  if (isRelayError(error)) return problem(STATUS[error.code], error.message, error.code);
  const { statusCode: status, message, code } = error as Partial<FastifyError>;
  // Fastify's own words repeat the path, which may have a client's id in it.
  if (code === "FST_ERR_BAD_URL")
    return problemOf(new HttpError(400, "the path is not percent-encoded as it has to be"));
  if (code === "FST_ERR_MAX_PARAM_LENGTH") return problemOf(new HttpError(414, "the path is too long"));
  if (code === "FST_ERR_CTP_INVALID_MEDIA_TYPE")
    return problemOf(new HttpError(415, "send content-type: application/json"));
  if (status === undefined || status < 400 || status >= 500) {
    return problem(500, "something went wrong in the relay", "internal");
  }
  return problem(status, message ?? "", CODES[status] ?? "bad_request");
}

export function sendProblem(reply: FastifyReply, error: unknown): FastifyReply {
  const answer = problemOf(error);
  if (answer.status === 429 || answer.status === 503) {
    const known = isRelayError(error) ? error.retryAfter : undefined;
    void reply.header("retry-after", known ?? RETRY_AFTER);
  }
  if (error instanceof HttpError) void reply.headers(error.headers);
  void reply.header("cache-control", "no-store");
  return reply.code(answer.status).type("application/problem+json").send(answer);
}

/** Tells of the limit that an error is because of, if it is. */
export function tellLimit(observer: Observer, error: unknown): void {
  const limit = limitOf(error);
  if (limit) observer.hears("limit.reached")?.({ limit });
}

function limitOf(error: unknown): LimitName | undefined {
  if (isRelayError(error)) return error.limit;
  return (error as Partial<FastifyError>).code === "FST_ERR_CTP_BODY_TOO_LARGE" ? "body_bytes" : undefined;
}

/**
 * @param closed refuses a WebSocket by a close code; false: the client gets the answer
 */
export function errorHandler(
  observer: Observer,
  closed: (request: FastifyRequest, reply: FastifyReply, answer: Problem) => boolean,
) {
  return (error: unknown, request: FastifyRequest, reply: FastifyReply): void => {
    const answer = problemOf(error);
    if (answer.status === 500) request.log.error({ err: error }, "request failed");
    tellLimit(observer, error);
    if (!closed(request, reply, answer)) void sendProblem(reply, error);
  };
}

/** Answers 405 with `Allow` on every route that is added from now on, for the methods that it does not have. */
export function answerOtherMethods(app: FastifyInstance): () => void {
  const routes = new Map<string, { known: Set<string>; config: RouteOptions["config"] }>();
  app.addHook("onRoute", ({ url, method, config }: RouteOptions) => {
    const path = url.slice(app.prefix.length) || "/";
    const { known } = routes.get(path) ?? { known: new Set() };
    for (const name of [method].flat()) known.add(name);
    if (!isAnyPath(path)) routes.set(path, { known, config });
  });
  return () => {
    const paths = [...routes];
    for (const [url, { known, config }] of paths) {
      const method = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].filter((name) => !known.has(name));
      const allow = [...known].sort().join(", ");
      app.route({
        method,
        url,
        exposeHeadRoute: false,
        // Who may not use the path is not told more of it.
        ...(config && { config }),
        // Before the body is looked at: its type does not matter.
        onRequest: async (request) => {
          throw new HttpError(405, `${request.method} is not for this path: use ${allow}`, { allow });
        },
        handler: async () => undefined,
      });
    }
  };
}
