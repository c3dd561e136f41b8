import type { Clock } from "../../core/clock.js";
import { CONNECT_WITHIN } from "../../core/clients.js";
import { compareIds, type EventId } from "../../core/id.js";

/** A start after an end that was not orderly. */
interface Crash {
  /** The uptime then. */
  readonly at: number;
  /** The log's head after that start. */
  readonly head: EventId;
}

/** What the log's state has of time. All of it is absent where a relay of version 3 or earlier wrote it. */
export interface UptimeState {
  /** The engine's clock when this was written. */
  readonly at?: number;
  /** Milliseconds that no relay ran, since the log began. */
  readonly down?: number;
  /** Nothing was written after this: the relay ended in order. */
  readonly clean?: boolean | undefined;
  /** The last start after a crash. */
  readonly crashed?: Crash | undefined;
}

/**
 * The time that relays have run on a data directory: the engine's clock without the time that no relay ran. On disk, the
 * deadlines of clients are in it, so that none passes while the relay is down.
 */
export class Uptime {
  private readonly down: number;
  /** The uptime at the last start after a crash. */
  private readonly crashedAt: number | undefined;
  private crash: Crash | undefined;

  /** @param kept what the log was when the last relay ended; undefined: there is none */
  constructor(
    readonly clock: Clock,
    kept: UptimeState | undefined,
  ) {
    const now = clock.now();
    const { at = now, down = 0, clean = false, crashed } = kept ?? { clean: true };
    this.down = down + Math.max(0, now - at);
    this.crash = clean ? crashed : undefined;
    this.crashedAt = clean ? crashed?.at : now - this.down;
  }

  /** To be called when it is known where the log goes on. */
  begin(head: EventId): void {
    if (this.crashedAt !== undefined) this.crash ??= { at: this.crashedAt, head };
  }

  /** The head at the last start after a crash; undefined: there was none, or the log has nothing from before it any more. */
  crashed(floor: EventId): EventId | undefined {
    return this.crash && compareIds(floor, this.crash.head) < 0 ? this.crash.head : undefined;
  }

  /** @param clean whether nothing is written after it */
  state(clean?: true): UptimeState {
    return { at: this.clock.now(), down: this.down, clean, crashed: this.crash };
  }

  /** A client's deadline as it is on disk. @param expiresAt by the engine's clock */
  stored(expiresAt: number): number {
    return expiresAt - this.down;
  }

  /**
   * A client's deadline, by the engine's clock. One that was written before a crash may be older than the client's last
   * connection, of which the disk knows nothing. So each client has its whole `ttl` from the start after that.
   * @param stored as it is on disk
   */
  restored(stored: number, ttl: number): number {
    const whole = (this.crashedAt ?? -Infinity) + (ttl || CONNECT_WITHIN) * 1000;
    return Math.max(stored, whole) + this.down;
  }
}
