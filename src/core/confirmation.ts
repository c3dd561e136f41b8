import type { Encoder } from "./encoder.js";
import { compareIds, formatId, type EventId, parseId } from "./id.js";
import type { Frame } from "./outbox.js";
import type { Reader } from "./reader.js";

/**
 * A live connection is pinged at most once in `least` milliseconds, and at random up to `spread` later: the pongs of all
 * who got the same event would otherwise come together. The ping goes along with an event. When no event comes for
 * `patience` milliseconds more, or a publisher waits for the confirmation, the ping is a write of its own.
 */
const LIVE = { least: 1000, spread: 2000, patience: 1000 };

/**
 * While a connection is catching up, or a ping is unanswered, a ping goes out after so many events or bytes. A client that
 * handles one event after the other answers only when it gets to the ping: so it confirms in steps of this size.
 */
const STEP = { events: 256, bytes: 64 * 1024 };

/** Milliseconds that a client may take to handle one event before it gets to the ping behind it. */
const PER_EVENT = 10_000;

/** A ping that is not answered. */
interface Unanswered {
  /** The last event before it; undefined when there was none. */
  readonly id: EventId | undefined;
  /** How many events were written before it. */
  readonly written: number;
  readonly at: number;
  /** The one that was sent after it. */
  next: Unanswered | undefined;
}

/**
 * What the pongs on one connection tell: which events have arrived, and that the other end is alive. All times are those of
 * `performance.now()`.
 */
export class Confirmation {
  private lastSent: EventId | undefined;
  private lastAsked: EventId | undefined;
  private askedAt = 0;
  private nextAsk = 0;
  /** Events written on this connection; and how many it were when the last ping was sent, and the last answered one. */
  private written = 0;
  private writtenAsked = 0;
  private writtenAnswered = 0;
  /** Bytes of events since the last ping. */
  private bytes = 0;
  private oldest: Unanswered | undefined;
  private newest: Unanswered | undefined;
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
  }

  /** Whether something was sent that the client may have to get again. */
  get outstanding(): boolean {
    return this.lastSent !== undefined && compareIds(this.lastSent, this.reader.cursor) > 0;
  }

  /** Whether so much was written since the last ping that the next one goes out now. @param live the connection is live */
  isStepDone(live: boolean): boolean {
    const isLong = this.written - this.writtenAsked >= STEP.events || this.bytes >= STEP.bytes;
    return isLong && this.ping !== undefined && (!live || this.oldest !== undefined);
  }

  /** The ping for what was sent last: as a WebSocket is in order, its pong confirms everything before it. */
  ask(now: number): Frame | undefined {
    if (!this.ping) return undefined;
    const { lastSent: id, written } = this;
    // A ping that repeats the one before it is answered with it.
    if (!this.oldest || id !== this.lastAsked) this.await({ id, written, at: now, next: undefined });
    this.askedAt = now;
    this.nextAsk = now + LIVE.least + Math.random() * LIVE.spread;
    this.lastAsked = id;
    this.writtenAsked = written;
    this.bytes = 0;
    return this.ping(id ? formatId(id) : "");
  }

  /** A pong has come. @returns up to where it confirms; undefined when it confirms nothing */
  answered(payload: string): EventId | undefined {
    const id = parseId(payload);
    if (payload !== "" && !(id && this.lastAsked && compareIds(id, this.lastAsked) <= 0)) return undefined;
    // A pong may answer several pings at once (RFC 6455 section 5.5.3).
    for (let ping = this.oldest; ping && isUpTo(ping.id, id); ping = ping.next) {
      this.writtenAnswered = ping.written;
      this.oldest = ping.next;
    }
    return this.manual ? undefined : id;
  }

  /** The other end has sent something, or has taken something of what waited for it. */
  hear(now: number): void {
    this.heardAt = now;
  }

  /**
   * Whether the other end has left a ping unanswered for too long: for `interval`, and `PER_EVENT` for each event, of
   * `STEP.events` at most, between that ping and the one that was answered last.
   */
  isSilent(now: number, interval: number): boolean {
    const { oldest } = this;
    if (!oldest) return false;
    const events = Math.min(oldest.written - this.writtenAnswered, STEP.events);
    return now - Math.max(oldest.at, this.heardAt) >= interval + events * PER_EVENT;
  }

  /** Milliseconds until a ping may go along with an event; undefined when there is nothing to ask. */
  dueIn(now: number): number | undefined {
    const isAsked = this.manual || this.lastAsked === this.lastSent;
    return this.ping && !isAsked ? Math.max(0, this.nextAsk - now) : undefined;
  }

  /** Milliseconds until the ping goes by itself. @param hurried a publisher waits for the confirmation */
  aloneIn(now: number, hurried: boolean): number {
    return (hurried ? this.askedAt + LIVE.least : this.nextAsk + LIVE.patience) - now;
  }

  private await(ping: Unanswered): void {
    if (this.oldest && this.newest) this.newest.next = ping;
    else this.oldest = ping;
    this.newest = ping;
  }
}

/** Whether a ping after `id` is answered by a pong for `answered`. Undefined: before the first event. */
function isUpTo(id: EventId | undefined, answered: EventId | undefined): boolean {
  return !id || (answered !== undefined && compareIds(id, answered) <= 0);
}
