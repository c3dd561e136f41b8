import { setTimeout as delay } from "node:timers/promises";
import { Actor } from "./actors.js";
import { Changes } from "./changes.js";
import type { AuditClient } from "./clients.js";
import type { ClientModel } from "./client-model.js";
import { Faults } from "./faults.js";
import { Judge } from "./judge.js";
import { clock, KEPT_WITHIN, Ledger } from "./ledger.js";
import { Publisher } from "./publisher.js";
import { Random } from "./random.js";
import { Receipts } from "./receipts.js";
import { AuditedRelay } from "./relay.js";
import { Report } from "./report.js";

export interface AuditOptions {
  readonly seed: string;
  readonly seconds: number;
  /** The relay's command, as JavaScript. */
  readonly cli: string;
  /** Where its data is. */
  readonly directory: string;
  /** The relay is known to lose something: it is killed again and again, until something is lost or it was killed so often. */
  readonly mutant?: { readonly mostKills: number };
}

/** How many events the log keeps: few, so that it is trimmed all the time. */
const RETENTION = 150;

const ACTORS = 14;

/** Events that are remembered. */
const REMEMBERED = 2500;

/** Of how many events the receipts are looked at after each restart. */
const LOOKED_AT = 8;

/** Milliseconds in which everything that is due arrives. */
const ARRIVES_WITHIN = 8000;

const FLAGS = [
  "--retention-count",
  String(RETENTION),
  "--ping-interval",
  "3s",
  "--max-buffer",
  "64KiB",
  "--log-level",
  "error",
];

/** Random clients, publishers and faults against a relay in a process of its own, and a judge of all that it says. */
export class Audit {
  readonly report: Report;
  private readonly random: Random;
  private readonly models = new Map<string, ClientModel>();
  private readonly ledger = new Ledger(RETENTION);
  private readonly relay: AuditedRelay;
  private readonly judge: Judge;
  private readonly receipts: Receipts;
  private readonly publisher: Publisher;
  private readonly faults: Faults;
  private readonly actors: readonly Actor[];

  constructor(private readonly options: AuditOptions) {
    const { models, ledger } = this;
    this.random = new Random(options.seed);
    const report = (this.report = new Report(options.seed));
    const relay = (this.relay = new AuditedRelay(options.cli, options.directory, FLAGS));
    const judge = (this.judge = new Judge(ledger, report));
    const receipts = new Receipts({ relay, ledger, judge, models, report, startedAt: () => this.faults.startedAt });
    this.receipts = receipts;
    const publisher = new Publisher(
      { relay, ledger, report, receipts, clients: models },
      this.random.fork("publisher"),
    );
    this.publisher = publisher;
    const changes = new Changes({ relay, report, publisher, receipts });
    const deps = { relay, ledger, judge, report, models, changes, receipts };
    this.actors = Array.from({ length: ACTORS }, (_, index) => new Actor(deps, this.random.fork(`actor ${index}`)));
    this.faults = new Faults({ relay, ledger, report, models, clients: () => this.clients() });
  }

  async run(): Promise<Report> {
    const { options, report, faults } = this;
    const until = clock() + options.seconds * 1000;
    await faults.start();
    try {
      while (clock() < until && !this.isCaught()) await this.episode();
      if (!options.mutant) await this.conclude();
    } finally {
      await this.relay.kill();
      for (const client of this.clients()) client.cut();
    }
    for (const failure of this.relay.failures) report.fault("wrongAnswer", failure.slice(0, 300));
    return report;
  }

  private isCaught(): boolean {
    const { figures, faults } = this.report;
    return this.options.mutant !== undefined && (faults.lost > 0 || figures.kills >= this.options.mutant.mostKills);
  }

  /** Some seconds of random things, and then something that happens to the relay. */
  private async episode(): Promise<void> {
    const { random, faults } = this;
    const weights = this.options.mutant
      ? { kill: 1, stop: 0, full: 0, none: 0 }
      : { kill: 6, stop: 2.5, full: 1.2, none: 1 };
    const choice = random.weighted(weights);
    // Also a short run has a kill.
    const end = this.report.figures.kills === 0 ? "kill" : choice;
    const isQuiet = !this.options.mutant && random.chance(0.4);
    const length = this.options.mutant ? random.int(100, 500) : random.int(300, 1800);
    const isKilled = random.chance(0.6);
    const downtime = Faults.downtime(random);
    await this.live(length);
    if (isQuiet) {
      await this.checkpoint();
      // What was confirmed before is on the disk then, and has to be known after a crash.
      if (end === "kill") await this.live(KEPT_WITHIN + 100);
    }
    if (end === "full") await faults.fillDisk(() => this.live(length / 2), isKilled);
    if (end === "kill" || (end === "full" && isKilled)) await this.during(() => faults.kill());
    if (end === "stop") await this.during(() => faults.stop());
    if (!this.relay.isUp) {
      if (!this.relay.isEnded) await faults.kill();
      const last = this.ledger.lastAcknowledged(LOOKED_AT);
      await delay(downtime);
      await faults.start();
      // What was acknowledged just before has to be there.
      for (const publication of last) await this.receipts.check(publication);
    }
    this.prune();
  }

  /** Groups of things that happen at the same time, one after the other. */
  private async live(milliseconds: number): Promise<void> {
    const until = clock() + milliseconds;
    while (clock() < until) await Promise.all(this.group().map((action) => action()));
  }

  /** Something that happens to the relay in the midst of a group. */
  private async during(fault: () => Promise<void>): Promise<void> {
    const after = this.random.int(0, 20);
    const actions = this.group().map((action) => action());
    await Promise.all([...actions, delay(after).then(fault)]);
    for (const client of this.clients()) client.finish();
  }

  private group(): (() => Promise<void>)[] {
    const { random } = this;
    const actions: (() => Promise<void>)[] = [];
    const busy = new Set<Actor>();
    for (let count = random.int(1, 7); count > 0; count--) {
      const what = random.weighted({ publish: 5, act: 6, look: 2, rest: 1 });
      if (what === "publish") actions.push(this.publisher.choose());
      else if (what === "look") actions.push(this.look());
      else if (what === "rest") {
        const pause = random.int(1, 8);
        actions.push(() => delay(pause));
      } else {
        const actor = random.pick(this.actors);
        if (!busy.has(actor)) actions.push(actor.choose());
        busy.add(actor);
      }
    }
    return actions;
  }

  /** Looks at the receipts of some events. */
  private look(): () => Promise<void> {
    const { all } = this.ledger;
    const newest = all.slice(-Math.min(all.length, this.random.pick([10, 100, RETENTION, RETENTION])));
    const some = Array.from({ length: 3 }, () => (newest.length > 0 ? [this.random.pick(newest)] : [])).flat();
    return async () => void (await Promise.all(some.map((publication) => this.receipts.check(publication))));
  }

  /** Everything that is due to clients that read has to arrive now. */
  private async checkpoint(): Promise<void> {
    for (const client of this.clients()) client.resume();
    const until = clock() + ARRIVES_WITHIN;
    const isComplete = (): boolean =>
      [...this.clients()].every(({ isOpen, model: { link, stalled }, model }) => {
        return !isOpen || stalled || !link || !this.judge.awaited(model, link);
      });
    while (!isComplete() && clock() < until) await delay(20);
    for (const client of this.clients()) client.finish(client.isOpen);
  }

  /** All come back, get what they are owed, and every receipt that the log has is looked at. */
  private async conclude(): Promise<void> {
    await this.live(200);
    for (const actor of this.actors) if (actor.client && !actor.client.model.removed) await actor.connectPlainly();
    await this.checkpoint();
    for (const publication of this.ledger.all.slice(-RETENTION / 2)) await this.receipts.check(publication);
  }

  private *clients(): Generator<AuditClient> {
    for (const { client } of this.actors) if (client) yield client;
  }

  private prune(): void {
    for (const client of this.clients()) client.finish();
    const gone = this.ledger.prune(REMEMBERED);
    const current = new Set([...this.clients()].map(({ model }) => model));
    for (const [id, model] of this.models) {
      // Receipts of remembered events may still name it.
      if (!current.has(model) && model.removedAt < (gone.at(-1)?.began ?? 0)) this.models.delete(id);
      for (const publication of gone) model.forget(publication);
    }
  }
}
