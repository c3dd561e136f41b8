import { createSecretKey, type KeyObject } from "node:crypto";
import { createRemoteJWKSet, errors, type JWTPayload, jwtVerify, type JWTVerifyGetKey, SignJWT } from "jose";

/** Bytes of a secret below which a token gives away enough to guess it (RFC 7518 section 3.2). */
export const STRONG_SECRET = 32;

/** Milliseconds for the server of a JWKS to answer. */
const JWKS_TIMEOUT = 5000;

/** Milliseconds until a server that could not be asked is asked again. */
const RETRY_AFTER = 1000;

const UNAVAILABLE = "the keys that tokens are verified with can not be had now";

/** What tokens are signed with is not secret to those who verify them, so it is never a shared secret. */
export const JWKS_ALGORITHMS = [
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
  "ES256",
  "ES384",
  "ES512",
  "EdDSA",
  "Ed25519",
] as const;

export interface TokenSettings {
  readonly jwtSecret?: KeyObject | undefined;
  readonly jwksUrl?: string | undefined;
  /** Signature algorithms that a JWKS may be used with. */
  readonly jwtAlgorithms: readonly string[];
  readonly jwtAudience?: string | undefined;
  readonly jwtIssuer?: string | undefined;
}

/** A token that is not good. The message says why, as far as its bearer may know. */
export class TokenFault extends Error {}

/** A token that was good once. */
export class TokenExpired extends TokenFault {}

/** The keys of the JWKS could not be had. */
export class KeysUnavailable extends Error {}

/** @returns the token's claims. @throws {TokenFault | KeysUnavailable} */
export type TokenVerifier = (token: string) => Promise<JWTPayload>;

/** Verifies JSON Web Tokens (RFC 7519); undefined when there is nothing to verify them with. */
export function tokenVerifier(settings: TokenSettings): TokenVerifier | undefined {
  const { jwtSecret, jwksUrl, jwtAudience: audience, jwtIssuer: issuer } = settings;
  if (!jwtSecret && jwksUrl === undefined) return undefined;
  // The algorithm is ours to say, never the token's: HMAC with a public key as its secret is the classic forgery.
  const algorithms = jwtSecret ? ["HS256"] : [...settings.jwtAlgorithms];
  const options = {
    algorithms,
    ...(audience === undefined ? {} : { audience }),
    ...(issuer === undefined ? {} : { issuer }),
  };
  const findKey = jwtSecret ? async () => jwtSecret : keyFinder(jwksUrl as string);
  return async (token) => {
    try {
      return (await jwtVerify(token, findKey, options)).payload;
    } catch (error) {
      throw error instanceof KeysUnavailable ? error : faultOf(error);
    }
  };
}

function keyFinder(url: string): JWTVerifyGetKey {
  const find = createRemoteJWKSet(new URL(url), { timeoutDuration: JWKS_TIMEOUT });
  let failedAt = -Infinity;
  return async (header, token) => {
    const isKnown = find.fresh && find.jwks()?.keys.some(({ kid }) => header.kid === undefined || kid === header.kid);
    // Nobody needs to be known to send a token: not each one is a question to that server.
    if (!isKnown && performance.now() - failedAt < RETRY_AFTER) throw new KeysUnavailable(UNAVAILABLE);
    try {
      return await find(header, token);
    } catch (error) {
      const isTokens = ["ERR_JWKS_NO_MATCHING_KEY", "ERR_JWKS_MULTIPLE_MATCHING_KEYS", "ERR_JOSE_NOT_SUPPORTED"];
      if (isTokens.includes((error as errors.JOSEError).code)) throw error;
      failedAt = performance.now();
      throw new KeysUnavailable(UNAVAILABLE, { cause: error });
    }
  };
}

function faultOf(error: unknown): TokenFault {
  if (error instanceof errors.JWTExpired) return new TokenExpired("the token has expired", { cause: error });
  if (error instanceof errors.JWTClaimValidationFailed) {
    return new TokenFault(`the token's ${error.claim} is not as it has to be`, { cause: error });
  }
  return new TokenFault("the token is not valid", { cause: error });
}

/** A token for trying. @param claims `sub`, and what else there is to say */
export async function signToken(secret: KeyObject, claims: JWTPayload, seconds: number): Promise<string> {
  return new SignJWT(claims)
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setIssuedAt()
    .setExpirationTime(Math.floor(Date.now() / 1000) + seconds)
    .sign(secret);
}

export function secretKey(text: string): KeyObject {
  return createSecretKey(Buffer.from(text));
}
