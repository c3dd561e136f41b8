import type { ClientId, ClientRecord } from "../../core/client.js";
import type { Loading } from "../../core/loading.js";
import { type Pieces, Turns } from "../../core/turns.js";
import { listKey, listNumber } from "./bytes.js";
import { applied, type Difference as Change, differenceOf } from "./difference.js";
import { decodeList, digestOf, encodeList, isDifference, longListsOf } from "./list-values.js";
import { type Changes, countOf, piecesOf, type Table } from "./tables.js";

/** A difference is written when it is this many times smaller than the whole list. */
const SMALL = 4;

/** How a client's row has a list: as it is, or by the number of a list that has a row of its own. */
export type Ref = readonly string[] | number;

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

/** The lists that a client's row refers to. They are few, and clients may be many: so they are in arrays. */
class References {
  private readonly lists: (readonly string[])[] = [];
  readonly stored: Stored[] = [];
  /** What the client subscribed to last, and its rooms: a new list is mostly much the same. */
  topics: readonly string[] | undefined;
  rooms: readonly string[] | undefined;

  get(names: readonly string[] | undefined): Stored | undefined {
    return names && this.stored[this.lists.indexOf(names)];
  }

  add(names: readonly string[], stored: Stored): void {
    if (this.lists.includes(names)) return;
    this.lists.push(names);
    this.stored.push(stored);
    stored.users++;
  }
}

/**
 * The long lists of clients: topics of now and before, rooms, permissions. Each is written once, in full or as
 * its difference from one that is, and removed when nobody refers to it any more. So a change of one of a thousand topics
 * writes that topic, and not all of them, as often as they are in the client's history.
 */
export class Lists {
  /** Of clients with long lists, as they were written last. */
  private readonly rows = new Map<ClientId, References>();
  /** By digest. */
  private readonly full = new Map<string, Full>();
  /** Rows that are to be written, or removed, and are not known to be: a commit that failed leaves them here. */
  private readonly unwritten = new Map<number, Buffer | undefined>();
  private last = 0;

  constructor(private readonly table: Table) {}

  /** Stores the lists of a client, in place of those that it had. @returns how its row refers to them */
  *keep(record: ClientRecord): Pieces<(names: readonly string[]) => Ref> {
    const before = this.rows.get(record.id);
    const long = longListsOf(record);
    if (long.length === 0 && !before) return asItIs;
    const after = new References();
    let near = before?.get(before.topics);
    for (const names of long) {
      const like = (names === record.rooms && before?.get(before.rooms)) || near;
      near = after.get(names) ?? before?.get(names) ?? (yield* this.add(names, like));
      after.add(names, near);
      yield;
    }
    this.forget(record.id);
    this.refer(record, after);
    return (names) => after.get(names)?.number ?? names;
  }

  /** Whether the client's row refers to lists that the client has no more. */
  isStale(record: ClientRecord): boolean {
    const row = this.rows.get(record.id);
    return row !== undefined && row.stored.length > new Set(longListsOf(record)).size;
  }

  /** To be called when a client is removed. */
  forget(id: ClientId): void {
    const row = this.rows.get(id);
    if (!row) return;
    for (const stored of row.stored) this.release(stored);
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
    const restored = new Map<number, Stored>();
    const made = new Map<Stored, readonly string[]>();
    const turns = new Turns(loading.signal);
    for (const piece of piecesOf(table)) {
      loading.progress({ step: "reading lists of topics", done: restored.size, of: countOf(table) });
      for (const { key, value } of piece) {
        this.last = listNumber(key);
        restored.set(this.last, this.decode(this.last, value, restored, made));
      }
      if (turns.over) await turns.rest();
    }
    let references = new References();
    return {
      listOf: (ref) => {
        if (typeof ref !== "number") return ref;
        const stored = restored.get(ref);
        if (!stored) throw missing(ref);
        const names = stored.base ? (made.get(stored) as readonly string[]) : stored.names;
        references.add(names, stored);
        return names;
      },
      take: (record) => {
        if (references.stored.length === 0) return;
        this.refer(record, references);
        references = new References();
      },
      end: () => {
        for (const stored of restored.values()) if (stored.users === 0) this.drop(stored);
      },
    };
  }

  private refer({ id, subscriptions, rooms }: ClientRecord, references: References): void {
    if (references.stored.length === 0) return;
    references.topics = subscriptions.at(-1)?.topics;
    references.rooms = rooms;
    this.rows.set(id, references);
  }

  /** @param near a list that is probably much the same */
  private *add(names: readonly string[], near: Stored | undefined): Pieces<Stored> {
    const base = near?.base ?? near;
    if (base) {
      const { removed, added } = (yield* differenceOf(base.names, names, Infinity)) as Change<string>;
      if (removed.length === 0 && added.length === 0) return base;
      const value = encodeList([base.number, removed, added]);
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

  /** @param made takes what a difference makes */
  private decode(
    number: number,
    bytes: Buffer,
    restored: ReadonlyMap<number, Stored>,
    made: Map<Stored, readonly string[]>,
  ): Stored {
    const value = decodeList(bytes);
    if (!isDifference(value)) {
      const full = { number, users: 0, names: value, digest: digestOf(bytes), size: bytes.length };
      this.full.set(full.digest, full);
      return full;
    }
    const [from, removed, added] = value;
    const base = restored.get(from);
    if (!base || base.base) throw missing(from);
    base.users++;
    const stored = { number, users: 0, base, spent: bytes.length };
    made.set(stored, applied(base.names, { removed, added }));
    return stored;
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

function asItIs(names: readonly string[]): Ref {
  return names;
}

function missing(number: number): Error {
  return new Error(`data.mdb is damaged: it has no list ${number}, and something refers to it`);
}
