import type { FastifyRequest } from "fastify";
import { type ApiKey, type ApiKeys, type Scope } from "../trust/keys.js";
import { KeysUnavailable, TokenExpired, TokenFault, type TokenVerifier } from "../trust/tokens.js";
import { RelayError } from "../core/errors.js";
import { type Claims, claims, type UserId } from "../protocol.js";
import type { Attempts } from "./attempts.js";
import { HttpError, InvalidInput, isAnyPath } from "./problems.js";
import { check } from "./schemas.js";

/** What a route asks of its callers; in the config of each. Where it says nothing, it is for `admin`. */
export interface Access {
  /**
   * The scope that a key needs. `any`: a key of whatever scope. `none`: no key; the URL itself is secret, or nothing is.
   * `token`: no key will do, only a token.
   */
  readonly scope?: Scope | "any" | "none" | "token";
  /** Whether a token (JWT) is as good as a key. */
  readonly token?: true;
}

declare module "fastify" {
  interface FastifyContextConfig {
    access?: Access;
  }
}

/** The client that a token speaks of. */
interface TokenClaims extends Pick<Claims, "topics" | "allow"> {
  readonly userId: UserId;
  /** Unix milliseconds; absent: the token does not expire. */
  readonly until: number | undefined;
}

/** Those whose key or token was found good. */
const keys = new WeakMap<FastifyRequest, ApiKey>();
const tokens = new WeakMap<FastifyRequest, TokenClaims>();

/** Those whose key may not be checked now, and why. */
const unchecked = new WeakMap<FastifyRequest, RelayError>();

/** The key that a request came with; undefined in the open mode, and where none is needed. */
export function keyOf(request: FastifyRequest): ApiKey | undefined {
  return keys.get(request);
}

/** What the token says that a request came with. */
export function tokenOf(request: FastifyRequest): TokenClaims | undefined {
  return tokens.get(request);
}

/** Finds out who calls. Refuses nobody yet, so that limits can know it. */
export function identify(known: ApiKeys, attempts: Attempts) {
  return (request: FastifyRequest): void => {
    const secret = bearerOf(request);
    if (secret === undefined) return;
    // Whether there is a key takes equally long to find out, and does not show where it is refused.
    const key = known.find(secret);
    const refusal = attempts.refusal(request, key?.digest);
    if (refusal) unchecked.set(request, refusal);
    else if (key) {
      attempts.passed(request, key.digest);
      keys.set(request, key);
    } else if (!accessOf(request).token || !isJwt(secret)) attempts.failed(request, "key");
  };
}

/**
 * Refuses those who may not do what they ask for.
 * @param known absent: the relay is open, and needs no key
 * @param verify absent: no tokens are known
 */
export function authorize(known: ApiKeys | undefined, verify: TokenVerifier | undefined, attempts: Attempts) {
  return (request: FastifyRequest): Promise<void> | void => {
    const jwt = accessOf(request).token && jwtOf(request);
    if (jwt === undefined) return checkKey(request, known);
    return checkToken(request, jwt, verify, attempts);
  };
}

/** Looks at the key again: it may have been removed while the body came in. */
export function authorizeAgain(known: ApiKeys) {
  return async (request: FastifyRequest): Promise<void> => {
    const key = keys.get(request);
    if (!key || tokens.has(request)) return;
    const now = known.current(key);
    if (now) keys.set(request, now);
    else keys.delete(request);
    checkKey(request, known);
  };
}

/** What the route asks for. Where there is nothing, any key will do to be told so. */
function accessOf({ routeOptions, is404 }: FastifyRequest): Access & { readonly scope: NonNullable<Access["scope"]> } {
  const { scope = is404 || isAnyPath(routeOptions.url) ? "any" : "admin", token } = routeOptions.config.access ?? {};
  return { scope, ...(token && { token }) };
}

function checkKey(request: FastifyRequest, known: ApiKeys | undefined): void {
  const { scope, token } = accessOf(request);
  if (scope === "token") throw unauthorized(request, "a token");
  if (!known || scope === "none") return;
  const key = keys.get(request);
  if (!key) throw unauthorized(request, token ? "a key or a token" : "a key");
  if (scope === "any" || key.scopes.has(scope)) return;
  throw new HttpError(403, `the key ${key.name} may not do this: it lacks the scope ${scope}`, {
    "www-authenticate": `Bearer realm="topic-relay", error="insufficient_scope", scope="${scope}"`,
  });
}

/** RFC 6750 section 3: what was not sent is asked for; what was sent and is no good is called so. */
export function unauthorized(request: FastifyRequest, wanted: string): Error {
  const refusal = unchecked.get(request);
  if (refusal) return refusal;
  if (bearerOf(request) === undefined) {
    const otherwise = accessOf(request).token ? ", or a token as ?token=TOKEN" : "";
    return new HttpError(401, `this needs ${wanted}: send Authorization: Bearer SECRET${otherwise}`, CHALLENGE);
  }
  return new HttpError(401, `this needs ${wanted}: the one that was sent is not known here`, INVALID);
}

export const CHALLENGE = { "www-authenticate": 'Bearer realm="topic-relay"' };
const INVALID = { "www-authenticate": 'Bearer realm="topic-relay", error="invalid_token"' };

function bearerOf({ headers }: FastifyRequest): string | undefined {
  return /^bearer +(\S+) *$/i.exec(headers.authorization ?? "")?.[1];
}

/** A token is in the query, as browsers can send no headers with a WebSocket; or is what a key would be, with dots. */
function jwtOf(request: FastifyRequest): string | undefined {
  const { token } = request.query as { token?: unknown };
  if (token === undefined) {
    const bearer = keys.has(request) ? undefined : bearerOf(request);
    return bearer !== undefined && isJwt(bearer) ? bearer : undefined;
  }
  if (typeof token === "string") return token;
  throw new HttpError(401, "there is more than one token", INVALID);
}

function isJwt(secret: string): boolean {
  return secret.split(".").length === 3;
}

async function checkToken(
  request: FastifyRequest,
  jwt: string,
  verify: TokenVerifier | undefined,
  attempts: Attempts,
): Promise<void> {
  try {
    tokens.set(request, await claimsOf(jwt, verify));
  } catch (error) {
    if (error instanceof KeysUnavailable) {
      // Without a cause it was not asked for anew: not each token is a line of the log.
      if (error.cause !== undefined) request.log.warn({ err: error }, error.message);
      throw new RelayError("unavailable", error.message, { cause: error });
    }
    // One that has expired is no guess: many clients may come back with theirs at once.
    if (!(error instanceof TokenExpired)) attempts.failed(request, "token");
    if (error instanceof TokenFault) throw new HttpError(401, error.message, INVALID);
    if (error instanceof InvalidInput) throw new HttpError(401, `the token's ${error.message}`, INVALID);
    throw error;
  }
}

async function claimsOf(jwt: string, verify: TokenVerifier | undefined): Promise<TokenClaims> {
  if (!verify) throw new TokenFault("this relay knows no tokens: see --jwt-secret and --jwks-url");
  const { sub: userId, exp, topics, allow } = check(claims, await verify(jwt));
  const until = exp === undefined ? undefined : exp * 1000;
  // To the library, a second that has begun is not over.
  if (until !== undefined && until <= Date.now()) throw new TokenExpired("the token has expired");
  return { userId, until, topics, allow };
}
