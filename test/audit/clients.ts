import type { ClientModel } from "./client-model.js";
import { Confirmations, type PongPolicy } from "./confirmations.js";
import { clock, type Ledger, rankOf } from "./ledger.js";
import { describe, type Judge } from "./judge.js";
import { type LinkEnd, openLink, type LinkOptions } from "./links.js";
import { Questions } from "./questions.js";
import { type Link, rankOfSince } from "./records.js";
import type { AuditedRelay } from "./relay.js";
import type { Report } from "./report.js";
import { sayPosition, settlePosition, skipPassed } from "./since.js";

export type ConnectOptions = Omit<LinkOptions, "address" | "client"> & { readonly pongs: PongPolicy };

interface Deps {
  readonly relay: AuditedRelay;
  readonly ledger: Ledger;
  readonly judge: Judge;
  readonly report: Report;
}

/** One client over real sockets. Tells its model what it sees and does. */
export class AuditClient {
  private end: LinkEnd | undefined;
  private readonly questions = new Questions();
  private readonly confirmations: Confirmations;
  private isSettled = false;
  /** A change whose outcome is not known. */
  unsure = false;

  constructor(
    readonly model: ClientModel,
    private readonly deps: Deps,
  ) {
    this.confirmations = new Confirmations(model, deps.ledger, () => this.end);
  }

  get isOpen(): boolean {
    const { link } = this.model;
    return link?.opened !== undefined && link.ended === undefined;
  }

  get canSpeak(): boolean {
    return (
      this.isOpen && !this.model.stalled && this.model.link?.format !== "sse" && this.model.link?.format !== "ndjson"
    );
  }

  /** Resolves when the relay has answered, or the connection has ended. */
  async connect({ pongs, ...options }: ConnectOptions): Promise<void> {
    const { model, deps } = this;
    const { since } = options;
    this.finish();
    sayPosition(model, since);
    const link: Link = {
      format: options.format,
      manual: options.manual,
      since,
      began: clock(),
      gap: false,
      received: [],
      gapNotes: [],
      mayBeCursor: model.mayBeCursor,
      leastCursor: model.leastCursor,
      manyChanges: model.mayHaveTooManyChanges,
      topicsChanged: model.changes > 0,
      mayBeOwedGap: model.mayBeOwedGap,
      isUnsaid: false,
      judged: 0,
    };
    model.rewind(rankOfSince(since) ?? Infinity);
    const previous = model.link;
    if (previous && previous.ended === undefined) this.leave(previous);
    model.link = link;
    model.stalled = false;
    this.confirmations.policy = pongs;
    this.isSettled = false;
    deps.report.figures.connections++;
    model.note(`connects: ${describe(link)} pongs=${pongs}${options.cutAtOnce ? ", to be cut at once" : ""}`);
    await new Promise<void>((resolve) => {
      const full = { ...options, address: deps.relay.address, client: model.id };
      this.end = openLink(full, this.events(link, resolve));
    });
  }

  /** Answers the pings that were held back. */
  answerHeld(): void {
    const { link } = this.model;
    if (link) this.confirmations.answerHeld(link);
  }

  /** Takes as handled what the relay has had time for. @param isStopped it ended in good order: it has handled all */
  catchUp(isStopped = false): void {
    this.confirmations.catchUp(isStopped);
  }

  /** Acknowledges what came last, by hand. */
  async ack(): Promise<void> {
    const { link } = this.model;
    const last = link?.received.findLast(
      ({ id, number }) => (id ?? this.deps.ledger.ofNumber(number)?.id) !== undefined,
    );
    const id = last?.id ?? (last && this.deps.ledger.ofNumber(last.number)?.id);
    if (!link || id === undefined || !this.canSpeak) return;
    const count = link.received.findIndex((received) => received === last) + 1;
    this.confirmations.mayConfirm(link, count, rankOf(id));
    const answer = await this.ask("ack", { id });
    if (answer?.data) this.confirmations.confirm(link, count);
  }

  /** Asks over the socket. @returns undefined when no answer came */
  async ask(action: string, payload: unknown): Promise<{ data?: unknown } | undefined> {
    if (!this.canSpeak) return undefined;
    const isLate = (): void => this.deps.report.fault("wrongAnswer", `${action} is not answered in time`, this.model);
    return this.questions.ask(action, payload, (text) => this.end?.send(text), isLate);
  }

  close(): void {
    this.model.note("closes");
    this.end?.close();
  }

  cut(): void {
    this.model.note("cuts its connection");
    this.end?.cut();
  }

  /** Stops reading: as a network that is gone, or a slow reader. */
  stall(): void {
    if (!this.isOpen) return;
    this.model.note("stops reading");
    this.model.stalled = true;
    this.model.noteQuiet(this.deps.relay.ran);
    this.end?.pause();
  }

  resume(): void {
    if (!this.model.stalled) return;
    this.model.note("reads on");
    this.model.stalled = false;
    this.end?.resume();
  }

  /** The relay was killed. */
  noteKill(): void {
    this.confirmations.forget();
    this.end?.cut();
  }

  /** Resolves when the connection has ended. */
  async ended(): Promise<void> {
    while (this.model.link && this.model.link.ended === undefined) await new Promise(setImmediate);
  }

  /** Judges what has come so far. */
  finish(toTheEnd = false): void {
    const { link } = this.model;
    if (link?.opened !== undefined) this.deps.judge.received(this.model, link, toTheEnd);
  }

  private events(link: Link, answered: () => void): Parameters<typeof openLink>[1] {
    const { model, deps } = this;
    const isCurrent = (): boolean => model.link === link;
    return {
      opened: (gap) => {
        if (link.opened === undefined) {
          model.note(`connected${gap ? " with a gap" : ""}`);
          link.opened = clock();
          model.noteSeen();
        }
        link.gap ||= gap;
        answered();
      },
      ready: () => {
        if (isCurrent()) this.confirmations.fence();
      },
      refused: (status, body) => {
        this.refused(link, status, body);
        answered();
      },
      settled: () => this.settle(link),
      received: (number, id) => this.receive(link, number, id),
      gapNoted: () => this.gapNoted(link),
      answered: (id, frame) => {
        this.questions.answered(id, frame);
      },
      ping: (payload) => this.pinged(link, payload),
      pong: () => {
        if (!isCurrent()) return;
        this.settle(link);
        this.confirmations.fenced(link);
      },
      ended: (code, reason) => {
        if (code === 1013 && !reason.includes("try again")) this.gapNoted(link);
        if (code !== undefined) this.confirmations.ended(link, code);
        model.note(`its connection has ended with ${code}`);
        link.ended = clock();
        if (isCurrent()) this.lose(link);
        else deps.judge.received(model, link);
        answered();
      },
    };
  }

  private receive(link: Link, number: number, id: string | undefined): void {
    const { ledger } = this.deps;
    const at = clock();
    link.received.push({ number, id, at });
    const publication = ledger.ofNumber(number);
    if (!publication) return;
    publication.happened.push(
      `${at.toFixed(0)} ${this.model.id.slice(0, 4)} has it${id === undefined ? "" : ` as ${id}`}`,
    );
    this.model.noteReceived(number);
    this.model.fate(publication).receivedAt ??= at;
  }

  private pinged(link: Link, payload: string): void {
    const { model, deps } = this;
    if (model.link !== link) return;
    if (payload === "") return this.end?.pong("");
    const last = link.received.at(-1);
    if (last?.id !== undefined && last.id !== payload) {
      deps.report.fault("wrongAnswer", `a ping has the id ${payload} after ${last.id}`, model);
    }
    this.confirmations.pinged(link, payload);
  }

  /** The relay has done what the client asked for on connecting. */
  private settle(link: Link): void {
    if (this.isSettled || this.model.link !== link || link.opened === undefined) return;
    this.isSettled = true;
    const { model, deps } = this;
    deps.judge.start(model, link);
    skipPassed(model, link);
    settlePosition(model, link);
  }

  private gapNoted(link: Link): void {
    link.gapNotes.push({ index: link.received.length, at: clock() });
    this.model.note("is told of a gap");
    this.deps.judge.note(this.model, link);
  }

  private refused(link: Link, status: number, body: string): void {
    const { model, deps } = this;
    model.note(`is answered ${status}`);
    if (status === 404) this.noteForgotten(body);
    else if (status !== 503 && status !== 429) {
      deps.report.fault(
        "wrongAnswer",
        `connecting is answered ${status}`,
        model,
        undefined,
        `${body} ${describe(link)}`,
      );
    }
  }

  noteForgotten(how: string): void {
    this.deps.judge.forgotten(this.model, this.deps.relay.ran, how);
  }

  /** An older connection stays open until the relay ends it; nothing is said on it any more. */
  private leave(link: Link): void {
    this.deps.judge.received(this.model, link);
    this.end?.resume();
    this.model.leftAt = clock();
    const { end } = this;
    this.lose(link);
    // A relay that does not see that it is gone would keep it for long.
    setTimeout(() => end?.cut(), 3000).unref();
  }

  private lose(link: Link): void {
    if (link.opened !== undefined) {
      if (!this.isSettled) this.deps.judge.start(this.model, link);
      skipPassed(this.model, link);
      this.isSettled = true;
      this.model.noteQuiet(this.deps.relay.ran);
    }
    this.confirmations.lose();
    this.questions.lose();
  }
}
