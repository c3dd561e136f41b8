import { Deque } from "./deque.js";
import type { Encoder } from "./encoder.js";
import type { Event } from "./event.js";
import { compareIds, formatId, type EventId, parseId } from "./id.js";
import type { Frame } from "./outbox.js";
import type { Reader } from "./reader.js";
import type { Receipts } from "./receipts.js";

/** How many events that the log no longer has are followed until they are confirmed. */
const MAX_UNKEPT = 1000;

/**
 * A connection is asked for a confirmation at most once in `least` milliseconds (product section 5), and at random up to
 * `spread` later, as the answers of all who got the same event would otherwise come together. The question goes along
 * with an event; only when none comes for `patience` more, or someone waits for the answer, it is a write of its own.
 */
const QUESTION = { least: 1000, spread: 2000, patience: 1000 };

/** What was sent on one connection, and how the relay learns that it has arrived. */
export class Confirmation {
  private lastSent: EventId | undefined;
  private lastAsked: EventId | undefined;
  private askedAt = 0;
  private nextQuestion = 0;
  /** Sent, not confirmed, and not in the log any more. */
  private readonly unkept = new Deque<EventId>();

  /** @param ask how the other end is asked; absent: it is not, and confirms by itself if at all */
  constructor(
    private readonly reader: Reader,
    private readonly receipts: Receipts,
    private readonly ask: Encoder["ping"],
  ) {}

  sent({ id, ttl }: Event): void {
    this.lastSent = id;
    if (ttl === 0) this.unkeep(id);
  }

  /** Whether something was sent that the client may have to get again. */
  get outstanding(): boolean {
    return this.lastSent !== undefined && compareIds(this.lastSent, this.reader.cursor) > 0;
  }

  /** Up to where an answer confirms; undefined when it is no answer to what was asked. */
  answered(payload: string): EventId | undefined {
    const id = parseId(payload);
    return id && this.lastAsked && compareIds(id, this.lastAsked) <= 0 ? id : undefined;
  }

  /** The client has everything up to and with `id`. @returns whether its cursor moved */
  confirm(id: EventId): boolean {
    for (let first = this.unkept.at(0); first && compareIds(first, id) <= 0; first = this.unkept.at(0)) {
      this.unkept.shift();
    }
    return this.reader.confirm(id);
  }

  /** The log does not have this event any more: when the connection ends before it was confirmed, it is lost. */
  unkeep(id: EventId): void {
    this.unkept.push(id);
    if (this.unkept.length > MAX_UNKEPT) this.unkept.shift();
  }

  /** To be called when the connection ends. */
  end(): void {
    for (let id = this.unkept.shift(); id; id = this.unkept.shift()) {
      if (compareIds(id, this.reader.confirmed) > 0) this.receipts.miss(id, this.reader);
    }
  }

  /** The question for what was sent last: as a WebSocket is in order, its answer confirms all before it. */
  question(now: number): Frame | undefined {
    if (!this.ask || !this.lastSent) return undefined;
    this.askedAt = now;
    this.nextQuestion = now + QUESTION.least + Math.random() * QUESTION.spread;
    this.lastAsked = this.lastSent;
    return this.ask(formatId(this.lastSent));
  }

  /** Milliseconds until the question may go along with an event; undefined when there is nothing to ask. */
  dueIn(now: number): number | undefined {
    return this.ask && this.lastAsked !== this.lastSent ? Math.max(0, this.nextQuestion - now) : undefined;
  }

  /** Milliseconds until it is to go by itself. @param hurried someone waits for the answer */
  aloneIn(now: number, hurried: boolean): number {
    return (hurried ? this.askedAt + QUESTION.least : this.nextQuestion + QUESTION.patience) - now;
  }
}
