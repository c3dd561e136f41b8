import type { ClientId } from "./client.js";
import type { Encoder } from "./encoder.js";
import type { UserId } from "./event.js";
import type { Disconnect } from "./notice.js";
import type { Observer } from "./observer.js";
import type { Sink } from "./outbox.js";
import { refuse } from "./refuse.js";
import { Wheel } from "./wheel.js";

/**
 * After so many replacements of one client's connection in so many milliseconds, newcomers wait until none came for as
 * long.
 */
const CONTEST = { replacements: 3, within: 10_000 };

/** Granularity of the timers, in milliseconds. */
const GRANULARITY = 100;

/** Milliseconds that newcomers wait. The timers may be late by two granularities: 5 seconds at most. */
const WAIT = 5000 - 2 * GRANULARITY;

/** Milliseconds between two reports on one client. */
const REPORT_EVERY = 60_000;

/** Maximum number of clients that are remembered: more than have replacements in that time on one relay. */
const MAX_CLIENTS = 100_000;

export interface ReplacementSettings {
  readonly observer: Observer;
}

/** A connection that waits until it may take over its client. */
interface Newcomer {
  readonly sink: Sink;
  readonly encoder: Encoder;
  readonly decide: (mayTakeOver: boolean) => void;
}

/** What is remembered of a client whose open connection was taken over lately. */
class Contest {
  /** When that happened, the latest at the end. */
  times: readonly number[] = [];
  /** Newcomers wait until then. */
  until = -Infinity;
  /** In the order in which they came. */
  newcomers: Newcomer[] = [];
  reportedAt = -Infinity;
  unreported = 0;
}

/**
 * Damps readers that take one client from each other: each comes back as soon as another has taken over. After a few
 * replacements in a short time newcomers wait, and the present connection goes on meanwhile. Then the newest newcomer
 * takes over. The other newcomers are closed only then: earlier, they would come back at once and take that place from
 * each other.
 */
export class Replacements {
  private readonly contests = new Map<ClientId, Contest>();
  /** When the newcomers' time is up; of a client without newcomers, when it is forgotten. */
  private readonly due = new Wheel<ClientId>(GRANULARITY, (id) => {
    if (this.contests.get(id)?.newcomers.length === 0) this.contests.delete(id);
    else this.letIn(id);
  });

  constructor(private readonly settings: ReplacementSettings) {}

  /** How many clients are remembered. */
  get size(): number {
    return this.contests.size;
  }

  /** Whether newcomers have to wait. */
  isContested(id: ClientId): boolean {
    return performance.now() < (this.contests.get(id)?.until ?? -Infinity);
  }

  /** To be called when a newcomer takes over from an open connection. Reconnects after a lost one do not count. */
  note(id: ClientId, userId: UserId): void {
    const contest = this.contests.get(id) ?? new Contest();
    if (!this.contests.has(id) && this.contests.size >= MAX_CLIENTS) return;
    this.contests.set(id, contest);
    const now = performance.now();
    contest.times = [...contest.times, now].slice(-CONTEST.replacements);
    const wasOn = now < contest.until;
    contest.unreported = wasOn ? contest.unreported + 1 : contest.times.length;
    const isFast = contest.times.length === CONTEST.replacements && now - (contest.times[0] ?? now) < CONTEST.within;
    if (wasOn || isFast) {
      contest.until = now + CONTEST.within;
      this.report(id, userId, contest, now);
    }
    // Newcomers may have come while this one was on its way: their time stays.
    if (contest.newcomers.length === 0) this.forgetLater(id, contest);
  }

  /**
   * Waits until a newcomer may take over a contested client. Newcomers share their time: it began with the first of
   * them.
   * @returns whether it may; if not, it has gone away or was closed
   */
  async wait(id: ClientId, sink: Sink, encoder: Encoder): Promise<boolean> {
    const contest = this.contests.get(id);
    if (!contest) return true;
    this.settings.observer.hears("limit.reached")?.({ limit: "replacements" });
    if (contest.newcomers.length === 0) this.due.add(id, WAIT);
    return new Promise((decide) => void contest.newcomers.push({ sink, encoder, decide }));
  }

  /** Lets the newest newcomer take over that has not gone away. @returns whether there is one */
  letIn(id: ClientId): boolean {
    const newcomers = this.takeNewcomers(id);
    const newest = newcomers.findLast(({ sink }) => sink.open);
    for (const newcomer of newcomers) if (newcomer !== newest) turnAway(newcomer, { reason: "replaced" });
    newest?.decide(true);
    return newest !== undefined;
  }

  /** Closes the newcomers of a client. */
  refuse(id: ClientId, disconnect: Disconnect): void {
    for (const newcomer of this.takeNewcomers(id)) turnAway(newcomer, disconnect);
  }

  /** Closes all newcomers. */
  stop(disconnect: () => Disconnect): void {
    for (const { newcomers } of this.contests.values()) {
      for (const newcomer of newcomers.splice(0)) turnAway(newcomer, disconnect());
    }
    this.due.stop();
  }

  private takeNewcomers(id: ClientId): Newcomer[] {
    const contest = this.contests.get(id);
    if (!contest || contest.newcomers.length === 0) return [];
    this.forgetLater(id, contest);
    return contest.newcomers.splice(0);
  }

  private forgetLater(id: ClientId, { reportedAt }: Contest): void {
    this.due.add(id, Number.isFinite(reportedAt) ? REPORT_EVERY : CONTEST.within);
  }

  private report(id: ClientId, userId: UserId, contest: Contest, now: number): void {
    if (now - contest.reportedAt < REPORT_EVERY) return;
    const { unreported: replacements } = contest;
    this.settings.observer.hears("client.contested")?.({ client: id, userId, replacements });
    contest.reportedAt = now;
    contest.unreported = 0;
  }
}

function turnAway({ sink, encoder, decide }: Newcomer, disconnect: Disconnect): void {
  if (sink.open) refuse(sink, encoder, disconnect);
  decide(false);
}
