import { compareIds, type EventId, laterOf } from "../../core/id.js";
import type { Query } from "../../core/engine.js";
import { idKey, readId } from "./bytes.js";
import { frontOfPosting, prefixesFor, SEEK_WORK } from "./postings.js";
import type { TrimmedState } from "./records.js";
import { bytesOf, type Changes, type Tables } from "./tables.js";
import { WorkTurns } from "./work-turns.js";

/** Topics that patterns may lead to in each table; beyond, the answer is that something may have been trimmed. */
const MAX_TOPICS = 1024;

/** Work in one turn of the event loop: a few milliseconds. */
const TURN = 300_000;

const NAMES = ["trimmed1", "trimmed2"] as const;

/**
 * Remembers the events of blocks that were removed: the id of the last one for each addressee and topic, under the front
 * of their postings' keys. New rows go to one of two tables. When that table has filled half of the room, the commit
 * clears the other one, which has the smaller ids, and new rows go there.
 */
export class TrimmedTopics {
  /** What the next commit writes. */
  state: TrimmedState;

  /**
   * @param saved as it is on disk
   * @param room bytes of the disk
   */
  constructor(
    private readonly tables: Tables,
    private saved: TrimmedState,
    private readonly room: number,
  ) {
    this.state = saved;
  }

  /** To be called before anything is noted for a commit. @param floor no id that was noted before is above it */
  begin(changes: Changes, floor: EventId): void {
    const { recent, turned } = this.saved;
    if (bytesOf(this.tables, [NAMES[recent]]) * 2 <= this.room) return;
    const older = recent === 0 ? 1 : 0;
    changes.clear(this.tables[NAMES[older]]);
    this.forget(turned);
    this.state = { ...this.state, turned: floor, recent: older };
  }

  /** Notes that the last event that a posting leads to, and that readers could have had, is trimmed. */
  note(changes: Changes, posting: Buffer, id: EventId): void {
    changes.put(this.tables[NAMES[this.state.recent]], frontOfPosting(posting), idKey(id));
  }

  /** Nothing is known any more of what was trimmed up to this id. Readers learn that before the rows are gone. */
  forget(through: EventId): void {
    this.state = { ...this.state, unknown: laterOf(this.state.unknown, through) };
  }

  /** To be called when what was noted is on disk. */
  written(): void {
    this.saved = this.state;
  }

  /** To be called when it is not: then it is noted again. */
  failed(): void {
    this.state = { ...this.saved, unknown: this.state.unknown };
  }

  /**
   * Whether a matching event after `after` was in a block that is removed, or may have been. `until` is of no use here: an
   * event before it may hide behind a later one.
   */
  async has(query: Pick<Query, "after" | "topics" | "user">): Promise<boolean> {
    const turns = new WorkTurns(TURN);
    for (const name of NAMES) {
      if (this.isUnknownAfter(query.after) || (await this.isIn(name, query, turns))) return true;
    }
    // A commit may have cleared a table meanwhile.
    return this.isUnknownAfter(query.after);
  }

  private isUnknownAfter(after: EventId): boolean {
    return compareIds(after, this.state.unknown) < 0;
  }

  private async isIn(
    name: (typeof NAMES)[number],
    { after, topics, user }: Pick<Query, "after" | "topics" | "user">,
    turns: WorkTurns,
  ): Promise<boolean> {
    const table = this.tables[name];
    const keys = await prefixesFor(table, topics, user, MAX_TOPICS, turns, 0);
    for (const key of keys ?? []) {
      if (turns.over) await turns.rest();
      turns.left -= SEEK_WORK;
      const id = table.get(key);
      if (id && compareIds(readId(id), after) > 0) return true;
    }
    return !keys;
  }
}
