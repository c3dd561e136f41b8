import type { ClientId } from "../../core/client.js";
import type { Audience } from "../../core/engine.js";
import { type EventId, formatId, parseId } from "../../core/id.js";
import type { Pieces } from "../../core/turns.js";
import type { Audience as AudienceRef } from "./block.js";
import { CLIENT_BYTES, clientOf, ID_BYTES, idKey, readId, writeId } from "./bytes.js";
import { applied, type Difference, differenceOf } from "./difference.js";
import type { Changes, Table } from "./tables.js";

/** Longer lists are kept once, for all events that matched the same clients. */
const MAX_INLINE = 8;

/** Milliseconds in which events may share a list, and in which other lists may be kept as a difference to it. */
const SHARED_FOR = 60_000;

/** Milliseconds: what is older than that before the floor has no reader left. */
export const AUDIENCE_LIFE = 2 * SHARED_FOR;

/** Audiences that are remembered as kept. */
const MAX_KEPT = 10_000;

/** Shorter lists are kept whole. */
const MIN_DIFFERENT = 64;

/** A difference is worth it while it has at most so many clients, and this part of the list. */
const MAX_DIFFERENT = { clients: 256, part: 1 / 4 };

/** Lists that later ones are compared with: how many, with how many clients in all, and with the same first client. */
const MAX_BASES = { lists: 64, clients: 1_000_000, alike: 4 };

/** Clients that are written in one piece. */
const PIECE = 1000;

/** The first byte of a row that is a difference, and the bytes before what it lists. */
const DIFFERENCE = 1;
const DIFFERENCE_HEAD = 1 + ID_BYTES + 4;

/** Clients that an event matched. */
type List = Audience["clients"];

/** A list that is kept whole. */
interface Base {
  readonly at: EventId;
  readonly list: List;
}

/** Whom events matched, for their receipts. The key is the id of the first event that a list was kept for. */
export class Audiences {
  /** By the ids of audiences; those that were kept first come first. */
  private kept = new Map<string, EventId>();
  /** Oldest first. */
  private bases: Base[] = [];

  constructor(private readonly table: Table) {}

  /** How an event's record names those that it matched: there may be a million. */
  *keep(changes: Changes, event: EventId, audiences: readonly Audience[]): Pieces<AudienceRef> {
    const list =
      audiences.length === 1 ? (audiences[0] as Audience).clients : audiences.flatMap(({ clients }) => clients);
    if (list.length <= MAX_INLINE) return list.map(({ id }) => id);
    const name = audiences.map(({ id }) => id).join();
    const at = this.kept.get(name);
    if (at && event.ms - at.ms < SHARED_FOR) return formatId(at);
    this.remember(name, event);
    changes.put(this.table, idKey(event), yield* this.rowOf(event, list));
    return formatId(event);
  }

  /** To be called when what was kept last was not: it has to be kept again. */
  forget(): void {
    this.kept.clear();
    this.bases = [];
  }

  /** @returns undefined when the list is not kept any more */
  clients(audience: AudienceRef): readonly ClientId[] | undefined {
    if (typeof audience !== "string") return audience;
    const at = parseId(audience);
    const row = at && this.table.get(idKey(at));
    if (!row) return undefined;
    // A whole list has nothing but clients.
    if (row.length % CLIENT_BYTES === 0) return clientsIn(row);
    const base = this.table.get(idKey(readId(row, 1)));
    if (!base) return undefined;
    const added = DIFFERENCE_HEAD + row.readUInt32BE(1 + ID_BYTES) * 4;
    const removed: number[] = [];
    for (let offset = DIFFERENCE_HEAD; offset < added; offset += 4) removed.push(row.readUInt32BE(offset));
    return applied(clientsIn(base), { removed, added: clientsIn(row.subarray(added)) });
  }

  private remember(name: string, event: EventId): void {
    this.kept.delete(name);
    this.kept.set(name, event);
    for (const [oldest, { ms }] of this.kept) {
      if (event.ms - ms < SHARED_FOR && this.kept.size <= MAX_KEPT) break;
      this.kept.delete(oldest);
    }
  }

  /** Whoever comes or goes makes a new list, little different from the one before: only the difference is written. */
  private *rowOf(at: EventId, list: List): Pieces<Buffer> {
    if (list.length >= MIN_DIFFERENT) {
      for (const base of this.basesFor(at, list)) {
        const most = Math.min(MAX_DIFFERENT.clients, Math.floor(list.length * MAX_DIFFERENT.part));
        const difference = yield* differenceOf(base.list, list, most, (a, b) => a?.id === b?.id);
        if (difference) return encodeDifference(base.at, difference);
      }
      this.addBase({ at, list });
    }
    const row = Buffer.allocUnsafeSlow(list.length * CLIENT_BYTES);
    for (let index = 0; index < list.length; index++) {
      row.write((list[index] as List[number]).id, index * CLIENT_BYTES, "hex");
      if (index % PIECE === PIECE - 1) yield;
    }
    return row;
  }

  /** Newest first. Lists grow at their end, so those of the same subscriptions mostly begin with the same client. */
  private basesFor(at: EventId, [first]: List): Base[] {
    this.bases = this.bases.filter((base) => at.ms - base.at.ms < SHARED_FOR);
    return this.bases.filter(({ list }) => list[0]?.id === first?.id).reverse();
  }

  private addBase(base: Base): void {
    const alike = this.basesFor(base.at, base.list);
    const oldest = alike.length >= MAX_BASES.alike ? alike.at(-1) : undefined;
    this.bases = [...this.bases.filter((each) => each !== oldest), base];
    let clients = this.bases.reduce((sum, { list }) => sum + list.length, 0);
    while (this.bases.length > MAX_BASES.lists || clients > MAX_BASES.clients) {
      clients -= this.bases.shift()?.list.length ?? clients;
    }
  }
}

function encodeDifference(base: EventId, { removed, added }: Difference<List[number]>): Buffer {
  const row = Buffer.alloc(DIFFERENCE_HEAD + removed.length * 4 + added.length * CLIENT_BYTES);
  row[0] = DIFFERENCE;
  let at = row.writeUInt32BE(removed.length, writeId(row, base, 1));
  for (const index of removed) at = row.writeUInt32BE(index, at);
  for (const { id } of added) at += row.write(id, at, "hex");
  return row;
}

function clientsIn(bytes: Buffer): ClientId[] {
  const clients: ClientId[] = [];
  for (let at = 0; at < bytes.length; at += CLIENT_BYTES) clients.push(clientOf(bytes.subarray(at, at + CLIENT_BYTES)));
  return clients;
}
