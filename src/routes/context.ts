import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { OpenOptions } from "../core/connections.js";
import { RelayError } from "../core/errors.js";
import type { Since } from "../core/log.js";
import type { Observer, TransportFields } from "../core/observer.js";
import type { Settings } from "../config.js";
import { formatNamed } from "../formats/index.js";
import type { Format } from "../formats/format.js";
import type { Metrics } from "../metrics.js";
import { prefixOf } from "./forwarded.js";
import type { ApiKeys } from "../trust/keys.js";
import type { Startup } from "../startup.js";
import type { CallerLimits } from "./limits.js";
import { isFromTrustedProxy } from "./origins.js";
import { InvalidInput, HttpError } from "./problems.js";
import { parseSince } from "./schemas.js";

/** What the routes work with. */
export interface Context {
  readonly startup: Startup;
  readonly settings: Settings;
  readonly limits: CallerLimits;
  readonly metrics: Metrics;
  readonly observer: Observer;
  /** Absent: the relay is open. */
  readonly keys: ApiKeys | undefined;
  /** Where the plugin is mounted; empty at the root. */
  readonly prefix: string;
}

/** How a connection is asked for: the query of `/ws` and `/stream`. */
export interface ConnectionQuery {
  readonly format?: string;
  readonly since?: string;
  readonly ack?: string;
  readonly ttl?: string;
}

/** The client's UUID as 32 hex digits, from that or the dashed form; undefined when it is none. */
export function clientIdOf(text: string): string | undefined {
  const plain = /^[\da-f]{8}-(?:[\da-f]{4}-){3}[\da-f]{12}$/i.test(text) ? text.replaceAll("-", "") : text;
  return /^[\da-f]{32}$/i.test(plain) ? plain.toLowerCase() : undefined;
}

/** The parts of a client's id that may be logged. */
export function shortId(id: string): string {
  return `${id.slice(0, 8)}…`;
}

/** What `request.log` adds to each line. */
export function logFields({ id, server }: FastifyRequest): TransportFields {
  const { requestIdLogLabel: label = "reqId" } = server.initialConfig;
  return { [label]: id };
}

export function requestedFormat(query: ConnectionQuery): Format | undefined {
  if (query.format === undefined) return undefined;
  const format = formatNamed(query.format);
  if (!format) throw new InvalidInput([{ path: "format", message: "must be raw, json or cloudevents" }]);
  return format;
}

/** Where the client wants to go on. An `EventSource` that comes back repeats its URL too: what it has is in the header. */
export function requestedSince(request: FastifyRequest): Since | undefined {
  const last = request.headers["last-event-id"];
  if (typeof last === "string" && last !== "") return parseSince(last, "Last-Event-ID");
  const { since } = request.query as ConnectionQuery;
  return since === undefined ? undefined : parseSince(since, "since");
}

function requestedAck(query: ConnectionQuery): boolean {
  if (query.ack !== undefined && query.ack !== "manual") {
    throw new InvalidInput([{ path: "ack", message: "must be manual" }]);
  }
  return query.ack === "manual";
}

/** @throws {InvalidInput} what the query or a header asks for is not there */
export function connectionOptions(request: FastifyRequest): OpenOptions {
  const query = request.query as ConnectionQuery;
  requestedFormat(query);
  return { since: requestedSince(request), manualAck: requestedAck(query) };
}

/** Seconds for which a client of `/ws` or `/stream` is kept after its connection: none, unless it asks for some. */
export function requestedTtl({ settings }: Context, { ttl }: ConnectionQuery): number {
  if (ttl === undefined) return 0;
  const longest = settings.maxClientTtl / 1000;
  if (/^\d{1,9}$/.test(ttl) && Number(ttl) <= longest) return Number(ttl);
  throw new InvalidInput([{ path: "ttl", message: `must be seconds, from 0 to ${longest}` }]);
}

/** The relay's own address as the caller sees it, without a slash at the end. */
export function baseUrl({ settings, prefix }: Context, request: FastifyRequest): string {
  if (settings.publicUrl !== undefined) return settings.publicUrl + prefix;
  const url = `${request.protocol.toLowerCase()}://${request.host}`;
  if (!URL.canParse(url) || /[/\\?#@]/.test(request.host)) throw new HttpError(400, "the Host header is not a host");
  return url + forwardedPrefix(settings, request) + prefix;
}

/**
 * The relay's own address where no request tells it, without a slash at the end.
 * @throws {RelayError} unavailable: the app does not listen on a port, and no setting tells it
 */
export function listeningUrl({ settings, prefix }: Context, app: FastifyInstance): string {
  if (settings.publicUrl !== undefined) return settings.publicUrl + prefix;
  const origin = app.addresses().length > 0 ? app.listeningOrigin : "";
  // On a Unix socket it is a path.
  if (URL.canParse(origin)) return origin.replace(/\/\/(?:0\.0\.0\.0|\[::\])(?=:)/, "//localhost") + prefix;
  const message =
    "the relay does not know its own URL: set publicUrl, or register clients once the app listens on a port";
  throw new RelayError("unavailable", message);
}

/** The path under which a trusted proxy serves the relay; empty at the root. */
function forwardedPrefix(settings: Settings, request: FastifyRequest): string {
  const header = request.headers["x-forwarded-prefix"];
  if (header === undefined || !isFromTrustedProxy(settings, request)) return "";
  const prefix = prefixOf(header);
  if (prefix === undefined) throw new HttpError(400, "X-Forwarded-Prefix must be a path such as /relay");
  return prefix;
}

/** An answer that is for its receiver alone. */
export function noStore(reply: FastifyReply): void {
  void reply.header("cache-control", "no-store");
}
