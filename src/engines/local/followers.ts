import { type ClientId, type ClientRecord, NOBODY } from "../../core/client.js";
import type { Answer, Entry, Follower, Question } from "../../core/engine.js";
import type { EventId } from "../../core/id.js";
import type { Loading } from "../../core/loading.js";
import { inTurns, Turns } from "../../core/turns.js";
import type { ClientTable } from "./client-table.js";

/** Clients that are handed over at a time. */
const FEW = 256;

/** The relays on an engine of this process, and which of them has the clients of those that are gone. */
export class Followers {
  private readonly followers = new Set<Follower>();
  /** By the name of the relay that is gone. */
  private readonly heirs = new Map<string, Follower>();
  private isHanding = false;
  private floor: EventId | undefined;

  constructor(private readonly clients: ClientTable) {}

  get isEmpty(): boolean {
    return this.followers.size === 0;
  }

  /** Resolves when no entry is being handed on: at once, or right after that. */
  get free(): Promise<void> | undefined {
    return this.isHanding ? Promise.resolve() : undefined;
  }

  add(follower: Follower): void {
    this.followers.add(follower);
  }

  /** @returns one that its clients go to */
  delete(follower: Follower): Follower | undefined {
    this.followers.delete(follower);
    for (const [node, heir] of this.heirs) if (heir === follower) this.heirs.delete(node);
    for (const other of this.followers) other.inherit([]);
    const [heir] = this.followers;
    return heir;
  }

  hand(entry: Entry): void {
    this.isHanding = true;
    for (const follower of this.followers) follower.follow(entry);
    this.isHanding = false;
  }

  /** To be called when the floor may have moved. */
  tell(floor: EventId): void {
    if (floor === this.floor) return;
    this.floor = floor;
    for (const follower of this.followers) follower.trimmed(floor);
  }

  /**
   * Gives one follower the clients whose relays are gone, unless another one has them already.
   * @param late milliseconds by which the deadlines of restored clients have moved
   */
  async handOver(to: Follower, late: number, loading: Loading): Promise<void> {
    const gone = new Set<string>();
    const few: ClientId[] = [];
    let done = 0;
    const tell = (): void => {
      loading.progress({ step: "taking over clients", done, of: this.clients.size });
      // As they are now: some may have changed since, or be gone.
      const records = few.splice(0).flatMap((id) => this.clients.get(id) ?? []);
      to.inherit(records.filter(({ node }) => gone.has(node)));
    };
    const take = (record: ClientRecord): void => {
      const { node } = record;
      done++;
      if (!gone.has(node) && !this.isHeld(node)) {
        gone.add(node);
        this.heirs.set(node, to);
      }
      if (!gone.has(node)) return;
      if (late > 0 && node === NOBODY) this.clients.postpone(record, late);
      if (few.push(record.id) === FEW) tell();
    };
    await inTurns(this.clients.all(), take, new Turns(loading.signal));
    if (few.length > 0) tell();
  }

  async ask(from: string, question: Question): Promise<readonly Answer[]> {
    const others = [...this.followers].filter(({ node }) => node !== from);
    return Promise.all(others.map((follower) => follower.answer(question)));
  }

  private isHeld(node: string): boolean {
    if (this.heirs.has(node)) return true;
    for (const follower of this.followers) if (follower.node === node) return true;
    return false;
  }
}
