import type { IncomingHttpHeaders } from "node:http";
import { isIP } from "node:net";
import { hostOf, isLoopback } from "../trust/hosts.js";

/** Maximum number of characters of a prefix. */
const MAX_PREFIX = 256;

/** The headers that show that a proxy sent the request; names in lower case. Some proxies add no such header. */
export function proxyHeaders(headers: IncomingHttpHeaders): string[] {
  return Object.keys(headers).filter((name) => /^(?:forwarded|via|x-real-ip|x-forwarded-.*)$/.test(name));
}

/**
 * Names the first header that does not say that the proxy's client is on this machine and asked for this machine;
 * undefined when all headers say so. One of X-Forwarded-For, X-Real-IP and Forwarded must name the client. Every
 * address and host in these and in X-Forwarded-Host must be loopback. A value that is not an address or a host counts
 * as foreign.
 */
export function foreignHeader(headers: IncomingHttpHeaders): string | undefined {
  const { "x-forwarded-for": clients, "x-real-ip": client, "x-forwarded-host": hosts, forwarded } = headers;
  if (clients !== undefined && !listed(clients).every(isOwnAddress)) return "X-Forwarded-For";
  if (client !== undefined && !listed(client).every(isOwnAddress)) return "X-Real-IP";
  if (hosts !== undefined && !listed(hosts).every(isOwnHost)) return "X-Forwarded-Host";
  const pairs = pairsOf(forwarded ?? "");
  if (!pairs?.every(isOwnPair)) return "Forwarded";
  const isNamed = clients !== undefined || client !== undefined || pairs.some(([name]) => name === "for");
  return isNamed ? undefined : "X-Forwarded-For";
}

/** The items of a header; Node joins headers of one name with commas. An empty header has one empty item. */
function listed(value: string | string[]): string[] {
  return String(value)
    .split(",")
    .map((item) => item.trim());
}

/**
 * Whether it is a loopback address, with or without a port; IPv6 may have brackets. Names such as `unknown` are not.
 */
function isOwnAddress(text: string): boolean {
  const [, bracketed, plain] = /^(?:\[([\da-f:.]+)\]|([\d.]+))(?::\d{1,5})?$/i.exec(text) ?? [];
  const address = bracketed ?? plain ?? text;
  return isIP(address) !== 0 && isLoopback(address);
}

function isOwnHost(text: string): boolean {
  const host = hostOf(text);
  return host !== undefined && isLoopback(host);
}

/**
 * The pairs of a Forwarded header (RFC 7239 section 4), with names in lower case; undefined when one is malformed. The
 * header is split at every separator, also inside quotes: no address or host has one, so the pieces are malformed.
 */
function pairsOf(header: string): [name: string, value: string][] | undefined {
  const pairs: [string, string][] = [];
  for (const piece of listed(header.replaceAll(";", ","))) {
    if (piece === "") continue;
    const [, name, quoted, plain] = /^([^\s="\\]+)=(?:"([^"\\]*)"|([^\s="\\]+))$/.exec(piece) ?? [];
    if (name === undefined) return undefined;
    pairs.push([name.toLowerCase(), quoted ?? plain ?? ""]);
  }
  return pairs;
}

/** Whether a pair names no address and no host but loopback ones. */
function isOwnPair([name, value]: [name: string, value: string]): boolean {
  if (name === "for") return isOwnAddress(value);
  return name !== "host" || isOwnHost(value);
}

/**
 * The path under which a proxy serves the relay, without a slash at the end. Of several values the last one counts, as
 * with the other X-Forwarded-* headers: the trusted proxy added it.
 * @param header X-Forwarded-Prefix
 * @returns undefined when the header is not a path
 */
export function prefixOf(header: string | string[]): string | undefined {
  const prefix = listed(header).at(-1) as string;
  if (prefix.length > MAX_PREFIX || !/^(?=\/)(?:\/(?:[\w.~!$&'()*+;=:@-]|%[\da-f]{2})+)*\/?$/i.test(prefix))
    return undefined;
  // Clients resolve dot segments, also percent-encoded ones, to another path.
  if (new URL(prefix, "http://localhost").pathname !== prefix) return undefined;
  return prefix.replace(/\/$/, "");
}
