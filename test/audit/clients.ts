import { clock, type Ledger, type Publication, rankOf } from "./ledger.js";
import { type ClientModel, type Link, rankOfSince } from "./client-model.js";
import { describe, type Judge } from "./judge.js";
import { type LinkEnd, openLink, type LinkOptions } from "./links.js";
import type { AuditedRelay } from "./relay.js";
import type { Report } from "./report.js";

/** Milliseconds after which the relay has certainly handled what it was sent, if it still runs. */
const HANDLED_WITHIN = 1200;

/** Milliseconds for an answer to come. */
const ANSWERED_WITHIN = 15_000;

/** Close codes after which the relay does not ask whether everything arrived. */
const UNCONFIRMING = new Set([4401, 4404, 4409]);

/** When a client answers the relay's pings. */
export type PongPolicy = "always" | "held" | "never";

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
  private readonly questions = new Map<string, (answer: unknown) => void>();
  private nextQuestion = 1;
  /** Pings that were not answered, with how many events came before each. */
  private held: { payload: string; count: number }[] = [];
  private pongs: PongPolicy = "always";
  /** For each text `ping` that was not answered: how many events were confirmed before it was sent. */
  private fences: number[] = [];
  /** Confirmations without an answer, to be taken as handled some time later. */
  private handled: { link: Link; count: number; at: number }[] = [];
  private isSettled = false;
  /** A change whose outcome is not known. */
  unsure = false;

  constructor(
    readonly model: ClientModel,
    private readonly deps: Deps,
  ) {}

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
    const asked = rankOfSince(since);
    if (asked !== undefined) this.say(asked);
    else if (since !== undefined && since !== "now") model.rewind(0);
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
    if (asked !== undefined) model.rewind(asked);
    const previous = model.link;
    if (previous && previous.ended === undefined) this.leave(previous);
    model.link = link;
    model.stalled = false;
    this.pongs = pongs;
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
    if (!link) return;
    for (const { payload, count } of this.held.splice(0)) this.answer(link, payload, count);
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
    this.mayConfirm(link, count, rankOf(id));
    const answer = (await this.ask("ack", { id })) as { data?: unknown } | undefined;
    if (answer?.data) this.confirm(link, count);
  }

  /** Asks over the socket. @returns undefined when no answer came */
  async ask(action: string, payload: unknown): Promise<unknown> {
    if (!this.canSpeak) return undefined;
    const id = `q${this.nextQuestion++}`;
    const answer = new Promise((resolve) => this.questions.set(id, resolve));
    this.end?.send(JSON.stringify({ id, type: "request", action, payload }));
    const timer = setTimeout(() => this.fail(id, action), ANSWERED_WITHIN);
    const result = await answer;
    clearTimeout(timer);
    return result;
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

  /** Takes as handled what the relay has had time for. @param isStopped it ended in good order: it has handled all */
  catchUp(isStopped = false): void {
    const now = clock();
    for (const { link, count, at } of this.handled) {
      if (isStopped || now - at > HANDLED_WITHIN) this.confirm(link, count);
    }
    this.handled = isStopped ? [] : this.handled.filter(({ at }) => now - at <= HANDLED_WITHIN);
  }

  /** The relay was killed. */
  noteKill(): void {
    this.handled = [];
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
        }
        link.gap ||= gap;
        answered();
      },
      ready: () => {
        if (isCurrent()) this.fence(0);
      },
      refused: (status, body) => {
        this.refused(link, status, body);
        answered();
      },
      settled: () => this.settle(link),
      received: (number, id) => this.receive(link, number, id),
      gapNoted: () => this.gapNoted(link),
      answered: (id, frame) => {
        this.questions.get(id)?.(frame);
        this.questions.delete(id);
      },
      ping: (payload) => this.pinged(link, payload),
      pong: () => {
        if (!isCurrent()) return;
        const count = this.fences.shift() ?? 0;
        this.settle(link);
        if (count > 0) this.confirm(link, count);
      },
      ended: (code, reason) => {
        if (code === 1013 && !reason.includes("try again")) this.gapNoted(link);
        if (code !== undefined && !link.manual && !UNCONFIRMING.has(code)) this.noteOrderlyEnd(link, code);
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
    const { model } = this;
    if (model.link !== link) return;
    if (payload === "") return this.end?.pong("");
    const last = link.received.at(-1);
    if (last?.id !== undefined && last.id !== payload) {
      this.deps.report.fault("wrongAnswer", `a ping has the id ${payload} after ${last.id}`, model);
    }
    const count = link.received.length;
    if (this.pongs === "always") this.answer(link, payload, count);
    else if (this.pongs === "held") this.held.push({ payload, count });
  }

  private answer(link: Link, payload: string, count: number): void {
    if (this.model.link !== link || link.ended !== undefined) return;
    if (!link.manual) {
      this.model.note(`confirms by a pong up to ${payload}`);
      this.mayConfirm(link, count, rankOf(payload));
    }
    this.end?.pong(payload);
    this.fence(link.manual ? 0 : count);
  }

  private fence(count: number): void {
    this.fences.push(count);
    this.end?.send("ping");
  }

  private mayConfirm(link: Link, count: number, rank: number): void {
    this.model.mayConfirm(link.received.slice(0, count), rank, this.deps.ledger);
  }

  private confirm(link: Link, count: number): void {
    this.model.confirmed(link.received.slice(0, count), this.deps.ledger);
  }

  /** The library has answered the relay's close frame. */
  private noteOrderlyEnd(link: Link, code: number): void {
    const { ledger } = this.deps;
    const count = link.received.length;
    const ranks = link.received.map(
      ({ id, number }) => (id === undefined ? ledger.ofNumber(number)?.rank : rankOf(id)) ?? 0,
    );
    // A close that this end has begun says nothing.
    if (code === 1000) return;
    this.model.note(`answers the close frame with ${code}`);
    this.mayConfirm(link, count, Math.max(0, ...ranks));
    this.handled.push({ link, count, at: clock() });
  }

  /** What `since` says: all up to there has been received. */
  private say(asked: number): void {
    const { model } = this;
    const at = clock();
    model.mayBeCursor = Math.max(model.mayBeCursor, asked);
    for (const fate of model.fates.values()) {
      const { rank } = fate.publication;
      if (rank === undefined || rank > asked) continue;
      fate.mayBeConfirmedAt ??= at;
      if (fate.receivedAt === undefined) fate.mayBeSkippedAt ??= at;
    }
  }

  /** The relay has done what the client asked for on connecting. */
  private settle(link: Link): void {
    if (this.isSettled || this.model.link !== link || link.opened === undefined) return;
    this.isSettled = true;
    const { model, deps } = this;
    deps.judge.start(model, link);
    this.skip(link);
    const asked = rankOfSince(link.since);
    if (asked === undefined) return;
    for (const fate of model.fates.values()) {
      if ((fate.publication.rank ?? Infinity) > asked) continue;
      if (fate.receivedAt === undefined) fate.skippedAt ??= clock();
      else if (fate.mayBeSkippedAt === undefined) fate.confirmedAt ??= clock();
    }
    model.moveOn(asked);
  }

  /** What `since` may have passed over. */
  private skip({ since, began, opened = 0 }: Link): void {
    const ago = typeof since === "object" && "ago" in since ? since.ago : since === "now" ? 0 : undefined;
    for (const fate of this.model.fates.values()) {
      // Going back brings back what was passed over.
      if (since !== undefined && since !== "now") delete fate.skippedAt;
      if (ago === undefined || fate.publication.began > opened - ago) continue;
      fate.mayBeSkippedAt ??= began;
      if (ago === 0 && fate.publication.answered < began && fate.confirmedAt === undefined) fate.skippedAt ??= clock();
    }
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
      this.skip(link);
      this.isSettled = true;
      this.model.noteQuiet(this.deps.relay.ran);
    }
    this.held = [];
    this.fences = [];
    for (const resolve of this.questions.values()) resolve(undefined);
    this.questions.clear();
  }

  private fail(id: string, action: string): void {
    this.deps.report.fault("wrongAnswer", `${action} is not answered in time`, this.model);
    this.questions.get(id)?.(undefined);
  }
}

/** Whether the client has had everything that is due to it. */
export function awaited(client: AuditClient, judge: Judge): Publication | undefined {
  const { model } = client;
  return client.isOpen && !model.stalled && model.link ? judge.awaited(model, model.link) : undefined;
}
