import { isIP } from "node:net";
import type { FastifyReply, FastifyRequest } from "fastify";
import { hasKeys, isPrivate, type Settings } from "../config.js";
import { foreignHeader, proxyHeaders } from "./forwarded.js";
import { hostOf, isLoopback } from "../trust/hosts.js";
import { HttpError } from "./problems.js";

/**
 * Number of headers of one request that Node reads. It drops the others silently, so a proxy's could be among these.
 */
const MAX_HEADERS = 1000;

/** Whether a page of this origin may use the relay. @param allowed origins, `loopback` or `*` */
export function isAllowedOrigin(origin: string, allowed: readonly string[]): boolean {
  if (allowed.includes("*") || allowed.includes(origin)) return true;
  return allowed.includes("loopback") && URL.canParse(origin) && isLoopback(new URL(origin).hostname);
}

declare module "fastify" {
  interface FastifyRequest {
    /** Set by @fastify/cors on a preflight of a page of an allowed origin. */
    corsPreflightEnabled: boolean;
  }
}

/** A browser asks before it lets a page of an allowed origin send a request: it may, whatever the path. */
export function answerPreflight({ corsPreflightEnabled }: FastifyRequest, reply: FastifyReply): void {
  if (corsPreflightEnabled) void reply.code(204).header("content-length", "0").send();
}

/**
 * A browser carries requests from any site to any server that it can reach. A page of another site has no business
 * here, whatever its browser would let it read; and when only this machine is to reach the relay, neither has one whose
 * own name was made to point here (DNS rebinding), nor a caller from elsewhere, nor one for whom a proxy asks.
 */
export function checkSource(settings: Settings) {
  const closed = isPrivate(settings);
  return (request: FastifyRequest): void => {
    const { headers, host, protocol, raw } = request;
    checkHeaders(raw.rawHeaders, protocol);
    if (closed) {
      checkIsLocal(headers.host, raw.socket.localAddress);
      checkIsNotForOthers(request, settings);
    }
    const { origin } = headers;
    if (origin === undefined || isAllowedOrigin(origin, settings.allowedOrigins)) return;
    if (isOwnOrigin(origin, host, settings)) return;
    throw new HttpError(403, "pages of this origin may not use the relay: see --allowed-origins");
  };
}

/**
 * Whether it is the relay's own page. An open relay believes that only of names that nobody else can make to point here.
 * @param host as the caller asked for it
 */
function isOwnOrigin(origin: string, host: string, settings: Settings): boolean {
  if (!URL.canParse(origin)) return false;
  const { protocol, host: asked, hostname } = new URL(origin);
  const { publicUrl } = settings;
  if (publicUrl !== undefined && new URL(publicUrl).origin === origin) return true;
  const isFixed = hasKeys(settings) || isLoopback(hostname) || isIP(hostname.replaceAll(/^\[|\]$/g, "")) !== 0;
  return isFixed && URL.canParse(`${protocol}//${host}`) && new URL(`${protocol}//${host}`).host === asked;
}

/**
 * Whether the relay believes the X-Forwarded-* headers of a request. With `--trust-proxy` it always does. In another
 * Fastify app, where the relay is a plugin, the app's `trustProxy` decides: if the app trusts the other end of the
 * connection, Fastify adds the address of X-Forwarded-For to `ips`. A proxy that sends no X-Forwarded-For is not
 * believed.
 */
export function isFromTrustedProxy({ trustProxy }: Settings, { ips = [] }: FastifyRequest): boolean {
  return trustProxy || ips.length > 1;
}

/** What is ambiguous or is none of what it should be, whoever sent it: others on the way may have read it in another way. */
function checkHeaders(rawHeaders: readonly string[], protocol: string): void {
  if (rawHeaders.length >= 2 * MAX_HEADERS) throw new HttpError(431, `send fewer than ${MAX_HEADERS} headers`);
  let hosts = 0;
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at] as string;
    if (name.length === 4 && name.toLowerCase() === "host") hosts++;
  }
  if (hosts > 1) throw new HttpError(400, "there is more than one Host header");
  // It goes into the URLs that are given out.
  if (!/^https?$/i.test(protocol)) throw new HttpError(400, "X-Forwarded-Proto must be http or https");
}

const ways = "set --api-keys, or --insecure-open (as a plugin: apiKeys, insecureOpen) to let in all who can reach it";

function checkIsLocal(host: string | undefined, localAddress: string | undefined): void {
  if (localAddress !== undefined && !isLoopback(localAddress)) {
    throw new HttpError(403, `without keys this relay answers only on this machine's own addresses: ${ways}`);
  }
  // No browser leaves the header out.
  if (host === undefined) return;
  const name = hostOf(host);
  if (name === undefined) throw new HttpError(400, "the Host header is not a host");
  if (!isLoopback(name)) {
    throw new HttpError(
      403,
      `without keys this relay answers only to localhost, not to the host that was asked: ${ways}`,
    );
  }
}

/**
 * A proxy on this machine connects from a loopback address, and many rewrite `Host` to one, whoever their clients are.
 * So an open relay refuses every request that shows a proxy, unless the relay (or the app that it is a plugin of)
 * trusts the proxy and the proxy says that its client is on this machine.
 */
function checkIsNotForOthers(request: FastifyRequest, settings: Settings): void {
  const { headers } = request;
  const seen = proxyHeaders(headers);
  if (seen.length === 0) return;
  if (!isFromTrustedProxy(settings, request)) {
    throw new HttpError(
      403,
      `without keys this relay answers no proxies, and a proxy sent this request (${seen.join(", ")}): ${ways}; ` +
        "with --trust-proxy (as a plugin: trustProxy of its app) it answers a proxy that asks for clients on this machine",
    );
  }
  const foreign = foreignHeader(headers);
  if (foreign === undefined) return;
  throw new HttpError(
    403,
    `without keys this relay answers a proxy only for clients on this machine that ask for localhost, and ${foreign} ` +
      `does not say so: ${ways}`,
  );
}
