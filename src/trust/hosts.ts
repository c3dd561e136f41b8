/** Whether only this machine can reach a host: a name or an address, as in URLs or without the brackets. */
export function isLoopback(host: string): boolean {
  const name = host.replaceAll(/^\[|\]$|\.$/g, "").toLowerCase();
  // RFC 6761 section 6.3: all names below localhost are this machine too.
  if (name === "localhost" || name.endsWith(".localhost")) return true;
  // IPv6 holds 127.0.0.0/8 as ::ffff:127.0.0.0/104.
  return /^127(?:\.\d{1,3}){3}$|^(?:::1|::ffff:7f[\da-f]{2}:[\da-f]{1,4})$/.test(shortest(name));
}

/** An IPv6 address in its one shortest notation; any other text as it is. */
function shortest(text: string): string {
  const url = `http://[${text}]`;
  return /^[\da-f]*:[\da-f:.]+$/.test(text) && URL.canParse(url) ? new URL(url).hostname.slice(1, -1) : text;
}

/** The host of a `Host` header, without its port; undefined when it is none. */
export function hostOf(header: string): string | undefined {
  return /^(\[[\da-f:.]+\]|[^\s:/?#@[\]\\]+)(?::\d{1,5})?$/i.exec(header)?.[1];
}

/**
 * Those who share a limit: an IPv4 address, or the first 64 bits of an IPv6 one, as whoever has one such address has
 * all of them (RFC 6177).
 */
export function networkOf(text: string): string {
  // Most addresses, at once.
  if (!text.includes(":")) return text;
  // Some proxies write `1.2.3.4:56789` or `[::1]:56789`.
  const address = text.replace(/^\[(.*)\](?::\d+)?$/, "$1").replace(/^(\d+\.\d+\.\d+\.\d+):\d+$/, "$1");
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped) return mapped[1] as string;
  if (!address.includes(":")) return address;
  const [head = "", tail] = address.toLowerCase().split("::");
  const groups = head.split(":").filter(Boolean);
  const rest = tail?.split(":").filter(Boolean) ?? [];
  const zeros = tail === undefined ? 0 : 8 - groups.length - rest.length;
  return [...groups, ...Array.from({ length: Math.max(0, zeros) }, () => "0"), ...rest].slice(0, 4).join(":");
}
