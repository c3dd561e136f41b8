import type { FastifyBaseLogger } from "fastify";
import { isPrivate, type Settings } from "./config.js";
import { connectionsWithin, openFilesLimit } from "./open-files.js";
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

/** Loud, but no reason not to start. */
export function warnOfWeakness(log: FastifyBaseLogger, settings: Settings, keys: ApiKeys | undefined): void {
  if (!keys && settings.insecureOpen) log.warn("open to other machines without keys: anyone can register and publish");
  warnOfWeakKeys(log, keys);
  warnOfOpenFiles(log, settings);
  const { symmetricKeySize = STRONG_SECRET } = settings.jwtSecret ?? {};
  if (symmetricKeySize < STRONG_SECRET) {
    log.warn(`--jwt-secret has less than ${STRONG_SECRET} bytes: it can be found by trying, from any one token`);
  }
}
