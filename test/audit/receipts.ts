import type { ClientModel } from "./client-model.js";
import type { Fate } from "./records.js";
import { clock, type Ledger, type Publication } from "./ledger.js";
import type { Judge } from "./judge.js";
import type { AuditedRelay } from "./relay.js";
import type { Report } from "./report.js";
import { matchesAny } from "./topics.js";

/** Milliseconds after which the relay certainly knows of the end of a connection. */
const NOTICED_WITHIN = 1500;

/** How many receipts may say nothing though no relay was killed since (docs/PROTOCOL.md, section 4). */
const SELDOM = { least: 10, part: 0.01 };

interface Receipt {
  readonly topic: string;
  readonly matched?: number;
  readonly sent?: number;
  readonly confirmed?: number;
  readonly waiting?: number;
  readonly expired?: number;
  readonly clients?: readonly { readonly id: string; readonly state: State }[];
}

interface Deps {
  readonly relay: AuditedRelay;
  readonly ledger: Ledger;
  readonly judge: Judge;
  readonly models: ReadonlyMap<string, ClientModel>;
  readonly report: Report;
  /** When the relay was started that is running now. */
  readonly startedAt: () => number;
}

/** What a publisher is told. */
interface Counts {
  readonly matched?: number;
  readonly sent?: number;
  readonly waiting?: number;
  readonly confirmed?: number;
}

interface Ghost {
  readonly user: string;
  readonly topics: readonly string[];
}

type State = "confirmed" | "expired" | "waiting" | "sent";

/** Judges `GET /events/ID`, and the counts that publishers are answered. */
export class Receipts {
  /** Registrations that are under way. */
  registering = 0;
  /** Clients that may be there, though nobody was told of them. */
  readonly ghosts: Ghost[] = [];

  private readonly ledger: Ledger;
  private readonly report: Report;
  private readonly clients: ReadonlyMap<string, ClientModel>;

  constructor(private readonly deps: Deps) {
    this.ledger = deps.ledger;
    this.report = deps.report;
    this.clients = deps.models;
  }

  async check(publication: Publication): Promise<void> {
    const { id } = publication;
    if (id === undefined) return;
    const asked = clock();
    const answer = await this.deps.relay.request("GET", `/events/${id}`);
    if (!answer || answer.status === 503) return;
    this.report.figures.receipts++;
    const now = clock();
    if (answer.status === 404) return this.unknown(publication, now);
    const receipt = answer.body as Receipt;
    if (answer.status !== 200 || receipt.topic !== publication.topic) {
      return this.report.fault(
        "wrongAnswer",
        `GET /events: ${answer.status}`,
        undefined,
        publication,
        JSON.stringify(receipt),
      );
    }
    if (!receipt.clients) return this.absent(publication, receipt);
    this.counts(publication, receipt);
    for (const { id: client, state } of receipt.clients) {
      this.report.figures.states[state] = (this.report.figures.states[state] ?? 0) + 1;
      const model = this.clients.get(client);
      if (model) await this.state(model, publication, state, asked, now);
      else if (!this.ghosts.some((ghost) => this.isFor(publication, ghost))) {
        this.report.fault("misrouted", "a client is listed that nobody registered", undefined, publication, client);
      }
    }
    await this.audience(publication, new Set(receipt.clients.map((delivery) => delivery.id)));
  }

  /** `matched`, `sent`, `waiting` and `confirmed` of an answer to a publisher. */
  async reply(publication: Publication, reply: Counts): Promise<void> {
    const { matched, sent = 0, waiting = 0 } = reply;
    const having = (holds: (fate: Fate, model: ClientModel) => boolean): ClientModel[] =>
      [...this.clients.values()].filter((model) => {
        const fate = model.fates.get(publication.number);
        return fate !== undefined && holds(fate, model);
      });
    const certain = (): ClientModel[] => having(({ match }, { removed }) => match === "yes" && !removed);
    const most =
      having(({ match }) => match !== "no").length +
      this.registering +
      this.ghosts.filter((ghost) => this.isFor(publication, ghost)).length;
    const confirmed = having(({ mayBeConfirmedAt }) => mayBeConfirmedAt !== undefined).length;
    if (matched !== undefined && matched < certain().length) await this.areForgotten(certain());
    const least = certain().length;
    const knows = `between ${least} and ${most} match, ${confirmed} may have confirmed: ${JSON.stringify(reply)}`;
    const fault = (claim: string): void => this.report.fault("falseState", claim, undefined, publication, knows);
    if (matched !== undefined && (matched < least || matched > most)) {
      fault("a publisher is told a wrong number of clients");
      // Which ones they are.
      await this.check(publication);
    }
    // What was replaced meanwhile is neither sent nor waiting.
    const isDropped = this.ledger.mayBeReplacedAt(publication) < Infinity || publication.ttl !== undefined;
    const rest = (matched ?? 0) - sent - waiting;
    if (rest < 0 || (rest > 0 && !isDropped)) fault("a publisher's counts do not add up");
    if ((reply.confirmed ?? 0) > confirmed) fault("more clients are counted as confirmed than have confirmed");
  }

  /** Looks at clients that something was false of: they may have been forgotten, which is one fault and not many. */
  private async areForgotten(models: readonly ClientModel[]): Promise<boolean> {
    const { relay, judge } = this.deps;
    let isAny = false;
    for (const model of models) {
      const answer = await relay.request("GET", `/register/${model.id}`);
      if (answer?.status !== 404) continue;
      judge.forgotten(model, relay.ran, "on a look at its registration");
      isAny = true;
    }
    return isAny;
  }

  private isFor({ users, topic }: Publication, { user, topics }: Ghost): boolean {
    return (!users || users.includes(user)) && matchesAny(topics, topic);
  }

  private unknown(publication: Publication, now: number): void {
    const { ledger } = this;
    const isOld = publication.began < this.deps.startedAt();
    if (ledger.mayBeTrimmedAt(publication) <= now || (isOld && publication.ttl === 0)) return;
    if (isOld && ledger.mayBeReplacedAt(publication) <= now) return;
    this.report.fault("lost", "there is no receipt for an event that was acknowledged", undefined, publication);
  }

  private absent(publication: Publication, receipt: Receipt): void {
    const { ledger, report } = this;
    report.figures.absent++;
    if (Object.keys(receipt).some((name) => ["matched", "sent", "confirmed", "waiting", "expired"].includes(name))) {
      report.fault("falseState", "there are counts without states", undefined, publication, JSON.stringify(receipt));
    }
    if (ledger.killedSince(publication.began)) return;
    // Seldom: a client that goes back again and again, a slow one that reads a burst in many pieces.
    report.figures.absentUnkilled++;
    if (report.figures.absentUnkilled > SELDOM.least + report.figures.receipts * SELDOM.part) {
      report.fault("falseState", "states are absent too often though no relay was killed", undefined, publication);
    }
  }

  private counts(publication: Publication, { clients = [], matched, ...counts }: Receipt): void {
    const of = (state: State): number => clients.filter((client) => client.state === state).length;
    const states = ["confirmed", "expired", "waiting", "sent"] as const;
    if (matched === clients.length && states.every((state) => counts[state] === of(state))) return;
    this.report.fault("falseState", "the counts of a receipt are not those of its states", undefined, publication);
  }

  /** Are those listed whom the event matched? */
  private async audience(publication: Publication, listed: ReadonlySet<string>): Promise<void> {
    for (const model of this.clients.values()) {
      const match = model.fates.get(publication.number)?.match ?? "no";
      const isListed = listed.has(model.id);
      if (match === "no" && isListed && publication.answered > (model.subscribed[0]?.ended ?? 0)) {
        this.report.fault("falseState", "a client is listed that the event did not match", model, publication);
      }
      if (match === "yes" && !isListed && !model.mayBeGone(this.deps.relay.ran)) {
        if (await this.areForgotten([model])) continue;
        this.report.fault("falseState", "a client that the event matched is not listed", model, publication);
      }
    }
  }

  private async state(
    model: ClientModel,
    publication: Publication,
    state: State,
    asked: number,
    now: number,
  ): Promise<void> {
    const fate = model.fate(publication);
    const why = this.falsehood(model, fate, state, asked, now);
    if (why !== undefined && !(await this.areForgotten([model]))) {
      const times = `state asked at ${asked.toFixed(0)}; killed since: ${this.ledger.killedSince(publication.answered)}; replaced by ${this.ledger.replacedBy(publication)}`;
      this.report.fault("falseState", `"${state}" ${why}`, model, publication, times);
    }
    if (state === "expired" && publication.ttl !== 0) fate.saidExpiredAt ??= now;
    if (state === "confirmed" && why === undefined) fate.confirmedAt ??= now;
  }

  /** What makes a state false; undefined: nothing does. */
  private falsehood(model: ClientModel, fate: Fate, state: State, asked: number, now: number): string | undefined {
    const { publication } = fate;
    if (state === "confirmed") {
      if ((fate.mayBeConfirmedAt ?? Infinity) <= now || this.mayBeSaid(model, fate)) return undefined;
      return fate.receivedAt === undefined ? "though it was never received" : "though it was not confirmed";
    }
    const { confirmedAt = Infinity } = fate;
    if (confirmedAt < asked) {
      const isLate = this.mayBeDroppedAt(fate) < confirmedAt ? ", after it was dropped" : "";
      return `though it was received and confirmed${isLate}`;
    }
    if (state === "expired")
      return this.mayBeExpired(model, fate, now) ? undefined : "though nothing keeps it from coming";
    const { link } = model;
    if (state === "sent") {
      const since = link?.ended ?? (link?.opened === undefined ? model.leftAt : Infinity);
      return since < asked - NOTICED_WITHIN && !model.stalled ? "though the client has no connection" : undefined;
    }
    if (publication.ttl === 0) return "though it is not kept";
    if (this.ledger.isReplacedAt(publication) < asked) return "though it was replaced";
    if (this.ledger.isOverAt(publication) < asked) return "though its ttl is over";
    if ((fate.narrowedAt ?? Infinity) < asked) return "though the client may not have it any more";
    if ((fate.skippedAt ?? Infinity) < asked) return "though the client skipped it";
    return undefined;
  }

  private mayBeExpired(model: ClientModel, fate: Fate, now: number): boolean {
    const { publication } = fate;
    if (publication.ttl === 0 || model.mayBeGone(this.deps.relay.ran) || model.mayHaveTooManyChanges || fate.lost)
      return true;
    if (model.link?.manyChanges) return true;
    // It may have been published before the client could no longer have it.
    if (fate.match === "maybe" || (publication.rank ?? Infinity) <= model.said) return true;
    return this.mayBeDroppedAt(fate) <= now;
  }

  /** Confirmed, or skipped, before it was known which id it has. */
  private mayBeSaid(model: ClientModel, { publication: { rank = Infinity }, receivedAt }: Fate): boolean {
    return rank <= model.said || (receivedAt !== undefined && rank <= model.mayBeCursor);
  }

  private mayBeDroppedAt({ publication, mayBeNarrowedAt = Infinity, mayBeSkippedAt = Infinity }: Fate): number {
    const { ledger } = this;
    const trimmed = ledger.mayBeTrimmedAt(publication);
    const dropped = Math.min(ledger.mayBeOverAt(publication), ledger.mayBeReplacedAt(publication), trimmed);
    return Math.min(dropped, mayBeNarrowedAt, mayBeSkippedAt);
  }
}
