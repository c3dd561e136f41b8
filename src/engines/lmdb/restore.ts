import type { RootDatabase } from "lmdb";
import { type EventId, laterOf, ZERO } from "../../core/id.js";
import type { ClientId } from "../../core/client.js";
import type { Loading } from "../../core/loading.js";
import { Turns } from "../../core/turns.js";
import { ClientTable } from "../local/client-table.js";
import { clientOf, ID_BYTES, readId } from "./bytes.js";
import { withoutEvents } from "./earlier-rows.js";
import { Lists } from "./lists.js";
import { decodeClient, decodeProgress } from "./records.js";
import { countOf, openClients, piecesOf, type Tables } from "./tables.js";
import type { Uptime } from "./uptime.js";

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
  uptime: Uptime,
  loading: Loading,
): Promise<RestoredClients> {
  const lists = new Lists(tables.lists);
  const restoring = await lists.restore(loading);
  const rows = openClients(root, "clients", (bytes) => bytes.toString("utf8", 0, bytes.length));
  const cursors = openClients(root, "cursors", decodeProgress);
  const clients = new ClientTable();
  const turns = new Turns(loading.signal);
  const old = new Set<ClientId>();
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
      const earlier = next.value.value.received ? undefined : key;
      const record = uptime.unsure(decodeClient(key, value, next.value.value, restoring.listOf, uptime));
      if (earlier) old.add(earlier);
      restoring.take(record);
      newest = laterOf(laterOf(newest, record.cursor), record.confirmed);
      clients.put(record);
    }
    progress.return?.();
    if (turns.over) await turns.rest();
  }
  restoring.end();
  await restoreMissed(tables, clients, old, turns);
  return { clients, lists, newest };
}

/** Up to version 3 of the directory, it was written down which events passed a client by. */
async function restoreMissed(
  { missed }: Tables,
  clients: ClientTable,
  old: ReadonlySet<ClientId>,
  turns: Turns,
): Promise<void> {
  if (old.size === 0) return;
  const events = new Map<ClientId, EventId[]>();
  for (const piece of piecesOf(missed)) {
    for (const { key } of piece) {
      const client = clientOf(key.subarray(ID_BYTES));
      if (!old.has(client)) continue;
      const ids = events.get(client);
      if (ids) ids.push(readId(key));
      else events.set(client, [readId(key)]);
    }
    if (turns.over) await turns.rest();
  }
  for (const [client, ids] of events) {
    const record = clients.get(client);
    if (record) clients.put({ ...record, received: withoutEvents(record.received, ids) });
    if (turns.over) await turns.rest();
  }
}
