import type { ClientModel } from "./client-model.js";
import { type Fate, type Link, rankOfSince } from "./records.js";
import { clock, type Ledger, type Publication, rankOf } from "./ledger.js";
import { type Report } from "./report.js";
import { matchesAny } from "./topics.js";

/** Judges what clients received, in which order, and what was said of gaps. */
export class Judge {
  constructor(
    private readonly ledger: Ledger,
    private readonly report: Report,
  ) {}

  /** A connection was opened: is a gap said if, and only if, one is owed? */
  start(client: ClientModel, link: Link): void {
    const { since } = link;
    const opened = Math.min(clock(), (link.opened ?? 0) + AROUND);
    if (link.gap) {
      this.report.figures.gapsSaid++;
      if (!this.mayBeGap(client, link, opened)) {
        this.report.fault("gapFalse", "a gap is said on connecting", client, undefined, this.cursorOf(link));
      }
      client.oweGap();
      return;
    }
    const asked = rankOfSince(since);
    if (since !== undefined && asked === undefined) return;
    for (const fate of client.fates.values()) {
      const { publication } = fate;
      const rank = publication.rank ?? 0;
      if (!fate.lost || rank <= link.mayBeCursor || (asked !== undefined && asked >= rank)) continue;
      if (this.mayBeDroppedAt(fate) <= opened) continue;
      fate.lost = false;
      const claim = "no gap is said on connecting, though one was owed and nothing later was confirmed";
      this.report.fault("gapUnsaid", claim, client, publication, this.cursorOf(link));
      return;
    }
  }

  /** The relay says that there is no such client. @param ran milliseconds that the relay has been running */
  forgotten(client: ClientModel, ran: number, how: string): void {
    if (client.removed) return;
    if (!client.mayBeGone(ran))
      this.report.fault("forgotten", "a client is forgotten before its time", client, undefined, how);
    client.removed = true;
    client.removedAt = clock() + STILL_COUNTED;
  }

  /** `gap` on an open connection, or its end with 1013. */
  note(client: ClientModel, link: Link): void {
    this.report.figures.gapsSaid++;
    if (!this.mayBeGap(client, link, clock())) {
      this.report.fault("gapFalse", "a gap is said on an open connection", client, undefined, this.cursorOf(link));
    }
    client.oweGap();
  }

  /** What a connection has received since the last call. @param toTheEnd everything that was due has had time to come */
  received(client: ClientModel, link: Link, toTheEnd = false): void {
    const due = this.due(client, link);
    const { ledger, report } = this;
    const had = new Set(link.received.slice(0, link.judged).map(({ number }) => number));
    let last = this.lastRank(link, link.judged);
    let next = due.findIndex(({ publication }) => (publication.rank ?? 0) > last);
    if (next < 0) next = due.length;
    for (; link.judged < link.received.length; link.judged++) {
      const { number, id, at } = link.received[link.judged] as Link["received"][number];
      report.figures.deliveries++;
      const publication = ledger.ofNumber(number);
      if (!publication) {
        if (!ledger.isForgotten(number))
          report.fault("misrouted", `event ${number} that nobody published arrives`, client);
        continue;
      }
      had.add(number);
      this.event(client, link, publication, id);
      if (publication.orphaned && id === undefined) continue;
      const rank = id === undefined ? publication.rank : rankOf(id);
      if (rank === undefined) continue;
      if (rank <= last) {
        report.fault(
          rank === last ? "doubled" : "disordered",
          `it arrives after a later one`,
          client,
          publication,
          describe(link),
        );
      }
      last = Math.max(last, rank);
      for (; next < due.length && ((due[next] as Fate).publication.rank ?? 0) < last; next++) {
        this.missing(client, link, due[next] as Fate, had, at, link.judged);
      }
    }
    if (!toTheEnd) return;
    const now = clock();
    for (const fate of due.slice(next)) {
      // What may have been trimmed is judged by what comes after it.
      if (this.ledger.mayBeTrimmedAt(fate.publication) > now) {
        this.missing(client, link, fate, had, now, link.received.length);
      }
    }
  }

  /** The last event that a reading connection has to receive, if it has not received it yet. */
  awaited(client: ClientModel, link: Link): Publication | undefined {
    const had = new Set(link.received.map(({ number }) => number));
    const now = clock();
    return this.due(client, link).findLast(
      (fate) =>
        !had.has(fate.publication.number) &&
        this.mayBeDroppedAt(fate) > now &&
        this.ledger.mayBeTrimmedAt(fate.publication) > now,
    )?.publication;
  }

  private event(client: ClientModel, link: Link, publication: Publication, id: string | undefined): void {
    const { ledger, report } = this;
    const fate = client.fates.get(publication.number);
    const rank = id === undefined ? publication.rank : rankOf(id);
    const goesBack = this.goesBack(link);
    const fault = (kind: "misrouted" | "doubled" | "stale" | "falseState", claim: string): void =>
      report.fault(
        kind,
        claim,
        client,
        publication,
        `${this.cursorOf(link)}; replaced by ${ledger.replacedBy(publication)}`,
      );
    const isFor = !publication.users || publication.users.includes(client.user);
    const isReplay = goesBack && matchesAny(client.recentTopics, publication.topic);
    if (!isFor || (fate?.match === "no" && !isReplay))
      fault("misrouted", "an event arrives that is not for the client");
    if (id !== undefined && publication.id !== undefined && id !== publication.id && !publication.orphaned) {
      fault("doubled", `it arrives with the id ${id}`);
    }
    if (rank !== undefined && rank <= link.leastCursor && !goesBack && !publication.orphaned) {
      fault("doubled", "it comes again, though it was confirmed");
    }
    if (ledger.isReplacedAt(publication) < link.began) {
      fault("stale", "it arrives on a connection that began after it was replaced");
    }
    if (ledger.isOverAt(publication) < link.began)
      fault("stale", "it arrives on a connection that began after its ttl was over");
    if ((fate?.narrowedAt ?? Infinity) < link.began && !goesBack)
      fault("misrouted", "the client may not have it any more");
    // That it was skipped may not have been on disk when the relay was killed.
    const isSkipLost = fate?.mayBeSkippedAt !== undefined && ledger.killedSince(fate.mayBeSkippedAt);
    if ((fate?.saidExpiredAt ?? Infinity) < link.began && link.since === undefined && !isSkipLost) {
      fault("falseState", "a receipt said that it had expired, and it arrives");
    }
  }

  private missing(client: ClientModel, link: Link, fate: Fate, had: Set<number>, at: number, index: number): void {
    const { publication } = fate;
    if (had.has(publication.number) || this.mayBeDroppedAt(fate) <= at) return;
    const isTrimmed = this.ledger.mayBeTrimmedAt(publication) <= at;
    const isSaid =
      (link.gap && publication.began < (link.opened ?? 0)) || link.gapNotes.some((note) => note.index <= index);
    if (isSaid && (isTrimmed || link.manyChanges)) {
      fate.lost = true;
      return;
    }
    if (isTrimmed) fate.lost = true;
    // One that is not said is one fault, however many events it is about.
    if (isTrimmed && link.isUnsaid) return;
    link.isUnsaid ||= isTrimmed;
    const kind = isTrimmed || link.manyChanges ? "gapUnsaid" : "lost";
    const claim = kind === "lost" ? "it did not arrive, and later ones did" : "it did not arrive, and no gap was said";
    this.report.fault(kind, claim, client, publication, this.cursorOf(link));
    fate.mayBeSkippedAt = at;
  }

  /** What the connection has to be sent, if nothing drops it first, in order. */
  private due(client: ClientModel, link: Link): Fate[] {
    const { since, opened } = link;
    if (opened === undefined) return [];
    const asked = rankOfSince(since);
    const isDue = (fate: Fate): boolean => {
      const { publication, match } = fate;
      const { rank, began, ttl } = publication;
      if (match !== "yes" || rank === undefined || ttl === 0 || fate.lost) return false;
      if ((fate.mayBeSkippedAt ?? Infinity) < link.began) return false;
      const isNew = rank > link.mayBeCursor && !((fate.mayBeConfirmedAt ?? Infinity) < link.began);
      const isReplay = matchesAny(client.topics, publication.topic) && !link.topicsChanged;
      if (since === undefined) return isNew;
      if (since === "now") return began > opened;
      if (asked !== undefined && rank <= asked) return false;
      if (typeof since === "object" && "ago" in since && began < opened - since.ago + AROUND) return false;
      return isNew || isReplay;
    };
    return [...client.fates.values()]
      .filter(isDue)
      .sort((a, b) => (a.publication.rank ?? 0) - (b.publication.rank ?? 0));
  }

  /** When something other than the log's retention may have dropped the event for the client. */
  private mayBeDroppedAt({ publication, mayBeNarrowedAt = Infinity, mayBeSkippedAt = Infinity }: Fate): number {
    const { ledger } = this;
    const own = Math.min(mayBeNarrowedAt, mayBeSkippedAt);
    return Math.min(own, ledger.mayBeOverAt(publication), ledger.mayBeReplacedAt(publication));
  }

  /** Whether an event that the client should have had may be gone. */
  private mayBeGap(client: ClientModel, link: Link, at: number): boolean {
    if (link.mayBeOwedGap || client.mayBeOwedGap || link.manyChanges || client.mayHaveTooManyChanges) return true;
    const goesBack = this.goesBack(link);
    const asked = typeof link.since === "object" && "id" in link.since ? (rankOfSince(link.since) ?? 0) : 0;
    const from = goesBack ? asked : Math.max(asked, link.leastCursor);
    // With other topics in between, the relay may not know which of them held for what is gone.
    const isWide = goesBack || link.topicsChanged || client.changes > 0;
    const publications = isWide ? this.ledger.all : [...client.fates.values()].map(({ publication }) => publication);
    return publications.some((publication) => {
      const { rank, users, topic, ttl } = publication;
      if (ttl === 0 || (rank !== undefined && rank <= from && !publication.orphaned)) return false;
      const trimmed = this.ledger.mayBeTrimmedAt(publication);
      if (trimmed > at || (users && !users.includes(client.user))) return false;
      const fate = client.fates.get(publication.number);
      if ((!fate || fate.match === "no") && !(isWide && matchesAny(client.recentTopics, topic))) return false;
      const dropped = Math.min(this.ledger.isOverAt(publication), this.ledger.isReplacedAt(publication) + AROUND);
      return trimmed <= Math.min(dropped, fate?.narrowedAt ?? Infinity) && (goesBack || fate?.skippedAt === undefined);
    });
  }

  private goesBack({ since, leastCursor, mayBeCursor }: Link): boolean {
    if (since === "0" || (typeof since === "object" && "ago" in since)) return true;
    const asked = rankOfSince(since);
    return asked !== undefined && asked < Math.max(leastCursor, mayBeCursor);
  }

  private lastRank({ received }: Link, count: number): number {
    let last = 0;
    for (const { number, id } of received.slice(0, count)) {
      const rank = id === undefined ? this.ledger.ofNumber(number)?.rank : rankOf(id);
      last = Math.max(last, rank ?? 0);
    }
    return last;
  }

  private cursorOf(link: Link): string {
    return `${describe(link)}; the client's cursor is between ${link.leastCursor} and ${link.mayBeCursor}`;
  }
}

/** Milliseconds for which a client whose time is up may still be counted as matched. */
const STILL_COUNTED = 1500;

/** Milliseconds between the audit's clock and the relay's. */
const AROUND = 200;

export function describe({ format, manual, since }: Link): string {
  return `${format}${manual ? " ack=manual" : ""}${since === undefined ? "" : ` since=${JSON.stringify(since)}`}`;
}
