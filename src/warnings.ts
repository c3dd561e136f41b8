import type { FastifyBaseLogger } from "fastify";
import { flagOf, isPrivate, type Settings } from "./config.js";
import { connectionsWithin, openFilesLimit } from "./open-files.js";
import { readableByOthers } from "./trust/files.js";
import { isLoopback } from "./trust/hosts.js";
import type { ApiKeys } from "./trust/keys.js";
import { STRONG_SECRET } from "./trust/tokens.js";

export function warnOfWeakKeys(log: FastifyBaseLogger, keys: ApiKeys | undefined): void {
  const weak = keys?.all.filter(({ strong }) => !strong).map(({ name }) => name) ?? [];
  if (weak.length > 0) log.warn({ keys: weak }, "keys with short secrets: make better ones with topic-relay keys new");
}

/** Only where others can reach the relay: nobody has that many connections to a relay of their own. */
function warnOfOpenFiles(log: FastifyBaseLogger, settings: Settings): void {
  const limit = openFilesLimit();
  if (limit === undefined || isPrivate(settings)) return;
  const connections = connectionsWithin(limit);
  if (connections >= settings.maxConnections) return;
  const needed = settings.maxConnections + limit - connections;
  log.warn(
    `open files: this process may have ${limit}, so the relay holds ${connections} connections at most, and ` +
      `--max-connections lets one address have ${settings.maxConnections}: raise the limit to ${needed} ` +
      "(ulimit -n; LimitNOFILE= in systemd; --ulimit nofile= in Docker), or lower --max-connections",
  );
}

/** Secrets on the disk are the relay's alone. */
function warnOfReadableFiles(log: FastifyBaseLogger, { engine, dataDir, apiKeysFile, tlsKey }: Settings): void {
  const files = { dataDir: engine === "lmdb" ? dataDir : undefined, apiKeysFile, tlsKey };
  for (const [name, path] of Object.entries(files)) {
    const readable = path === undefined ? undefined : readableByOthers(path);
    if (!readable) continue;
    log.warn(
      `${flagOf(name)}: other users of this machine can read ${path} (mode ${readable.mode}): ${readable.command}`,
    );
  }
}

/** The relay cannot detect a proxy that adds no header, and through such a proxy everyone reaches an open relay. */
function warnOfProxy(log: FastifyBaseLogger, settings: Settings): void {
  if (!isPrivate(settings)) return;
  const { trustProxy, publicUrl } = settings;
  const isPublic = publicUrl !== undefined && !isLoopback(new URL(publicUrl).hostname);
  if (!trustProxy && !isPublic) return;
  log.warn(
    `${trustProxy ? "--trust-proxy" : "--public-url"} without keys: through a proxy that adds no X-Forwarded-* headers ` +
      "everyone can use this relay: set --api-keys",
  );
}

/** Loud, but no reason not to start. */
export function warnOfWeakness(log: FastifyBaseLogger, settings: Settings, keys: ApiKeys | undefined): void {
  if (!keys && settings.insecureOpen) log.warn("open to other machines without keys: anyone can register and publish");
  warnOfProxy(log, settings);
  warnOfWeakKeys(log, keys);
  warnOfOpenFiles(log, settings);
  warnOfReadableFiles(log, settings);
  const { symmetricKeySize = STRONG_SECRET } = settings.jwtSecret ?? {};
  if (symmetricKeySize < STRONG_SECRET) {
    log.warn(`--jwt-secret has less than ${STRONG_SECRET} bytes: it can be found by trying, from any one token`);
  }
}
