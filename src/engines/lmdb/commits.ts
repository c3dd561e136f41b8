import { setTimeout as delay } from "node:timers/promises";
import type { ClientId } from "../../core/client.js";
import { RelayError } from "../../core/errors.js";
import { type EventId, formatId } from "../../core/id.js";
import { Group, type NewKey } from "./group.js";

/** Milliseconds until a commit that failed is tried again. */
const RETRY_AFTER = 1000;

/** Size with which a group is closed: what one transaction writes is to be a small part of the log. */
const GROUP_SIZE = 2 * 1024 * 1024;

/** What happened that someone should know who looks after the relay. */
export type Report = (level: "error" | "info", message: string, error?: unknown) => void;

export interface CommitSteps {
  /** Makes a group safe. @throws when nothing of it is */
  readonly commit: (group: Group) => Promise<void>;
  readonly succeeded: (group: Group) => void;
  readonly failed: (group: Group) => void;
  /** Whether there is something to write though no group has anything. */
  readonly isDue: () => boolean;
}

/**
 * Commits groups, one after the other: what comes while one is under way goes into the next. When a commit fails, what it
 * had stays ordered and is tried again until it is safe; until then nothing new is taken.
 */
export class Commits {
  closed = false;
  private failed = false;
  /** What waits to be written, in order. The last is still open, and never left out. */
  private readonly waiting: [Group, ...Group[]] = [new Group()];
  private underWay: Group | undefined;
  /** Number of requests that are adding what must be committed together. The pending group stays open for them. */
  private holds = 0;
  private released: () => void = () => undefined;
  private running: Promise<void> | undefined;

  constructor(
    private readonly steps: CommitSteps,
    private readonly report: Report,
  ) {}

  /** The group that is still open. */
  get pending(): Group {
    return this.waiting.at(-1) as Group;
  }

  /** Whether nothing new can be taken now. */
  get refusing(): boolean {
    return this.failed || this.closed;
  }

  /** Resolves when everything up to now is safe. @throws {RelayError} unavailable */
  async saved(): Promise<void> {
    if (this.failed) throw unavailable();
    const { pending, underWay } = this;
    // What belongs together is never divided: so here is where a group that is large enough can end.
    if (pending.size > GROUP_SIZE && this.holds === 0) this.waiting.push(new Group());
    await (pending.isEmpty ? (this.waiting.at(-2) ?? underWay)?.saved : pending.saved);
  }

  /** An idempotency key that is not safe yet, by its digest. */
  key(digest: string): NewKey | undefined {
    return this.newest(({ keys }) => keys.has(digest))?.keys.get(digest);
  }

  /** Whether an event was replaced, and that is not safe yet. */
  isReplaced(id: EventId): boolean {
    const name = formatId(id);
    return this.newest(({ replaced }) => replaced.has(name)) !== undefined;
  }

  /** Resolves when everything of an idempotency key is safe. @throws {RelayError} unavailable */
  savedKey(digest: string): Promise<void> {
    return this.savedWith(this.newest(({ keys }) => keys.has(digest)));
  }

  /** Resolves when everything of a client is safe. @throws {RelayError} unavailable */
  savedClient(id: ClientId): Promise<void> {
    return this.savedWith(this.newest(({ clients, gone }) => clients.has(id) || gone.has(id)));
  }

  private async savedWith(group: Group | undefined): Promise<void> {
    if (group && this.failed) throw unavailable();
    await group?.saved;
  }

  /** Keeps the pending group open until it is released. */
  hold(): () => void {
    this.holds++;
    return () => {
      this.holds--;
      if (this.holds === 0) this.released();
    };
  }

  /** To be called when there is something to write. */
  wake(): void {
    this.running ??= this.run();
  }

  /** Writes what there is, if it can be written. @returns whether all of it is on disk */
  async close(): Promise<boolean> {
    this.closed = true;
    this.wake();
    await this.running;
    return !this.failed && this.waiting.length === 1 && this.pending.isEmpty;
  }

  /** The last group, of those that are not on disk, for which something holds. */
  private newest(holds: (group: Group) => boolean): Group | undefined {
    const { underWay } = this;
    return this.waiting.findLast(holds) ?? (underWay && holds(underWay) ? underWay : undefined);
  }

  private async run(): Promise<void> {
    // What else comes in this turn goes along.
    await new Promise(setImmediate);
    // After a failure, a commit of nothing shows that the disk can be written again.
    while (this.failed || this.waiting.length > 1 || !this.pending.isEmpty || this.steps.isDue()) {
      if (this.holds > 0 && this.waiting.length === 1) await this.release();
      const group = this.next();
      this.underWay = group;
      try {
        await this.steps.commit(group);
      } catch (error) {
        this.fail(group, error);
        if (this.closed) break;
        await delay(RETRY_AFTER, undefined, { ref: false });
        continue;
      }
      this.succeed(group);
    }
    this.underWay = undefined;
    this.running = undefined;
  }

  /** Resolves when nobody holds the pending group. */
  private async release(): Promise<void> {
    while (this.holds > 0) {
      await new Promise<void>((resolve) => {
        this.released = resolve;
      });
    }
  }

  /** Takes the first group, to write it. */
  private next(): Group {
    if (this.waiting.length === 1) this.waiting.push(new Group());
    return this.waiting.shift() as Group;
  }

  private succeed(group: Group): void {
    if (this.failed) this.report("info", "the data directory can be written again");
    this.failed = false;
    this.steps.succeeded(group);
    group.resolve();
  }

  private fail(group: Group, error: unknown): void {
    if (!this.failed) this.report("error", "the data directory can not be written: trying again until it can", error);
    this.failed = true;
    this.steps.failed(group);
    const all = new Group();
    for (const each of [group, ...this.waiting]) {
      all.add(each);
      each.reject(unavailable());
    }
    this.waiting.splice(0, Infinity, all);
    this.underWay = undefined;
  }
}

export function unavailable(): RelayError {
  return new RelayError("unavailable", "the relay can not write to its disk now; what it has is safe. Try again later");
}
