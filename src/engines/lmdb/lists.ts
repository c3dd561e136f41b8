import type { ClientId, ClientRecord } from "../../core/client.js";
import type { Loading } from "../../core/loading.js";
import { type Pieces, Turns } from "../../core/turns.js";
import { listKey, listNumber } from "./bytes.js";
import { applied, decodeList, differenceOf, digestOf, encodeList, isDifference, longListsOf } from "./list-values.js";
import { type Changes, countOf, piecesOf, type Table } from "./tables.js";

/** A difference is written when it is this many times smaller than the whole list. */
const SMALL = 4;

/** How a client's row has a list: as it is, or by the number of a list that has a row of its own. */
export type Ref = readonly string[] | number;

/** Lists, by what they are in memory, and their numbers. */
export type Numbers = ReadonlyMap<readonly string[], { readonly number: number }>;

/** A row of the table. */
interface Row {
  readonly number: number;
  /** Clients that refer to it, and differences from it. */
  users: number;
}

interface Full extends Row {
  readonly base?: undefined;
  readonly names: readonly string[];
  readonly digest: string;
  readonly size: number;
}

interface Difference extends Row {
  readonly base: Full;
  /** Bytes of this difference and of those that it came after, since the last list in full. */
  readonly spent: number;
}

type Stored = Full | Difference;

/** What a client's row refers to. */
interface Referred {
  readonly lists: ReadonlyMap<readonly string[], Stored>;
  readonly topics: readonly string[];
  readonly rooms: readonly string[];
}

/**
 * The long lists of clients: topics, rooms, exceptions of what was lost, permissions. Each is written once, in full or as
 * its difference from one that is, and removed when nobody refers to it any more. So a change of one of a thousand topics
 * writes that topic, and not all of them, as often as they are in the client's history.
 */
export class Lists {
  /** Of clients with long lists, as they were written last. */
  private readonly rows = new Map<ClientId, Referred>();
  /** By digest. */
  private readonly full = new Map<string, Full>();
  /** Rows that are to be written, or removed, and are not known to be: a commit that failed leaves them here. */
  private readonly unwritten = new Map<number, Buffer | undefined>();
  private last = 0;

  constructor(private readonly table: Table) {}

  /** Stores the lists of a client, in place of those that it had. @returns how its row refers to them */
  *keep(record: ClientRecord): Pieces<Numbers> {
    const row = this.rows.get(record.id);
    const lists = new Map<readonly string[], Stored>();
    let near = row?.lists.get(row.topics);
    for (const names of longListsOf(record)) {
      if (lists.has(names)) continue;
      const before = (names === record.rooms && row?.lists.get(row.rooms)) || near;
      near = row?.lists.get(names) ?? this.add(names, before);
      near.users++;
      lists.set(names, near);
      yield;
    }
    this.replace(record, row, lists);
    return lists;
  }

  /** Whether the client's row refers to lists that the client has no more. */
  isStale(record: ClientRecord): boolean {
    const row = this.rows.get(record.id);
    return row !== undefined && row.lists.size > new Set(longListsOf(record)).size;
  }

  /** To be called when a client is removed. */
  forget(id: ClientId): void {
    for (const stored of this.rows.get(id)?.lists.values() ?? []) this.release(stored);
    this.rows.delete(id);
  }

  *write(changes: Changes): Pieces {
    for (const [number, value] of this.unwritten) {
      if (value) changes.put(this.table, listKey(number), value);
      else changes.remove(this.table, listKey(number));
      yield;
    }
  }

  /** To be called when what `write` said is on disk. */
  written(): void {
    this.unwritten.clear();
  }

  /** Reads all lists. @returns what gives them to the clients that are read then */
  async restore(loading: Loading): Promise<Restoring> {
    const { table } = this;
    const restored = new Map<number, { readonly stored: Stored; readonly names: readonly string[] }>();
    const known = new Map<readonly string[], Stored>();
    const turns = new Turns(loading.signal);
    for (const piece of piecesOf(table)) {
      loading.progress({ step: "reading lists of topics", done: restored.size, of: countOf(table) });
      for (const { key, value } of piece) {
        const number = listNumber(key);
        const list = this.decode(number, value, (base) => restored.get(base)?.stored);
        restored.set(number, list);
        known.set(list.names, list.stored);
        this.last = number;
      }
      if (turns.over) await turns.rest();
    }
    return {
      listOf: (ref) => {
        if (typeof ref !== "number") return ref;
        const list = restored.get(ref);
        if (!list) throw missing(ref);
        return list.names;
      },
      take: (record) => {
        if (known.size === 0) return;
        const lists = new Map<readonly string[], Stored>();
        for (const names of longListsOf(record)) {
          // Earlier versions have long lists in the client's own row.
          const stored = known.get(names);
          if (!stored || lists.has(names)) continue;
          stored.users++;
          lists.set(names, stored);
        }
        this.replace(record, undefined, lists);
      },
      end: () => {
        for (const { stored } of restored.values()) if (stored.users === 0) this.drop(stored);
      },
    };
  }

  private replace(record: ClientRecord, row: Referred | undefined, lists: Referred["lists"]): void {
    for (const stored of row?.lists.values() ?? []) this.release(stored);
    const { subscriptions, rooms } = record;
    if (lists.size > 0) this.rows.set(record.id, { lists, topics: subscriptions.at(-1)?.topics ?? rooms, rooms });
    else if (row) this.rows.delete(record.id);
  }

  /** @param near a list that is probably much the same */
  private add(names: readonly string[], near: Stored | undefined): Stored {
    const base = near?.base ?? near;
    if (base) {
      const difference = differenceOf(base.names, names);
      if (difference.every((part) => part.length === 0)) return base;
      const value = encodeList([base.number, ...difference]);
      const spent = (near?.base ? near.spent : 0) + value.length;
      if (value.length * SMALL <= base.size && spent <= base.size) {
        base.users++;
        return this.put(value, { base, spent });
      }
    }
    const value = encodeList(names);
    const digest = digestOf(value);
    const known = this.full.get(digest);
    if (known) return known;
    const full = this.put(value, { names, digest, size: value.length });
    this.full.set(digest, full);
    return full;
  }

  private put<T>(value: Buffer, what: T): T & { number: number; users: number } {
    const number = ++this.last;
    this.unwritten.set(number, value);
    return { number, users: 0, ...what };
  }

  private decode(
    number: number,
    bytes: Buffer,
    baseOf: (number: number) => Stored | undefined,
  ): { readonly stored: Stored; readonly names: readonly string[] } {
    const value = decodeList(bytes);
    if (!isDifference(value)) {
      const full = { number, users: 0, names: value, digest: digestOf(bytes), size: bytes.length };
      this.full.set(full.digest, full);
      return { stored: full, names: value };
    }
    const [from, ...difference] = value;
    const base = baseOf(from);
    if (!base || base.base) throw missing(from);
    base.users++;
    const names = applied(base.names, difference);
    return { stored: { number, users: 0, base, spent: bytes.length }, names };
  }

  private release(stored: Stored): void {
    if (--stored.users === 0) this.drop(stored);
  }

  private drop(stored: Stored): void {
    this.unwritten.set(stored.number, undefined);
    if (stored.base) this.release(stored.base);
    else this.full.delete(stored.digest);
  }
}

/** Lists for the clients that are read from disk. */
export interface Restoring {
  /** @throws {Error} there is no such list */
  readonly listOf: (ref: Ref) => readonly string[];
  /** Notes what a client refers to. */
  readonly take: (record: ClientRecord) => void;
  /** Removes the lists that no client has referred to. */
  readonly end: () => void;
}

function missing(number: number): Error {
  return new Error(`data.mdb is damaged: it has no list ${number}, and something refers to it`);
}
