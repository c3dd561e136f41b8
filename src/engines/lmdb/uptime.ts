import type { Clock } from "../../core/clock.js";
import { CONNECT_WITHIN } from "../../core/clients.js";
import type { ClientRecord } from "../../core/client.js";
import { compareIds, type EventId } from "../../core/id.js";
import { earlierMoment, LIVE, type Moment, NEVER } from "../../core/moment.js";
import { withSent } from "../../core/sent.js";

/** A start after an end that was not orderly. */
interface Crash {
  /** The uptime then. */
  readonly at: number;
  /** The last event on disk. */
  readonly head: EventId;
  /** The moment of the last commit: what the disk has is whole up to here, but for what connected clients had confirmed. */
  readonly known: Moment;
}

/** What the log's state has of time. All of it is absent where a relay of version 3 or earlier wrote it. */
export interface UptimeState {
  /** The engine's clock, and the one on the wall, when this was written. */
  readonly at?: number;
  readonly wall?: number;
  /** Milliseconds that no relay ran, since the log began. */
  readonly down?: number;
  /** Nothing was written after this: the relay ended in order. */
  readonly clean?: boolean | undefined;
  /** The last start after a crash. */
  readonly crashed?: Crash | undefined;
  /** When the directory came from an earlier version. */
  readonly upgraded?: Moment | undefined;
}

/**
 * The time that relays have run on a data directory: the engine's clock without the time that no relay ran. On disk, the
 * deadlines of clients are in it, so that none passes while the relay is down.
 */
export class Uptime {
  private down: number;
  private readonly started: number;
  private hasBegun = false;
  /** When the directory came from an earlier version; otherwise before everything. */
  readonly upgraded: Moment;
  /** The last crash before which the log still has events. */
  private readonly crash: Crash | undefined;

  /** @param kept what the log was when the last relay ended; undefined: there is none */
  constructor(
    readonly clock: Clock,
    kept: (UptimeState & { readonly head: EventId; readonly floor: EventId }) | undefined,
  ) {
    const now = clock.now();
    this.started = now;
    this.upgraded = kept?.upgraded ?? (kept && kept.at === undefined ? { id: kept.head, at: now } : LIVE);
    const { at = now, down = 0, clean = false, crashed } = kept ?? { clean: true };
    this.down = down + Math.max(0, now - at);
    const earlier = kept && crashed && compareIds(kept.floor, crashed.head) < 0 ? crashed : undefined;
    if (!kept || clean) {
      this.crash = crashed;
      return;
    }
    const known = { id: kept.head, at: kept.at ?? kept.head.ms };
    this.crash = {
      at: now - this.down,
      head: kept.head,
      // Rows that were not written since the crash before are as old as they were then.
      known: earlier ? earlierMoment(earlier.known, known) : known,
    };
  }

  /**
   * To be called when the relay has loaded: as nobody can connect before, loading counts as time that no relay ran.
   * @returns by how much later the deadlines are that were restored before
   */
  begin(): number {
    if (this.hasBegun) return 0;
    this.hasBegun = true;
    const loading = this.clock.now() - this.started;
    this.down += loading;
    return loading;
  }

  /** @param clean whether nothing is written after it */
  state(clean?: true): UptimeState {
    const { clock, down, crash, upgraded } = this;
    return { at: clock.now(), wall: clock.wall, down, clean, crashed: crash, upgraded };
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
    const whole = (this.crash?.at ?? -Infinity) + (ttl || CONNECT_WITHIN) * 1000;
    return Math.max(stored, whole) + this.down;
  }

  /**
   * A client as it is on disk. What it confirmed last before a crash, the disk may not have: when that was dropped since,
   * it is not known whether the client has received it.
   */
  unsure(record: ClientRecord): ClientRecord {
    const { crash } = this;
    const { cursor, received, expiresAt } = record;
    if (!crash || compareIds(cursor, crash.head) >= 0) return record;
    // A client that was away at the last commit had not received what was dropped before that.
    const earliest = expiresAt === undefined ? LIVE : crash.known;
    const unsure = { after: cursor, through: crash.head, earliest, latest: NEVER };
    return { ...record, received: withSent(received, unsure) };
  }
}
