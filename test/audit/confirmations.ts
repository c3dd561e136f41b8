import type { ClientModel } from "./client-model.js";
import { clock, type Ledger, rankOf } from "./ledger.js";
import type { LinkEnd } from "./links.js";
import type { Link } from "./records.js";

/** Milliseconds after which the relay has certainly handled what it was sent, if it still runs. */
const HANDLED_WITHIN = 1200;

/** Close codes after which the relay does not ask whether everything arrived; and that of a close that a client began. */
const UNCONFIRMING = new Set([1000, 4401, 4404, 4409]);

/** When a client answers the relay's pings. */
export type PongPolicy = "always" | "held" | "never";

/** What a client confirms: when it may have, and when the relay certainly has it. */
export class Confirmations {
  policy: PongPolicy = "always";
  /** Pings that were not answered, with how many events came before each. */
  private held: { payload: string; count: number }[] = [];
  /** For each text `ping` that was not answered: how many events were confirmed before it was sent. */
  private fences: number[] = [];
  /** Confirmations without an answer, to be taken as handled some time later. */
  private handled: { link: Link; count: number; at: number }[] = [];

  constructor(
    private readonly model: ClientModel,
    private readonly ledger: Ledger,
    private readonly end: () => LinkEnd | undefined,
  ) {}

  /** A ping with an id has come. */
  pinged(link: Link, payload: string): void {
    const count = link.received.length;
    if (this.policy === "always") this.answer(link, payload, count);
    else if (this.policy === "held") this.held.push({ payload, count });
  }

  /** Answers the pings that were held back. */
  answerHeld(link: Link): void {
    for (const { payload, count } of this.held.splice(0)) this.answer(link, payload, count);
  }

  /** Sends a text `ping`: when its answer comes, the relay has handled all that went before it. */
  fence(count = 0): void {
    this.fences.push(count);
    this.end()?.send("ping");
  }

  /** The answer to the oldest text `ping`. */
  fenced(link: Link): void {
    const count = this.fences.shift() ?? 0;
    if (count > 0) this.confirm(link, count);
  }

  mayConfirm(link: Link, count: number, rank: number): void {
    this.model.mayConfirm(link.received.slice(0, count), rank, this.ledger);
  }

  confirm(link: Link, count: number): void {
    this.model.confirmed(link.received.slice(0, count), this.ledger);
  }

  /** The connection has ended with a close frame of the relay, which the library has answered. */
  ended(link: Link, code: number): void {
    if (link.manual || UNCONFIRMING.has(code)) return;
    const ranks = link.received.map(({ id, number }) =>
      id === undefined ? this.ledger.ofNumber(number)?.rank : rankOf(id),
    );
    this.model.note(`answers the close frame with ${code}`);
    this.model.heardGaps(link);
    this.mayConfirm(link, link.received.length, Math.max(0, ...ranks.map((rank) => rank ?? 0)));
    this.handled.push({ link, count: link.received.length, at: clock() });
  }

  /** Takes as handled what the relay has had time for. @param isStopped it ended in good order: it has handled all */
  catchUp(isStopped: boolean): void {
    const now = clock();
    const isHandled = ({ at }: { at: number }): boolean => isStopped || now - at > HANDLED_WITHIN;
    for (const each of this.handled) if (isHandled(each)) this.confirm(each.link, each.count);
    this.handled = this.handled.filter((each) => !isHandled(each));
  }

  /** Nothing more can be said on this connection. */
  lose(): void {
    this.held = [];
    this.fences = [];
  }

  /** The relay was killed. */
  forget(): void {
    this.handled = [];
  }

  private answer(link: Link, payload: string, count: number): void {
    if (this.model.link !== link || link.ended !== undefined) return;
    if (!link.manual) {
      this.model.note(`confirms by a pong up to ${payload}`);
      this.mayConfirm(link, count, rankOf(payload));
    }
    this.end()?.pong(payload);
    this.fence(link.manual ? 0 : count);
  }
}
