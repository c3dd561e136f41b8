import type { ClientId } from "../../core/client.js";
import type { Matched } from "../../core/engine.js";
import type { EventId } from "../../core/id.js";
import { formatId, parseId } from "../../core/id.js";
import type { Pieces } from "../../core/turns.js";
import type { Audience } from "./block.js";
import { clientOf, idKey } from "./bytes.js";
import type { Changes, Table } from "./tables.js";

/** Longer lists are kept once, for all events that matched the same clients. */
const MAX_INLINE = 8;

/** Milliseconds in which events may share a list: what is older than that before the floor has no reader left. */
export const AUDIENCE_LIFE = 60_000;

const CLIENT_BYTES = 16;

/** Clients that are written in one piece. */
const PIECE = 1000;

/** Whom events matched, for their receipts. The key is the id of the first event that a list was kept for. */
export class Audiences {
  private kept = new WeakMap<readonly Matched[], EventId>();

  constructor(private readonly table: Table) {}

  /** How an event's record names those that it matched: there may be a million. */
  *keep(changes: Changes, event: EventId, matched: readonly Matched[]): Pieces<Audience> {
    if (matched.length <= MAX_INLINE) return matched.map(({ id }) => id);
    let at = this.kept.get(matched);
    if (!at || event.ms - at.ms >= AUDIENCE_LIFE) {
      at = event;
      this.kept.set(matched, at);
      const bytes = Buffer.allocUnsafeSlow(matched.length * CLIENT_BYTES);
      for (let index = 0; index < matched.length; index++) {
        bytes.write((matched[index] as Matched).id, index * CLIENT_BYTES, "hex");
        if (index % PIECE === PIECE - 1) yield;
      }
      changes.put(this.table, idKey(at), bytes);
    }
    return formatId(at);
  }

  /** To be called when what was kept last was not: it has to be kept again. */
  forget(): void {
    this.kept = new WeakMap();
  }

  /** @returns undefined when the list is not kept any more */
  clients(audience: Audience): readonly ClientId[] | undefined {
    if (typeof audience !== "string") return audience;
    const at = parseId(audience);
    const bytes = at && this.table.get(idKey(at));
    if (!bytes) return undefined;
    const count = Math.floor(bytes.length / CLIENT_BYTES);
    return Array.from({ length: count }, (_, index) => {
      return clientOf(bytes.subarray(index * CLIENT_BYTES, (index + 1) * CLIENT_BYTES));
    });
  }
}
