import type { Encoder } from "./encoder.js";
import { compareIds, earlierOf, formatId, type EventId, parseId } from "./id.js";
import type { Frame } from "./outbox.js";
import type { Reader } from "./reader.js";

/**
 * After an event, a ping follows a live connection's last ping by `least` milliseconds at least, and at random up to
 * `spread` more: the pongs of all who got the same event would otherwise come together. The ping goes along with an
 * event. When no event comes for `patience` milliseconds more, or a publisher waits for the confirmation, the ping is a
 * write of its own.
 */
const TIMED = { least: 1000, spread: 2000, patience: 1000 };

/**
 * However little time has passed, a ping follows after so many events or bytes while the connection is catching up, or
 * a ping is unanswered; and after so many events that are written at once. A client that handles one event after the
 * other answers only when it gets to the ping. Clients that answer at once get no more pings than that: with a ping for
 * each step, the saturated fan-out was a fifth slower.
 */
const STEP = { events: 128, bytes: 64 * 1024 };

/** Milliseconds that a client may take to handle one event, and that it may give no sign of life for that. */
const BUSY = { each: 10_000, most: 256 * 10_000 };

/**
 * What the pongs on one connection tell: which events have arrived, and that the other end is alive. All times are
 * those of `performance.now()`.
 */
export class Confirmation {
  /** The last event that was written, or the end of the last gap that was said. */
  lastSent: EventId | undefined;
  private lastGap: EventId | undefined;
  private lastAsked: EventId | undefined;
  private askedAt = 0;
  private nextAsk = 0;
  /** Number of events written on this connection. */
  written = 0;
  /** `written` when the last ping was sent. */
  private writtenAsked = 0;
  /** `written` up to which `busyUntil` allows time. */
  private writtenAllowed = 0;
  /** Bytes of events since the last ping. */
  private bytes = 0;
  /**
   * Until then the client may be busy with events that it was sent, also with some that it has confirmed: a library
   * may answer the pings among what it has read ahead, and read on only when the client has handled that.
   */
  private busyUntil = 0;
  /** When the first ping was sent that is not answered. */
  private unansweredSince: number | undefined;
  private heardAt = 0;

  /**
   * @param ping absent: the transport has no pings, and the other end confirms by itself if at all
   * @param manual pongs confirm nothing: they only show that the other end is alive
   */
  constructor(
    private readonly reader: Reader,
    private readonly ping: Encoder["ping"],
    private readonly manual: boolean,
  ) {}

  /** An event was written. */
  wrote(id: EventId, bytes: number): void {
    this.lastSent = id;
    this.written++;
    this.bytes += bytes;
  }

  /** A gap up to here was said. */
  told(id: EventId): void {
    this.lastSent = id;
    this.lastGap = id;
  }

  /** The newest event up to `id` that was written and is not confirmed; undefined: there is none. */
  newestUpTo(id: EventId): EventId | undefined {
    if (!this.lastSent || compareIds(id, this.reader.cursor) <= 0 || !this.outstanding) return undefined;
    const newest = earlierOf(id, this.lastSent);
    return this.lastGap && compareIds(newest, this.lastGap) <= 0 ? undefined : newest;
  }

  /** Whether something was sent that the client may have to get again. */
  get outstanding(): boolean {
    return this.lastSent !== undefined && compareIds(this.lastSent, this.reader.cursor) > 0;
  }

  /**
   * Whether a ping goes out now, behind the event that was written last.
   * @param live the connection is live
   * @param queued how many frames wait with that event. On live connections their number decides: those that got the same
   *   share what is queued, and have their pings at the same places
   */
  isStepDone(live: boolean, queued: number): boolean {
    if (!this.ping) return false;
    return live ? queued % STEP.events === 0 : this.isFar(live);
  }

  /** The ping for what was sent last: as a WebSocket is in order, its pong confirms everything before it. */
  ask(now: number): Frame | undefined {
    if (!this.ping) return undefined;
    if (this.unansweredSince === undefined) {
      this.unansweredSince = now;
      this.allow(now);
    }
    this.askedAt = now;
    this.nextAsk = now + TIMED.least + Math.random() * TIMED.spread;
    this.lastAsked = this.lastSent;
    this.writtenAsked = this.written;
    this.bytes = 0;
    return this.ping(this.lastSent ? formatId(this.lastSent) : "");
  }

  /** A pong has come. @returns up to where it confirms; undefined when it confirms nothing */
  answered(payload: string, now: number): EventId | undefined {
    const id = parseId(payload);
    if (payload !== "" && !(id && isUpTo(id, this.lastAsked))) return undefined;
    // It answers all pings before it, too (RFC 6455 section 5.5.3).
    if (isUpTo(this.lastAsked, id)) this.unansweredSince = undefined;
    // Which of the events after it are before the next ping is not known.
    else if (id) this.allow(now);
    return this.manual ? undefined : id;
  }

  /** The other end has sent something, or has taken something of what waited for it. */
  hear(now: number): void {
    this.heardAt = now;
  }

  /**
   * Whether the other end has left a ping unanswered for too long: for `interval` milliseconds in which it sent
   * nothing, and was not busy with events.
   */
  isSilent(now: number, interval: number): boolean {
    if (this.unansweredSince === undefined) return false;
    const quietSince = Math.max(this.unansweredSince, this.heardAt);
    const idleSince = Math.max(quietSince, Math.min(this.busyUntil, quietSince + BUSY.most));
    return now - idleSince >= interval;
  }

  /**
   * Milliseconds until a ping may go along with an event; undefined when there is nothing to ask.
   * @param live as of `isStepDone`
   */
  dueIn(now: number, live: boolean): number | undefined {
    if (!this.ping || this.lastAsked === this.lastSent) return undefined;
    if (this.isFar(live)) return 0;
    return this.manual ? undefined : Math.max(0, this.nextAsk - now);
  }

  /** Milliseconds until the ping goes by itself. @param hurried a publisher waits for the confirmation */
  aloneIn(now: number, hurried: boolean): number {
    return (hurried ? this.askedAt + TIMED.least : this.nextAsk + TIMED.patience) - now;
  }

  /** The client may be busy with all that was written until now. */
  private allow(now: number): void {
    this.busyUntil = Math.max(now, this.busyUntil) + (this.written - this.writtenAllowed) * BUSY.each;
    this.writtenAllowed = this.written;
  }

  /** Whether the last ping is a step or more behind, and time alone does not decide. */
  private isFar(live: boolean): boolean {
    if (live && this.unansweredSince === undefined) return false;
    return this.written - this.writtenAsked >= STEP.events || this.bytes >= STEP.bytes;
  }
}

/** Whether one id is not after the other. Undefined: before the first event. */
function isUpTo(id: EventId | undefined, other: EventId | undefined): boolean {
  return !id || (other !== undefined && compareIds(id, other) <= 0);
}
