import type { FastifyRequest } from "fastify";
import type { ApiKey, ApiKeys, Scope } from "../trust/keys.js";
import { KeysUnavailable, TokenFault, type TokenVerifier } from "../trust/tokens.js";
import { RelayError } from "../core/errors.js";
import { HttpError, InvalidInput } from "./problems.js";
import { check, type TokenClaims, tokenClaims } from "./schemas.js";

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

/** Those whose key or token was found good. */
const keys = new WeakMap<FastifyRequest, ApiKey>();
const tokens = new WeakMap<FastifyRequest, TokenClaims>();

/** The key that a request came with; undefined in the open mode, and where none is needed. */
export function keyOf(request: FastifyRequest): ApiKey | undefined {
  return keys.get(request);
}

/** What the token says that a request came with. */
export function tokenOf(request: FastifyRequest): TokenClaims | undefined {
  return tokens.get(request);
}

/** Finds out who calls. Refuses nobody yet, so that limits can know it. */
export function identify(known: ApiKeys) {
  return (request: FastifyRequest): void => {
    const secret = bearerOf(request);
    const key = secret === undefined ? undefined : known.find(secret);
    if (key) keys.set(request, key);
  };
}

/**
 * Refuses those who may not do what they ask for.
 * @param known absent: the relay is open, and needs no key
 * @param verify absent: no tokens are known
 */
export function authorize(known: ApiKeys | undefined, verify: TokenVerifier | undefined) {
  return async (request: FastifyRequest): Promise<void> => {
    const { token } = request.routeOptions.config.access ?? {};
    const jwt = token && jwtOf(request);
    if (jwt !== undefined) return void tokens.set(request, await claimsOf(request, jwt, verify));
    checkKey(request, known);
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

function checkKey(request: FastifyRequest, known: ApiKeys | undefined): void {
  // Where there is nothing, any key will do to be told so.
  const { scope = request.is404 ? "any" : "admin", token } = request.routeOptions.config.access ?? {};
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
function unauthorized(request: FastifyRequest, wanted: string): HttpError {
  if (bearerOf(request) === undefined) {
    return new HttpError(401, `this needs ${wanted}: send Authorization: Bearer SECRET`, CHALLENGE);
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
    return bearer?.split(".").length === 3 ? bearer : undefined;
  }
  if (typeof token === "string") return token;
  throw new HttpError(401, "there is more than one token", INVALID);
}

async function claimsOf({ log }: FastifyRequest, jwt: string, verify: TokenVerifier | undefined): Promise<TokenClaims> {
  if (!verify) throw new HttpError(401, "this relay knows no tokens: see --jwt-secret and --jwks-url", INVALID);
  try {
    const claims = check(tokenClaims, await verify(jwt));
    // To the library, a second that has begun is not over.
    if (claims.until !== undefined && claims.until <= Date.now()) throw new TokenFault("the token has expired");
    return claims;
  } catch (error) {
    if (error instanceof TokenFault) throw new HttpError(401, error.message, INVALID);
    if (error instanceof InvalidInput) throw new HttpError(401, `the token's ${error.message}`, INVALID);
    if (error instanceof KeysUnavailable) {
      log.warn({ err: error }, error.message);
      throw new RelayError("unavailable", error.message, { cause: error });
    }
    throw error;
  }
}
