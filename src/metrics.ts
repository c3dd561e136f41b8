import { collectDefaultMetrics, Counter, Gauge, Registry } from "prom-client";
import { LIMIT_NAMES } from "./core/errors.js";
import type { Observer } from "./core/observer.js";

/** Of the process, whatever relays it has; measured from when somebody asks. */
let ofProcess: Registry | undefined;

/** What there is to count, in the text format of Prometheus. No label has a value that callers make up. */
export class Metrics {
  static readonly contentType = Registry.PROMETHEUS_CONTENT_TYPE;
  private readonly registry = new Registry();
  private readonly limits = new Counter({
    name: "relay_limited_total",
    help: "What was refused or ended because of a limit",
    labelNames: ["limit"],
    registers: [this.registry],
  });
  private readonly failedAuths = new Counter({
    name: "relay_failed_auths_total",
    help: "Keys and tokens that were not good",
    registers: [this.registry],
  });

  constructor(observer: Observer) {
    for (const limit of LIMIT_NAMES) this.limits.inc({ limit }, 0);
    observer.on("limit.reached", ({ limit }) => this.limits.inc({ limit }));
    observer.on("auth.failed", () => this.failedAuths.inc());
  }

  /** A number that is looked up when somebody asks. */
  gauge(name: string, help: string, value: () => number): void {
    const gauge: Gauge = new Gauge({ name, help, registers: [this.registry], collect: () => gauge.set(value()) });
  }

  async text(): Promise<string> {
    if (!ofProcess) collectDefaultMetrics({ register: (ofProcess = new Registry()) });
    return Registry.merge([ofProcess, this.registry]).metrics();
  }
}
