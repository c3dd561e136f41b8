import type { ClientId } from "../../core/client.js";
import { Deque } from "../../core/deque.js";
import { compareIds, type EventId } from "../../core/id.js";
import { clientKey, clientOf } from "./bytes.js";
import { decode, type Tombstone } from "./records.js";
import type { Changes, Table } from "./tables.js";

/** How many clients that are gone are remembered for receipts. */
const MAX_TOMBSTONES = 100_000;

/** Clients that are gone, as long as the log has something that was for them. */
export class Tombstones {
  private readonly oldest = new Deque<{ readonly id: ClientId; readonly at: EventId }>();

  constructor(private readonly table: Table) {
    const found = [...table.getRange({})].map(({ key, value }) => ({
      id: clientOf(key),
      at: (decode(value) as Tombstone).at,
    }));
    for (const tombstone of found.sort((a, b) => compareIds(a.at, b.at))) this.oldest.push(tombstone);
  }

  get(id: ClientId): Tombstone | undefined {
    const bytes = this.table.get(clientKey(id));
    return bytes && (decode(bytes) as Tombstone);
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
