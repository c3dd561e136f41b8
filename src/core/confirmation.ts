import type { Encoder } from "./encoder.js";
import { compareIds, formatId, type EventId, parseId } from "./id.js";
import type { Frame } from "./outbox.js";
import type { Reader } from "./reader.js";

/**
 * A connection is asked for a confirmation at most once in `least` milliseconds (product section 5), and at random up to
 * `spread` later, as the answers of all who got the same event would otherwise come together. The question goes along
 * with an event; only when none comes for `patience` more, or someone waits for the answer, it is a write of its own.
 */
const QUESTION = { least: 1000, spread: 2000, patience: 1000 };

/** How the relay learns that what was sent on one connection has arrived. */
export class Confirmation {
  private lastSent: EventId | undefined;
  private lastAsked: EventId | undefined;
  private askedAt = 0;
  private nextQuestion = 0;

  /** @param ask how the other end is asked; absent: it is not, and confirms by itself if at all */
  constructor(
    private readonly reader: Reader,
    private readonly ask: Encoder["ping"],
  ) {}

  /** An event was sent, or that there is a gap up to here. */
  sent(id: EventId): void {
    this.lastSent = id;
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
