import type { ClientId } from "../../core/client.js";
import { Deque } from "../../core/deque.js";
import { compareIds, type EventId } from "../../core/id.js";
import type { Loading } from "../../core/loading.js";
import { Turns } from "../../core/turns.js";
import { clientKey, clientOf } from "./bytes.js";
import { earlierTombstone } from "./earlier-rows.js";
import { decode, type Tombstone } from "./records.js";
import { type Changes, countOf, piecesOf, type Table } from "./tables.js";

/** How many clients that are gone are remembered for receipts. */
const MAX_TOMBSTONES = 100_000;

interface Gone {
  readonly id: ClientId;
  readonly at: EventId;
}

/** Clients that are gone, as long as the log has something that was for them. */
export class Tombstones {
  private readonly oldest = new Deque<Gone>();

  private constructor(
    private readonly table: Table,
    gone: readonly Gone[],
  ) {
    for (const tombstone of gone) this.oldest.push(tombstone);
  }

  static async load(table: Table, loading: Loading): Promise<Tombstones> {
    const gone: Gone[] = [];
    const turns = new Turns(loading.signal);
    for (const piece of piecesOf(table)) {
      loading.progress({ step: "reading removed clients", done: gone.length, of: countOf(table) });
      for (const { key, value } of piece) gone.push({ id: clientOf(key), at: (decode(value) as Tombstone).at });
      if (turns.over) await turns.rest();
    }
    return new Tombstones(
      table,
      gone.sort((a, b) => compareIds(a.at, b.at)),
    );
  }

  get(id: ClientId): Tombstone | undefined {
    const bytes = this.table.get(clientKey(id));
    return bytes && earlierTombstone(decode(bytes) as Tombstone);
  }

  note(id: ClientId, at: EventId): void {
    this.oldest.push({ id, at });
  }

  /** @param after those that went later stay */
  trim(changes: Changes, after: EventId, budget: number): void {
    for (let left = budget; left > 0; left--) {
      const first = this.oldest.at(0);
      if (!first || (this.oldest.length <= MAX_TOMBSTONES && compareIds(first.at, after) > 0)) return;
      this.oldest.shift();
      changes.remove(this.table, clientKey(first.id));
    }
  }
}
