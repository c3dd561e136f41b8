import type { RootDatabase } from "lmdb";
import type { ClientRecord } from "../../core/client.js";
import { RelayError } from "../../core/errors.js";
import { type EventId, laterOf } from "../../core/id.js";
import { type Retention, Window } from "../../core/window.js";
import type { KnownKey } from "../journal.js";
import { LocalEngine } from "../local.js";
import { clientOf } from "./bytes.js";
import { explained, finishDirectory, isFull, openDirectory } from "./directory.js";
import type { Report } from "./commits.js";
import { LmdbJournal } from "./journal.js";
import { decode, decodeClient, encode, type LogState } from "./records.js";
import { Changes, META, openTables, type Tables } from "./tables.js";

/** The window's share of the log: what is read again soon, and what is not on disk yet. */
const WINDOW = { count: 100_000, bytes: 64 * 1024 * 1024 };

/**
 * Milliseconds between the last id on disk and the first of a new process: ids were given out that never got to the
 * disk, and the clock on the wall may have been set back since.
 */
const ID_GAP = 1000;

export interface LmdbOptions {
  /** Where the data is. Made when there is none. */
  readonly directory: string;
  readonly retention: Retention;
  readonly report?: Report;
  /** Bounds of the newest events in memory. */
  readonly window?: Pick<Retention, "count" | "bytes">;
}

/**
 * Everything on this machine's disk: what was answered survives the process and the machine.
 * @throws {RelayError} unavailable: the directory can not be used, and why
 */
export async function openLmdbEngine(options: LmdbOptions): Promise<LocalEngine> {
  const { directory, retention, report = () => undefined, window: limits = WINDOW } = options;
  const root = openDirectory(directory);
  try {
    const tables = explained(directory, () => openTables(root));
    const clients = explained(directory, () => [...restoreClients(tables)]);
    const state = await begin(root, tables, directory, clients);
    explained(directory, () => finishDirectory(directory));
    const keys = explained(directory, () =>
      [...tables.keys.getRange({})].map(({ value }) => decode(value) as KnownKey),
    );
    const { age, count, bytes } = retention;
    const share = { age, count: Math.min(count, limits.count), bytes: Math.min(bytes, limits.bytes) };
    const window = new Window(share, state.head);
    const journal = explained(
      directory,
      () =>
        new LmdbJournal(root, tables, window, retention, state, (level, message, error) => {
          report(level, level === "error" && isFull(directory) ? `${message}. The disk is full` : message, error);
        }),
    );
    return new LocalEngine("lmdb", window, { ...state, clients, keys }, journal);
  } catch (error) {
    await root.close();
    throw error;
  }
}

/** Takes up the log where it ended; the first write shows that there can be others. */
async function begin(
  root: RootDatabase<Buffer, Buffer>,
  tables: Tables,
  directory: string,
  clients: readonly ClientRecord[],
): Promise<LogState> {
  const now = { ms: Date.now(), seq: 0 };
  const kept = tables.meta.get(META);
  const state = kept
    ? takeUp(decode(kept) as LogState, now, clients)
    : { origin: now, head: now, floor: now, count: 0 };
  const changes = new Changes();
  changes.put(tables.meta, META, encode(state));
  try {
    await changes.commit(root);
  } catch (cause) {
    throw new RelayError("unavailable", `the data directory ${directory} can not be written`, { cause });
  }
  return state;
}

/** Above everything that was given out, as far as the disk tells: events that are not kept move cursors too. */
function takeUp(state: LogState, now: EventId, clients: readonly ClientRecord[]): LogState {
  const last = clients.reduce((id, { cursor, confirmed }) => laterOf(laterOf(id, cursor), confirmed), state.head);
  return { ...state, head: laterOf(now, { ms: last.ms + ID_GAP, seq: 0 }) };
}

function* restoreClients({ clients, cursors }: Tables): Generator<ClientRecord> {
  for (const { key, value } of clients.getRange({})) {
    const progress = cursors.get(key);
    if (progress) yield decodeClient(clientOf(key), value, progress);
  }
}
