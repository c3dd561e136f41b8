import { z } from "zod";
import { parseDuration, parseSize } from "./units.js";
import { ALLOW_ALL, ALLOW_SUBSCRIBE, type Permissions } from "./core/permissions.js";
import { subscriptionFault } from "./protocol.js";
import { isLoopback } from "./trust/hosts.js";
import { type ApiKey, KeyFault, parseKey } from "./trust/keys.js";
import { JWKS_ALGORITHMS, secretKey } from "./trust/tokens.js";

/** Milliseconds; as text with a unit. */
function duration(least: string, most: string) {
  return amount(parseDuration, "a duration such as 30s, 10m or 24h", least, most);
}

/** Bytes; as text with a unit. */
function size(least: string, most: string) {
  return amount(parseSize, "a size such as 64KiB, 1MiB or 1GiB", least, most);
}

function amount(parse: (text: string) => number | undefined, kind: string, least: string, most: string) {
  const [low, high] = [parse(least) ?? 0, parse(most) ?? 0];
  const error = `must be ${kind}, from ${least} to ${most}`;
  return z
    .union([z.number(), z.string().transform((text) => parse(text) ?? Number.NaN)], { error })
    .refine((value) => value >= low && value <= high, { error });
}

function flag() {
  return z
    .union([z.boolean(), z.enum(["true", "false", "1", "0"])], { error: "must be true or false" })
    .transform((value) => value === true || value === "true" || value === "1");
}

/** A list, or its text with commas. */
function list<T>(item: z.ZodType<T>) {
  return z.preprocess(
    (value) =>
      typeof value === "string"
        ? value
            .split(",")
            .map((part) => part.trim())
            .filter(Boolean)
        : value,
    z.array(item),
  );
}

const topic = z.string().refine((name) => subscriptionFault(name) === undefined, "must be topics, with commas between");

const origin = z.string().refine((text) => text === "*" || text === "loopback" || isOrigin(text), {
  error: "must be origins such as https://app.example.com, loopback or *, with commas between",
});

function isOrigin(text: string): boolean {
  if (/^https?:/.test(text)) return URL.canParse(text) && new URL(text).origin === text;
  // To the URL standard only the web has origins; apps send theirs all the same (`capacitor://localhost`).
  return /^[a-z][a-z\d+.-]*:\/\/[a-z\d.-]+(?::\d+)?$/.test(text);
}

const apiKey = z.string().transform((text, context): ApiKey => {
  try {
    return parseKey(text);
  } catch (error) {
    if (!(error instanceof KeyFault)) throw error;
    context.addIssue({ code: "custom", message: error.message });
    return z.NEVER;
  }
});

const jwksUrl = z.url({ error: "must be an https URL" }).refine((text) => {
  const { protocol, hostname } = new URL(text);
  return protocol === "https:" || (protocol === "http:" && isLoopback(hostname));
}, "must be an https URL; http only on this machine");

/** Becomes the start of URLs that are given out, so it has no slash at its end. */
const publicUrl = z.string().transform((text, context) => {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url && /^https?:$/.test(url.protocol) && url.href === url.origin + url.pathname && !/[?#]/.test(text)) {
    return url.href.replace(/\/+$/, "");
  }
  const message =
    "must be an http or https URL without a query, such as https://example.com/relay; for wss:// write https:// " +
    "(the relay itself makes wss:// of it for WebSockets)";
  context.addIssue({ code: "custom", message });
  return z.NEVER;
});

/** How many, or how many a second. */
function count(least: number, most: number) {
  const error = `must be a whole number from ${least} to ${most}`;
  return z.coerce.number({ error }).int(error).min(least, error).max(most, error);
}

const path = z.string().min(1, "must be a path");

const listen = z.string().transform((text, context) => {
  const match = /^(?:\[([\da-f:.]+)\]|([^:[\]]+)):(\d{1,5})$/i.exec(text);
  const port = Number(match?.[3]);
  if (match && port <= 65_535) return { host: (match[1] ?? match[2]) as string, port };
  context.addIssue({ code: "custom", message: "must be HOST:PORT, such as 127.0.0.1:8000 or [::1]:0" });
  return z.NEVER;
});

/** Every setting: flag `--name`, variable `RELAY_NAME`, option `name` of the plugin. */
export const settingsSchema = z.strictObject({
  listen: listen.prefault("127.0.0.1:8000").describe("HOST:PORT; port 0 takes a free one"),
  publicUrl: publicUrl
    .optional()
    .describe(
      "the relay's address in URLs that it gives out, as https://HOST[/PATH]; the URLs are wss:// for WebSockets and " +
        "https:// for streams; default: what the caller used",
    ),
  trustProxy: flag().prefault(false).describe("believe what the one proxy in front says in X-Forwarded-* headers"),
  engine: z
    .enum(["lmdb", "memory"], { error: "must be lmdb or memory" })
    .prefault("lmdb")
    .describe("where the log is kept: on disk, or in memory only"),
  dataDir: path.prefault("./relay-data").describe("the directory of the lmdb engine; made when there is none"),
  defaultTopics: list(topic).prefault("cats").describe("topics of a client that registers without"),
  clientTtl: duration("1s", "3650d").prefault("300s").describe("how long a client is kept without a connection"),
  maxClientTtl: duration("1s", "3650d").prefault("7d").describe("the most that a client may ask for"),
  retentionAge: duration("1s", "3650d").prefault("24h").describe("how long events are kept"),
  retentionCount: count(1, Number.MAX_SAFE_INTEGER).prefault(1_000_000).describe("how many events are kept"),
  retentionBytes: size("64KiB", "512GiB")
    .optional()
    .describe("how much disk (memory engine: memory) the events kept may take; default: 1GiB (64MiB)"),
  pingInterval: duration("1s", "1h").prefault("30s").describe("time between pings on a connection"),
  maxBuffer: size("16KiB", "1GiB").prefault("1MiB").describe("what may wait for one connection"),
  totalBuffer: size("64KiB", "1024GiB").prefault("1GiB").describe("what may wait for all connections together"),
  maxMessage: size("1KiB", "4MiB").prefault("64KiB").describe("the size of one event's message"),
  maxClients: count(1, 100_000_000).prefault(1_000_000).describe("how many clients there may be"),
  maxClientsPerUser: count(1, 1_000_000).prefault(1000).describe("how many clients a user may have"),
  totalTopics: size("1MiB", "1024GiB").prefault("1GiB").describe("how much memory the topics of all clients may take"),
  maxConnections: count(1, 10_000_000)
    .prefault(20_000)
    .describe("how many connections, of any kind, an address may have; of IPv6, a network of 64 bits"),
  maxWaits: count(1, 1_000_000).prefault(1000).describe("how many publishers may wait for confirmations at a time"),
  maxReplay: count(1, Number.MAX_SAFE_INTEGER)
    .prefault(1_000_000)
    .describe("how many events a connection may get over again"),
  publishRate: count(1, 100_000_000).prefault(20_000).describe("events a second that each key may publish"),
  frameRate: count(1, 1_000_000)
    .prefault(1000)
    .describe("frames a second that each client may send; each 4 KiB of a frame counts as one more"),
  requestRate: count(1, 1_000_000)
    .prefault(2000)
    .describe("requests a second that an address may make without a key, where others can reach the relay"),
  requestTimeout: duration("1s", "1h").prefault("60s").describe("how long a request may take to arrive"),
  apiKeys: list(apiKey)
    .pipe(z.array(z.custom<ApiKey>()).min(1, "must have a key"))
    .optional()
    .describe("NAME:SECRET[:SCOPE+SCOPE], with commas between; without scopes: all"),
  apiKeysFile: path.optional().describe("a file of such keys, one a line; read again on SIGHUP"),
  insecureOpen: flag().prefault(false).describe("listen beyond this machine without keys"),
  allowedOrigins: list(origin)
    .optional()
    .describe("origins of web pages that may use the relay, loopback, or *; default: loopback, with keys none"),
  jwtSecret: z
    .string()
    .min(1, "must not be empty")
    .transform(secretKey)
    .optional()
    .describe("the secret that tokens are signed with (HS256)"),
  jwksUrl: jwksUrl.optional().describe("where the keys are that tokens are signed with"),
  jwtAlgorithms: list(z.enum(JWKS_ALGORITHMS, { error: `must be some of ${JWKS_ALGORITHMS.join(", ")}` }))
    .prefault("RS256,PS256,ES256,EdDSA")
    .describe("the algorithms that tokens may be signed with, with --jwks-url"),
  jwtAudience: z.string().min(1).optional().describe("what a token's aud has to be"),
  jwtIssuer: z.string().min(1).optional().describe("what a token's iss has to be"),
  tlsCert: path.optional().describe("a certificate (PEM, with those between it and the root)"),
  tlsKey: path.optional().describe("its private key (PEM)"),
  logLevel: z
    .enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"])
    .prefault("info")
    .describe("how much is logged, to standard error"),
});

/** Bytes that the log may take when nothing is said: there is more disk than memory. */
const RETENTION_BYTES = { lmdb: 2 ** 30, memory: 2 ** 26 };

/** Settings whose values are not said again. */
const SECRETS = new Set(["apiKeys", "jwtSecret"]);

type Derived = {
  readonly retentionBytes: number;
  readonly allowedOrigins: readonly string[];
  /** What a client may do that was registered without saying so. */
  readonly defaultAllow: Permissions;
};

export type Settings = Omit<z.output<typeof settingsSchema>, keyof Derived> & Derived;
export type SettingsInput = z.input<typeof settingsSchema>;

export const settingNames = Object.keys(settingsSchema.shape) as (keyof z.output<typeof settingsSchema>)[];

/** `clientTtl` → `--client-ttl` */
export function flagOf(name: string): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** `clientTtl` → `RELAY_CLIENT_TTL` */
export function variableOf(name: string): string {
  return `RELAY_${name.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
}

/** A setting that can not be: says which, its value, and what is allowed. */
export class SettingsError extends Error {}

/**
 * @param given values as text (command line, environment) or as they are (plugin options)
 * @param nameOf how the reader of the error knows a setting
 * @throws {SettingsError}
 */
export function parseSettings(
  given: Record<string, unknown>,
  nameOf: (name: string) => string = (name) => name,
): Settings {
  const result = settingsSchema.safeParse(given);
  const faults = result.error?.issues.map((issue) => {
    if (issue.code === "unrecognized_keys") return issue.keys.map((key) => `${nameOf(key)}: there is no such setting`);
    const name = String(issue.path[0]);
    const value = SECRETS.has(name) ? "the value (which is secret)" : JSON.stringify(given[name]);
    const which = typeof issue.path[1] === "number" ? `number ${issue.path[1] + 1} of the list ` : "";
    return [`${nameOf(name)}: ${value} is not allowed: ${which}${issue.message}`];
  });
  if (faults) throw new SettingsError(faults.flat().join("\n"));
  const { data } = result as { data: z.output<typeof settingsSchema> };
  checkPairs(data, nameOf);
  const open = !hasKeys(data);
  return {
    ...data,
    retentionBytes: data.retentionBytes ?? RETENTION_BYTES[data.engine],
    allowedOrigins: data.allowedOrigins ?? (open ? ["loopback"] : []),
    defaultAllow: open ? ALLOW_ALL : ALLOW_SUBSCRIBE,
  };
}

function checkPairs(data: z.output<typeof settingsSchema>, nameOf: (name: string) => string): void {
  if (data.clientTtl > data.maxClientTtl) {
    throw new SettingsError(`${nameOf("clientTtl")}: is more than ${nameOf("maxClientTtl")}`);
  }
  if ((data.tlsCert === undefined) !== (data.tlsKey === undefined)) {
    const [one, other] = data.tlsCert === undefined ? ["tlsKey", "tlsCert"] : ["tlsCert", "tlsKey"];
    throw new SettingsError(`${nameOf(one)}: needs ${nameOf(other)} too`);
  }
  if (data.jwtSecret && data.jwksUrl !== undefined) {
    throw new SettingsError(`${nameOf("jwksUrl")}: goes instead of ${nameOf("jwtSecret")}, not with it`);
  }
}

/** Whether callers need a key; otherwise the relay is open. */
export function hasKeys({ apiKeys, apiKeysFile }: Pick<Settings, "apiKeys" | "apiKeysFile">): boolean {
  return apiKeys !== undefined || apiKeysFile !== undefined;
}

/** Whether only this machine is to reach it: then nobody needs to be kept from anything. */
export function isPrivate(settings: Pick<Settings, "apiKeys" | "apiKeysFile" | "insecureOpen">): boolean {
  return !hasKeys(settings) && !settings.insecureOpen;
}
