import type { FastifyBaseLogger } from "fastify";
import { type Happenings, Observer } from "./core/observer.js";
import { Recent } from "./recent.js";
import { shortId } from "./routes/context.js";
import { SparingLog } from "./sparing-log.js";
import { TokenBucket } from "./token-bucket.js";

/** Log lines that callers can cause, all together: so many at once, and so many a second. */
const LINES = {
  lobby: { burst: 100, perSecond: 10 },
  contests: { burst: 10, perSecond: 1 / 6 },
  openFiles: { burst: 1, perSecond: 1 / 10 },
  failures: { burst: 5, perSecond: 2 },
  listeners: { burst: 10, perSecond: 1 },
};

/** Milliseconds between two lines about failed authentications of one network, and how many networks are remembered. */
const FAILURES = { every: 10_000, networks: 10_000 };

/** An observer of which a log is told: what happens, and which listeners fail. */
export function loggedObserver(log: FastifyBaseLogger): Observer {
  const listenerLines = sparing(LINES.listeners);
  const observer = new Observer((err, happening) =>
    listenerLines.line((unlogged) => log.error({ err, happening, ...unlogged }, "a listener failed")),
  );
  logConnections(observer, log);
  logLimits(observer, log);
  const failures = new FailureLines(log);
  observer.on("auth.failed", (failure) => failures.note(failure));
  return observer;
}

function logConnections(observer: Observer, log: FastifyBaseLogger): void {
  const lobbyLines = sparing(LINES.lobby);
  const contestLines = sparing(LINES.contests);
  // Of a contested client, the log has the number of replacements instead.
  observer.on("client.connected", ({ client, userId, contested, transport }) => {
    if (!contested) log.info({ ...transport, user_id: userId, client: shortId(client) }, "connected");
  });
  observer.on("client.disconnected", ({ userId, contested, transport }) => {
    if (!contested) log.info({ ...transport, user_id: userId }, "disconnected");
  });
  observer.on("client.contested", ({ client, userId, replacements }) =>
    contestLines.line((unlogged) => {
      const line = { client: shortId(client), user_id: userId, replacements, ...unlogged };
      log.warn(line, "connections of one client replace each other: does more than one reader use its URL?");
    }),
  );
  observer.on("lobby.message", ({ userId, bytes, transport }) =>
    lobbyLines.line((unlogged) => log.info({ ...transport, user_id: userId, bytes, ...unlogged }, "message")),
  );
}

function logLimits(observer: Observer, log: FastifyBaseLogger): void {
  const fileLines = sparing(LINES.openFiles);
  const message = "the limit on open files is near: connections without a request are closed, or new ones refused";
  observer.on("limit.reached", ({ limit, open, most }) => {
    if (limit === "open_files") fileLines.line((unlogged) => log.warn({ open, most, ...unlogged }, message));
  });
}

/** Log lines about failed authentications: of each network one at a time, with the number of failures since the last. */
class FailureLines {
  private readonly networks = new Recent<{ failures: number; loggedAt: number }>(FAILURES.networks);
  private readonly lines = new TokenBucket(LINES.failures.burst, LINES.failures.perSecond);

  constructor(private readonly log: FastifyBaseLogger) {}

  note({ network: name, transport }: Happenings["auth.failed"]): void {
    const network = this.networks.use(name, this.networks.get(name) ?? { failures: 0, loggedAt: -Infinity });
    network.failures++;
    const now = performance.now();
    if (now - network.loggedAt < FAILURES.every || this.lines.take() > 0) return;
    this.log.warn({ ...transport, network: name, failures: network.failures }, "authentications failed");
    network.failures = 0;
    network.loggedAt = now;
  }
}

function sparing({ burst, perSecond }: { readonly burst: number; readonly perSecond: number }): SparingLog {
  return new SparingLog(burst, perSecond);
}
