import type { IncomingHttpHeaders } from "node:http";
import { isIP } from "node:net";
import { hostOf, isLoopback } from "../trust/hosts.js";

/** Characters of a prefix. */
const MAX_PREFIX = 256;

/** Names of the headers by which a request shows that a proxy sent it, in lower case. Not all proxies send any. */
export function proxyHeaders(headers: IncomingHttpHeaders): string[] {
  return Object.keys(headers).filter((name) => /^(?:forwarded|via|x-real-ip|x-forwarded-.*)$/.test(name));
}

/**
 * The header that keeps a proxied request from being one of this machine to this machine; undefined when it is one. The
 * proxy must name its client (X-Forwarded-For) and the host that the client asked for (X-Forwarded-Host). Every address
 * and host in these, in Forwarded and in X-Real-IP must be loopback. Whatever cannot be read as one counts as foreign.
 */
export function foreignHeader(headers: IncomingHttpHeaders): string | undefined {
  const { "x-forwarded-for": clients = "", "x-forwarded-host": hosts = "" } = headers;
  if (!listed(clients).every(isOwnAddress)) return "X-Forwarded-For";
  if (!listed(hosts).every(isOwnHost)) return "X-Forwarded-Host";
  if (!listed(headers["x-real-ip"] ?? "::1").every(isOwnAddress)) return "X-Real-IP";
  return (headers.forwarded ?? "").split(/[;,]/).every(isOwnPair) ? undefined : "Forwarded";
}

/** The items of a header, also of one that was sent several times. An empty header is one empty item. */
function listed(value: string | string[]): string[] {
  return String(value)
    .split(",")
    .map((item) => item.trim());
}

/** An address as proxies write it: alone or with a port; IPv6 also in brackets. Names and `unknown` are none. */
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
 * A pair of the Forwarded header (RFC 7239 section 4), or nothing between two separators. Separators and backslashes
 * inside quotes are in no address and no host, so the pieces of such a pair are refused.
 */
function isOwnPair(text: string): boolean {
  if (text.trim() === "") return true;
  const [, name, quoted, plain] = /^([^\s="\\]+)=(?:"([^"\\]*)"|([^\s="\\]+))$/.exec(text.trim()) ?? [];
  const value = quoted ?? plain ?? "";
  switch (name?.toLowerCase()) {
    case undefined:
      return false;
    case "for":
      return isOwnAddress(value);
    case "host":
      return isOwnHost(value);
    default:
      return true;
  }
}

/**
 * The path under which a proxy serves the relay, from X-Forwarded-Prefix, without a slash at the end. Of several values
 * the last one counts, as with the other X-Forwarded-* headers: that one is the trusted proxy's own.
 * @returns undefined when it is no such path
 */
export function prefixOf(header: string | string[]): string | undefined {
  const prefix = listed(header).at(-1) as string;
  if (prefix.length > MAX_PREFIX || !/^(?=\/)(?:\/(?:[\w.~!$&'()*+;=:@-]|%[\da-f]{2})+)*\/?$/i.test(prefix))
    return undefined;
  // Dot segments, also percent-encoded ones, would make the URL one of another path.
  if (new URL(prefix, "http://localhost").pathname !== prefix) return undefined;
  return prefix.replace(/\/$/, "");
}
