import type { ClientModel } from "./client-model.js";
import type { AuditClient } from "./clients.js";
import { clock, KEPT_WITHIN, type Ledger } from "./ledger.js";
import type { Random } from "./random.js";
import type { AuditedRelay } from "./relay.js";
import type { Report } from "./report.js";

/** Milliseconds for a relay that can write again to notice it. */
const READY_WITHIN = 10_000;

interface Deps {
  readonly relay: AuditedRelay;
  readonly ledger: Ledger;
  readonly report: Report;
  readonly models: ReadonlyMap<string, ClientModel>;
  readonly clients: () => Iterable<AuditClient>;
}

/** What happens to the relay itself. */
export class Faults {
  /** When the relay was started that is running now. */
  startedAt = 0;

  constructor(private readonly deps: Deps) {}

  async start(): Promise<void> {
    this.startedAt = clock();
    await this.deps.relay.start();
  }

  /** kill -9; what is under way breaks. */
  async kill(): Promise<void> {
    const { relay, ledger, report, models } = this.deps;
    const safe = Math.min(clock(), relay.fullSince ?? Infinity) - KEPT_WITHIN;
    await relay.kill();
    report.figures.kills++;
    ledger.noteKill();
    for (const client of this.deps.clients()) client.noteKill();
    await this.ended();
    for (const model of models.values()) model.noteKill(safe, relay.ran);
    this.noteAll("the relay was killed");
  }

  /** An orderly end. */
  async stop(): Promise<void> {
    const { relay, report } = this.deps;
    for (const client of this.deps.clients()) if (client.model.stalled) client.cut();
    await relay.stop();
    report.figures.restarts++;
    await this.ended();
    for (const client of this.deps.clients()) client.catchUp(true);
    this.noteAll("the relay was stopped");
  }

  /** The relay can not write, while `meanwhile` goes on; then it can again, or is killed. */
  async fillDisk(meanwhile: () => Promise<void>, isKilled: boolean): Promise<void> {
    const { relay, report } = this.deps;
    if (!relay.fill(true)) return meanwhile();
    report.figures.fullDisks++;
    this.noteAll("the disk is full");
    await meanwhile();
    if (isKilled) return;
    relay.fill(false);
    await this.ready();
    this.noteAll("the disk has room again");
  }

  /** Time passes for a relay that is down. */
  static downtime(random: Random): number {
    return random.chance(0.25) ? random.int(300, 2000) : 0;
  }

  private async ready(): Promise<void> {
    const until = clock() + READY_WITHIN;
    for (;;) {
      const answer = await this.deps.relay.request("GET", "/ready");
      if (answer?.status === 200) return;
      if (clock() > until) {
        return this.deps.report.fault("wrongAnswer", "the relay is not ready again when its disk has room");
      }
    }
  }

  private async ended(): Promise<void> {
    for (const client of this.deps.clients()) {
      await client.ended();
      client.finish();
    }
  }

  private noteAll(what: string): void {
    for (const model of this.deps.models.values()) if (!model.removed) model.note(what);
  }
}
