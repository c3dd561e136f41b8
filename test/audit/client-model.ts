import { clock, type Ledger, type Publication } from "./ledger.js";
import type { Certainty, Fate, Link, Received, Subscribed } from "./records.js";
import { allowed, matchesAny } from "./topics.js";

/** Milliseconds by which a client may be forgotten earlier than by the audit's clock. */
const EARLY = 300;

/** More topic changes than this while a client is behind may be a gap (docs/PROTOCOL.md, section 2). */
const MANY_CHANGES = 60;

/** What the audit knows of one client. */
export class ClientModel {
  readonly fates = new Map<number, Fate>();
  readonly subscribed: Subscribed[];
  readonly happened: string[] = [];
  allow: readonly string[] | undefined;
  link: Link | undefined;
  /** The highest rank that it may have confirmed. */
  mayBeCursor = 0;
  /** The relay's cursor is at least this; with what it was before, as confirmations may be lost in a crash. */
  private readonly cursors: { at: number; rank: number }[] = [{ at: -Infinity, rank: 0 }];
  /** The highest rank up to which it has said by `since` that it has everything. */
  said = 0;
  private readonly passes: { readonly at: number; readonly until: number }[] = [];
  /** Topic changes since its cursor last moved. */
  changes = 0;
  /** It was told of a gap, or forgot events that may be one: the relay may say it until something is confirmed. */
  private owesGap = false;
  private mayHaveGone = false;
  private owedUntil = -Infinity;
  removed = false;
  /** Since then the relay certainly does not have it any more. */
  removedAt = Infinity;
  /** When it left a connection for a newer one. */
  leftAt = -Infinity;
  /** It does not read: the relay may have ended its connection. */
  stalled = false;
  /** Its last connection ended then at the earliest, by the time that the relay was running. */
  private quietSince: number;

  constructor(
    readonly id: string,
    readonly user: string,
    readonly ttl: number,
    topics: readonly string[],
    began: number,
    ran: number,
  ) {
    this.subscribed = [{ topics, began, ended: clock() }];
    this.quietSince = ran;
  }

  note(what: string): void {
    this.happened.push(`${clock().toFixed(0)} ${what}`);
    if (this.happened.length > 20) this.happened.splice(0, 10);
  }

  /** Events that come one after the other are one thing that happened. */
  noteReceived(number: number): void {
    const last = this.happened.at(-1);
    if (last?.includes(" receives ")) this.happened[this.happened.length - 1] = `${last},${number}`.slice(-160);
    else this.note(`receives ${number}`);
  }

  get topics(): readonly string[] {
    return (this.subscribed.at(-1) as Subscribed).topics;
  }

  /** A change of the topics is under way: `ended` is Infinity until it is certain. */
  beginChange(topics: readonly string[]): Subscribed {
    const change = { topics, began: clock(), ended: Infinity };
    this.subscribed.push(change);
    this.changes++;
    return change;
  }

  /** All topics that it may have been subscribed to of late. */
  get recentTopics(): string[] {
    return this.subscribed.slice(-100).flatMap(({ topics }) => topics);
  }

  get mayHaveTooManyChanges(): boolean {
    return this.changes >= MANY_CHANGES;
  }

  fate(publication: Publication): Fate {
    let fate = this.fates.get(publication.number);
    if (!fate) {
      fate = { publication, match: "maybe" };
      this.fates.set(publication.number, fate);
    }
    return fate;
  }

  /** To be called when it is known when the event was published. */
  settle(publication: Publication, end: number, ran: number): void {
    const match = this.match(publication, end, ran);
    const known = this.fates.get(publication.number);
    if (match === "no" && known?.receivedAt === undefined) return void this.fates.delete(publication.number);
    const fate = this.fate(publication);
    fate.match = match;
    const pass = this.passes.find(({ until }) => publication.began <= until);
    if (pass) fate.mayBeSkippedAt ??= pass.at;
  }

  /** It asked for nothing that was published before `until`. */
  notePass(at: number, until: number): void {
    this.passes.push({ at, until });
  }

  match({ topic, users, began, ttl }: Publication, end: number, ran: number): Certainty {
    if (users && !users.includes(this.user)) return "no";
    let certainty: Certainty | undefined;
    for (let index = this.subscribed.length - 1; index >= 0; index--) {
      const { topics, began: from, ended } = this.subscribed[index] as Subscribed;
      if (from > end) continue;
      const found = matchesAny(topics, topic) ? "yes" : "no";
      certainty = certainty === undefined || certainty === found ? found : "maybe";
      if (ended < began) break;
      // It may have been published before the client was there.
      if (index === 0 && ended > began && certainty === "yes") certainty = "maybe";
    }
    if (certainty !== "yes") return certainty ?? "no";
    return ttl === 0 || this.mayBeGone(ran) ? "maybe" : "yes";
  }

  /** It has no connection, from now on. */
  noteQuiet(ran: number): void {
    this.quietSince = ran;
  }

  /** Whether its `ttl` may have passed since its last connection ended. */
  mayBeGone(ran: number): boolean {
    if (this.removed) return true;
    const { link, stalled } = this;
    if (link?.opened !== undefined && link.ended === undefined && !stalled) return false;
    return this.mayHaveGone || ran - this.quietSince >= this.ttl * 1000 - EARLY;
  }

  get mayBeOwedGap(): boolean {
    return this.owesGap;
  }

  oweGap(): void {
    this.owesGap = true;
  }

  get leastCursor(): number {
    return (this.cursors.at(-1) as { rank: number }).rank;
  }

  /** The client asks for what it has had already: it may come again from this rank on. */
  rewind(rank: number): void {
    if (rank < this.leastCursor) this.moveLeastCursor(rank);
  }

  private moveLeastCursor(rank: number, at = clock()): void {
    this.cursors.push({ at, rank });
    if (this.cursors.length > 400) this.cursors.splice(0, 200);
  }

  /** The client may have confirmed all that it had by then. */
  mayConfirm(had: readonly Received[], rank: number, ledger: Ledger): void {
    const at = clock();
    this.mayBeCursor = Math.max(this.mayBeCursor, rank);
    for (const fate of this.had(had, ledger)) fate.mayBeConfirmedAt ??= at;
    for (const fate of this.fates.values()) {
      if (fate.receivedAt !== undefined && (fate.publication.rank ?? Infinity) <= rank) fate.mayBeConfirmedAt ??= at;
    }
  }

  /** The client may have confirmed that it was told of gaps, also when nothing came after them. */
  heardGaps({ gap, gapNotes, opened = Infinity }: Link): void {
    if (!gap && gapNotes.length === 0) return;
    for (const fate of this.fates.values()) {
      if (fate.lost && (gapNotes.length > 0 || fate.publication.began < opened)) fate.lost = false;
    }
  }

  /** The relay has the confirmation. */
  confirmed(had: readonly Received[], ledger: Ledger): void {
    const at = clock();
    let rank = 0;
    for (const fate of this.had(had, ledger)) {
      fate.confirmedAt ??= at;
      if (!fate.publication.orphaned) rank = Math.max(rank, fate.publication.rank ?? 0);
    }
    if (rank <= this.leastCursor) return;
    this.moveOn(rank);
  }

  /** The relay certainly knows that the client goes on behind this rank. */
  moveOn(rank: number): void {
    if (rank <= this.leastCursor) return;
    const at = clock();
    this.moveLeastCursor(rank, at);
    this.changes = 0;
    if (this.owesGap) this.owedUntil = at;
    this.owesGap = false;
  }

  /** The relay was killed: what is not on its disk for certain may not be known any more. @param safe until then it is */
  noteKill(safe: number, ran: number): void {
    for (const fate of this.fates.values()) {
      const { publication } = fate;
      if ((fate.confirmedAt ?? -Infinity) > safe || publication.answered === Infinity) delete fate.confirmedAt;
      if ((fate.skippedAt ?? -Infinity) > safe) delete fate.skippedAt;
    }
    const least = this.cursors.filter(({ at }, index) => (this.cursors[index + 1]?.at ?? Infinity) > safe || at > safe);
    const rank = Math.min(...least.map((cursor) => cursor.rank));
    if (rank < this.leastCursor) this.moveLeastCursor(rank);
    if (this.owedUntil > safe) this.owesGap = true;
    // It may have gone before, with nobody to notice.
    this.mayHaveGone ||= this.mayBeGone(ran);
    this.noteQuiet(ran);
  }

  /** The relay has it. */
  noteSeen(): void {
    this.mayHaveGone = false;
  }

  /** The event is too old to be remembered. What was never confirmed of it may be a gap for ever. */
  forget({ number, rank }: Publication): void {
    const fate = this.fates.get(number);
    if (!fate) return;
    this.fates.delete(number);
    const isOwed = fate.confirmedAt === undefined && (rank === undefined || rank > this.leastCursor);
    if (fate.match !== "no" && isOwed) this.oweGap();
  }

  /** Its permissions were narrowed: what it may no longer subscribe to is gone, also of the past. */
  narrow(permissions: readonly string[], began: number, isSure: boolean): void {
    for (const fate of this.fates.values()) {
      const { topic } = fate.publication;
      const states = this.subscribed.slice(-100).filter(({ topics }) => matchesAny(topics, topic));
      const left = states.filter(({ topics }) => matchesAny(allowed(topics, permissions), topic));
      if (left.length === states.length) continue;
      fate.mayBeNarrowedAt ??= began;
      if (left.length === 0 && isSure) fate.narrowedAt ??= clock();
    }
  }

  private *had(received: readonly Received[], ledger: Ledger): Generator<Fate> {
    for (const { number } of received) {
      const publication = ledger.ofNumber(number);
      const fate = publication && this.fates.get(publication.number);
      if (fate) yield fate;
    }
  }
}
