import { z } from "zod";
import { parseDuration, parseSize } from "./units.js";
import { subscriptionFault } from "./core/topics.js";

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
function list(item: z.ZodType<string>) {
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

const origin = z
  .string()
  .refine((text) => text === "*" || text === "loopback" || (URL.canParse(text) && new URL(text).origin === text), {
    error: "must be origins such as https://app.example.com, loopback or *, with commas between",
  });

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
  publicUrl: z
    .url({ protocol: /^https?$/, error: "must be an http or https URL" })
    .optional()
    .describe("the relay's address in URLs that it gives out; default: what the caller used"),
  trustProxy: flag().prefault(false).describe("believe X-Forwarded-* headers"),
  engine: z
    .enum(["lmdb", "memory"], { error: "must be lmdb or memory" })
    .prefault("lmdb")
    .describe("where the log is kept: on disk, or in memory only"),
  dataDir: z
    .string()
    .min(1, "must be a path")
    .prefault("./relay-data")
    .describe("the directory of the lmdb engine; made when there is none"),
  defaultTopics: list(topic).prefault("cats").describe("topics of a client that registers without"),
  clientTtl: duration("1s", "3650d").prefault("300s").describe("how long a client is kept without a connection"),
  maxClientTtl: duration("1s", "3650d").prefault("7d").describe("the most that a client may ask for"),
  retentionAge: duration("1s", "3650d").prefault("24h").describe("how long events are kept"),
  retentionCount: z.coerce
    .number({ error: "must be a number of events, from 1" })
    .int()
    .min(1)
    .prefault(1_000_000)
    .describe("how many events are kept"),
  retentionBytes: size("64KiB", "512GiB")
    .optional()
    .describe("how much disk (memory engine: memory) the events kept may take; default: 1GiB (64MiB)"),
  pingInterval: duration("1s", "1h").prefault("30s").describe("time between pings on a connection"),
  maxBuffer: size("16KiB", "1GiB").prefault("1MiB").describe("what may wait for one connection"),
  maxMessage: size("1KiB", "4MiB").prefault("64KiB").describe("the size of one event's message"),
  insecureOpen: flag().prefault(false).describe("listen beyond this machine without keys"),
  allowedOrigins: list(origin)
    .prefault("loopback")
    .describe("origins of web pages that may use the relay, loopback, or *"),
  logLevel: z
    .enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"])
    .prefault("info")
    .describe("how much is logged, to standard error"),
});

/** Bytes that the log may take when nothing is said: there is more disk than memory. */
const RETENTION_BYTES = { lmdb: 2 ** 30, memory: 2 ** 26 };

export type Settings = z.output<typeof settingsSchema> & { readonly retentionBytes: number };
export type SettingsInput = z.input<typeof settingsSchema>;

export const settingNames = Object.keys(settingsSchema.shape) as (keyof Settings)[];

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
    return [`${nameOf(name)}: ${JSON.stringify(given[name])} is not allowed: ${issue.message}`];
  });
  if (faults) throw new SettingsError(faults.flat().join("\n"));
  const { data } = result as { data: z.output<typeof settingsSchema> };
  const settings = { ...data, retentionBytes: data.retentionBytes ?? RETENTION_BYTES[data.engine] };
  if (settings.clientTtl > settings.maxClientTtl) {
    throw new SettingsError(`${nameOf("clientTtl")}: is more than ${nameOf("maxClientTtl")}`);
  }
  return settings;
}

/** Whether only this machine can reach an address. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(?:\.\d{1,3}){3}$/.test(host);
}
