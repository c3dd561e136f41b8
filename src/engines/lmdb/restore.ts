import type { RootDatabase } from "lmdb";
import type { Progress } from "../../core/client.js";
import { type EventId, laterOf, ZERO } from "../../core/id.js";
import type { Loading } from "../../core/loading.js";
import { Turns } from "../../core/turns.js";
import { ClientTable } from "../client-table.js";
import { ID_BYTES, readId } from "./bytes.js";
import { Lists } from "./lists.js";
import { decodeClient } from "./records.js";
import { countOf, openClients, piecesOf, type Tables } from "./tables.js";

export interface RestoredClients {
  readonly clients: ClientTable;
  readonly lists: Lists;
  /** The highest id that any of them knows. */
  readonly newest: EventId;
}

/** Reads all clients into memory. */
export async function restoreClients(
  root: RootDatabase<Buffer, Buffer>,
  tables: Tables,
  loading: Loading,
): Promise<RestoredClients> {
  const lists = new Lists(tables.lists);
  const restoring = await lists.restore(loading);
  const rows = openClients(root, "clients", (bytes, length) => bytes.toString("utf8", 0, length));
  const cursors = openClients(root, "cursors", (bytes): Progress => {
    const cursor = readId(bytes);
    // The two ids are mostly equal. One object for both saves memory: there may be a million clients.
    const isSame = bytes.compare(bytes, ID_BYTES, 2 * ID_BYTES, 0, ID_BYTES) === 0;
    return { cursor, confirmed: isSame ? cursor : readId(bytes, ID_BYTES) };
  });
  const clients = new ClientTable();
  const turns = new Turns(loading.signal);
  let newest = ZERO;
  const of = countOf(rows);
  for (const piece of piecesOf(rows)) {
    loading.progress({ step: "reading clients", done: clients.size, of });
    // Both tables are in the order of the ids.
    const [first] = piece;
    const progress = cursors.getRange({ ...(first && { start: first.key }) })[Symbol.iterator]();
    let next = progress.next();
    for (const { key, value } of piece) {
      while (!next.done && next.value.key < key) next = progress.next();
      if (next.done || next.value.key !== key) continue;
      const record = decodeClient(key, value, next.value.value, restoring.listOf);
      restoring.take(record);
      newest = laterOf(laterOf(newest, record.cursor), record.confirmed);
      clients.add(record);
    }
    progress.return?.();
    if (turns.over) await turns.rest();
  }
  restoring.end();
  return { clients, lists, newest };
}
