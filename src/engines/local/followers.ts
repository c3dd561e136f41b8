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
  /** The last handing over of clients, and how many have not ended. */
  private handing: Promise<void> = Promise.resolve();
  private handings = 0;
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
   * Gives one follower the clients whose relays are gone, unless another one has them already. One handing over after the
   * other, as each takes several turns in which relays may come and go.
   * @param late milliseconds by which the deadlines of restored clients have moved
   */
  async handOver(to: Follower, late: number, loading: Loading): Promise<void> {
    const before = this.handing;
    const handing = before.catch(() => undefined).then(() => this.handOverNext(to, late, loading));
    this.handing = handing;
    this.handings++;
    try {
      await handing;
    } finally {
      this.handings--;
      // Whom events matched meanwhile that were for clients on their way, nobody knows.
      for (const follower of this.followers) follower.inherit([]);
    }
  }

  /** @returns undefined while it is not known yet which relay has the clients of one that is gone */
  async ask(from: string, question: Question): Promise<readonly Answer[] | undefined> {
    if (this.handings > 0) return undefined;
    const others = [...this.followers].filter(({ node }) => node !== from);
    return Promise.all(others.map((follower) => follower.answer(question)));
  }

  private async handOverNext(to: Follower, late: number, loading: Loading): Promise<void> {
    // Those of a relay that goes meanwhile are for the next handing over.
    const held = new Set([...this.heirs.keys(), ...[...this.followers].map(({ node }) => node)]);
    const few: ClientId[] = [];
    let done = 0;
    const tell = (): void => {
      loading.progress({ step: "taking over clients", done, of: this.clients.size });
      // As they are now: some may have changed since, or be gone.
      const records = few.splice(0).flatMap((id) => this.clients.get(id) ?? []);
      if (this.followers.has(to)) to.inherit(records.filter(({ node }) => !held.has(node)));
    };
    const take = (record: ClientRecord): void => {
      const { node } = record;
      done++;
      if (held.has(node) || !this.followers.has(to)) return;
      this.heirs.set(node, to);
      if (late > 0 && node === NOBODY) this.clients.postpone(record, late);
      if (few.push(record.id) === FEW) tell();
    };
    await inTurns(this.clients.all(), take, new Turns(loading.signal));
    if (few.length > 0) tell();
  }
}
