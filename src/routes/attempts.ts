import type { FastifyRequest } from "fastify";
import { RelayError } from "../core/errors.js";
import type { Metrics } from "../metrics.js";
import { TokenBucket } from "../token-bucket.js";
import { callerNetwork } from "./limits.js";
import { Recent } from "./recent.js";

/** Failed authentications that each network may have at once, and a second. */
const FAILURES = { burst: 100, perSecond: 10 };

/** How many networks with failures are remembered. */
const MAX_NETWORKS = 10_000;

/** How many good keys are remembered, each with a network that it came from. */
const MAX_GOOD = 10_000;

/** Milliseconds between two lines of the log about one network. */
const LINE_EVERY = 10_000;

/** Lines of the log about all networks: so many at once, and so many a second. */
const LINES = { burst: 5, perSecond: 2 };

interface Network {
  readonly bucket: TokenBucket;
  /** Failures that no line of the log has told. */
  untold: number;
  toldAt: number;
}

/**
 * Counts failed authentications, and limits those by keys by network. Where the limit is reached, a key that came from
 * the network before and was good still passes: a stranger behind the same proxy does not lock out backends. Any other is
 * not checked, so that nobody learns whether it would be good. Tokens are always checked: a signature can not be guessed,
 * and clients come with new ones all the time.
 */
export class Attempts {
  private readonly networks = new Recent<Network>(MAX_NETWORKS);
  private readonly good = new Recent<true>(MAX_GOOD);
  private readonly lines = new TokenBucket(LINES.burst, LINES.perSecond);

  /** @param isLimited false: failures are only counted */
  constructor(
    private readonly metrics: Metrics,
    private readonly isLimited: boolean,
  ) {}

  /**
   * @param digest of the key; absent: it is known not to be good
   * @returns why the key may not be checked now; undefined when it may
   */
  refusal(request: FastifyRequest, digest: Buffer | undefined): RelayError | undefined {
    if (!this.isLimited) return undefined;
    const network = callerNetwork(request);
    const wait = this.networks.get(network)?.bucket.wait() ?? 0;
    if (wait === 0 || (digest && this.good.get(nameOf(network, digest)))) return undefined;
    const message = "too many authentications from your address failed: what you sent was not checked";
    return new RelayError("too_many", message, { limit: "failed_auths", retryAfter: Math.ceil(wait) });
  }

  passed(request: FastifyRequest, digest: Buffer): void {
    this.good.use(nameOf(callerNetwork(request), digest), true);
  }

  failed(request: FastifyRequest, what: "key" | "token"): void {
    this.metrics.authFailed();
    const name = callerNetwork(request);
    const network = this.networks.use(name, this.networks.get(name) ?? newNetwork());
    if (what === "key") network.bucket.take();
    network.untold++;
    const now = performance.now();
    if (now - network.toldAt < LINE_EVERY || this.lines.take() > 0) return;
    request.log.warn({ network: name, failures: network.untold }, "authentications failed");
    network.untold = 0;
    network.toldAt = now;
  }
}

function newNetwork(): Network {
  return { bucket: new TokenBucket(FAILURES.burst, FAILURES.perSecond), untold: 0, toldAt: -Infinity };
}

function nameOf(network: string, digest: Buffer): string {
  return `${network} ${digest.toString("latin1")}`;
}
