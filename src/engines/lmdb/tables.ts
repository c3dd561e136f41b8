import type { Database, DatabaseOptions, Key, RootDatabase } from "lmdb";
import type { ClientId } from "../../core/client.js";

export type Table = Database<Buffer, Buffer>;

/** See docs/data-directory.md for what is in them. */
const NAMES = [
  "meta",
  "log",
  "postings",
  "replaceable",
  "replaced",
  "trimmed1",
  "trimmed2",
  "audiences",
  "missed",
  "clients",
  "cursors",
  "lists",
  "gone",
  "keys",
  "replies",
  "ends",
  "owners",
] as const;

export type Tables = Record<(typeof NAMES)[number], Table>;

/** The one key of the table `meta`. */
export const META = Buffer.from("log");

/** How many tables there may be, with room for those of later versions. */
export const MAX_TABLES = 32;

/** Tables that grow with the log, and shrink with it. */
export const LOG_TABLES = ["log", "postings", "replaceable", "replaced", "trimmed1", "trimmed2"] as const;

/** Tables that only receipts need. */
export const RECEIPT_TABLES = ["audiences", "missed"] as const;

export function openTables(root: RootDatabase<Buffer, Buffer>): Tables {
  const open = (name: string): Table =>
    root.openDB<Buffer, Buffer>(name, { encoding: "binary", keyEncoding: "binary" });
  return Object.fromEntries(NAMES.map((name) => [name, open(name)])) as Tables;
}

/** Client ids as keys. LMDB asks for none where a range begins with the first one. */
const clientIds = {
  readKey: (bytes: Buffer, start: number, end: number): ClientId => bytes.toString("hex", start, end),
  writeKey: (id: ClientId | undefined, bytes: Buffer, start: number): number => {
    return start + (typeof id === "string" ? bytes.write(id, start, "hex") : 0);
  },
};

/** A table of clients, to be read without a buffer for each key and value: there may be a million. */
export function openClients<V>(
  root: RootDatabase<Buffer, Buffer>,
  name: "clients" | "cursors",
  decode: (bytes: Buffer) => V,
): Database<V, ClientId> {
  return root.openDB<V, ClientId>(name, { encoder: { decode }, keyEncoder: clientIds } as DatabaseOptions);
}

/** Rows that are read at a time: few enough to leave the event loop to others afterwards. */
const PIECE = 500;

/** Characters or bytes of values with which a piece ends all the same: some values are long. */
const PIECE_SIZE = 256 * 1024;

/**
 * All rows, in order, in pieces: a read transaction that stayed open while others have their turn would keep LMDB from
 * using freed pages again.
 */
export function* piecesOf<V extends { readonly length: number }, K extends Key>(
  table: Database<V, K>,
  size = PIECE,
): Generator<readonly { readonly key: K; readonly value: V }[]> {
  for (let last: K | undefined; ;) {
    const range = table.getRange({ ...(last !== undefined && { start: last, exclusiveStart: true }), limit: size });
    const rows: { readonly key: K; readonly value: V }[] = [];
    let left = PIECE_SIZE;
    for (const row of range) {
      rows.push(row);
      left -= row.value.length;
      if (left < 0) break;
    }
    if (rows.length > 0) yield rows;
    if (rows.length < size && left >= 0) return;
    last = rows.at(-1)?.key;
  }
}

/** As `piecesOf`, row by row. */
export function* rowsOf(table: Table, size: number): Generator<{ readonly key: Buffer; readonly value: Buffer }> {
  for (const piece of piecesOf(table, size)) yield* piece;
}

/** How many rows a table has. */
export function countOf(table: Pick<Table, "getStats">): number {
  return (table.getStats() as Stats).entryCount;
}

interface Stats {
  readonly entryCount: number;
  readonly pageSize: number;
  readonly treeBranchPageCount: number;
  readonly treeLeafPageCount: number;
  readonly overflowPages: number;
}

/** Bytes on disk that tables take now: what is freed in the file does not count. */
export function bytesOf(tables: Tables, names: readonly (keyof Tables)[]): number {
  let bytes = 0;
  for (const name of names) {
    const stats = tables[name].getStats() as Stats;
    bytes += stats.pageSize * (stats.treeBranchPageCount + stats.treeLeafPageCount + stats.overflowPages);
  }
  return bytes;
}

/** What one transaction changes, prepared whole before any of it is done. */
export class Changes {
  private readonly tables: Table[] = [];
  private readonly keys: (Buffer | undefined)[] = [];
  private readonly values: (Buffer | undefined)[] = [];
  /** Of keys and values that are put. */
  bytes = 0;

  put(table: Table, key: Buffer, value: Buffer): void {
    this.bytes += key.length + value.length;
    this.add(table, key, value);
  }

  remove(table: Table, key: Buffer): void {
    this.add(table, key, undefined);
  }

  /** Removes all rows. */
  clear(table: Table): void {
    this.add(table, undefined, undefined);
  }

  /** Resolves when all of it is on disk. @throws when none of it is */
  async commit(root: RootDatabase<Buffer, Buffer>): Promise<void> {
    const { tables, keys, values } = this;
    try {
      await root.batch(() => {
        for (const [index, table] of tables.entries()) {
          const key = keys[index];
          const value = values[index];
          if (!key) void table.clearAsync();
          else if (value) void table.put(key, value);
          else void table.remove(key);
        }
      });
    } catch (error) {
      // LMDB says why in a promise of its own, which has to be taken.
      const { commitError } = error as { commitError?: Promise<unknown> };
      await commitError;
      throw error;
    }
  }

  private add(table: Table, key: Buffer | undefined, value: Buffer | undefined): void {
    this.tables.push(table);
    this.keys.push(key);
    this.values.push(value);
  }
}
