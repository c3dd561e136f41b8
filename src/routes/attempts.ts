import type { FastifyRequest } from "fastify";
import { RelayError } from "../core/errors.js";
import type { Observer } from "../core/observer.js";
import { TokenBucket } from "../token-bucket.js";
import { logFields } from "./context.js";
import { callerNetwork } from "./limits.js";
import { Recent } from "../recent.js";

/** Failed authentications that each network may have at once, and a second. */
const FAILURES = { burst: 100, perSecond: 10 };

/** How many networks with failures are remembered. */
const MAX_NETWORKS = 10_000;

/** How many good keys are remembered, each with a network that it came from. */
const MAX_GOOD = 10_000;

/**
 * Counts failed authentications, and limits those by keys by network. Where the limit is reached, a key that came from
 * the network before and was good still passes: a stranger behind the same proxy does not lock out backends. Any other is
 * not checked, so that nobody learns whether it would be good. Tokens are always checked: a signature can not be guessed,
 * and clients come with new ones all the time.
 */
export class Attempts {
  private readonly networks = new Recent<TokenBucket>(MAX_NETWORKS);
  private readonly good = new Recent<true>(MAX_GOOD);

  /** @param isLimited false: failures are only counted */
  constructor(
    private readonly observer: Observer,
    private readonly isLimited: boolean,
  ) {}

  /**
   * @param digest of the key; absent: it is known not to be good
   * @returns why the key may not be checked now; undefined when it may
   */
  refusal(request: FastifyRequest, digest: Buffer | undefined): RelayError | undefined {
    if (!this.isLimited) return undefined;
    const network = callerNetwork(request);
    const wait = this.networks.get(network)?.wait() ?? 0;
    if (wait === 0 || (digest && this.good.get(nameOf(network, digest)))) return undefined;
    const message = "too many authentications from your address failed: what you sent was not checked";
    return new RelayError("too_many", message, { limit: "failed_auths", retryAfter: Math.ceil(wait) });
  }

  passed(request: FastifyRequest, digest: Buffer): void {
    this.good.use(nameOf(callerNetwork(request), digest), true);
  }

  failed(request: FastifyRequest, credential: "key" | "token"): void {
    const network = callerNetwork(request);
    this.observer.hears("auth.failed")?.({ credential, network, transport: logFields(request) });
    if (credential === "token") return;
    const known = this.networks.get(network) ?? new TokenBucket(FAILURES.burst, FAILURES.perSecond);
    this.networks.use(network, known).take();
  }
}

function nameOf(network: string, digest: Buffer): string {
  return `${network} ${digest.toString("latin1")}`;
}
