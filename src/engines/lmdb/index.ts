import type { RootDatabase } from "lmdb";
import { Clock } from "../../core/clock.js";
import { RelayError } from "../../core/errors.js";
import { type EventId, laterOf } from "../../core/id.js";
import { type Loading, UNOBSERVED } from "../../core/loading.js";
import { type Retention, Window } from "../local/window.js";
import { LocalEngine } from "../local/local-engine.js";
import { explained, finishDirectory, isFull, openDirectory } from "./directory.js";
import type { Report } from "./commits.js";
import { LmdbJournal } from "./journal.js";
import { decode, encode, type LogState } from "./records.js";
import { restoreClients } from "./restore.js";
import { Changes, META, openTables, type Tables } from "./tables.js";
import { Tombstones } from "./tombstones.js";
import { upgradeKeys } from "./upgrade-keys.js";
import { Uptime } from "./uptime.js";

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
  readonly loading?: Loading;
  /** Bounds of the newest events in memory. */
  readonly window?: Pick<Retention, "count" | "bytes">;
  /** Bytes for the idempotency keys of each owner. */
  readonly keyRoom?: number;
}

/**
 * Everything on this machine's disk: what was answered survives the process and the machine. Opening shares the event loop.
 * @throws {RelayError} unavailable: the directory can not be used, and why
 */
export async function openLmdbEngine(options: LmdbOptions): Promise<LocalEngine> {
  const { directory, loading = UNOBSERVED } = options;
  return explained(directory, async () => {
    const root = await openDirectory(directory, loading);
    try {
      return await load(root, openTables(root), options, loading);
    } catch (error) {
      await root.close();
      throw error;
    }
  });
}

async function load(
  root: RootDatabase<Buffer, Buffer>,
  tables: Tables,
  { directory, retention, report = () => undefined, window: limits = WINDOW, keyRoom }: LmdbOptions,
  loading: Loading,
): Promise<LocalEngine> {
  const bytesOfLog = tables.meta.get(META);
  const kept = bytesOfLog && (decode(bytesOfLog) as LogState);
  const clock = new Clock(reachedBy(kept));
  const uptime = new Uptime(clock, kept);
  const { clients, lists, newest } = await restoreClients(root, tables, uptime, loading);
  const tombstones = await Tombstones.load(tables.gone, loading);
  const state = await begin(root, tables, directory, kept, uptime, newest);
  finishDirectory(directory);
  const share = {
    age: retention.age,
    count: Math.min(retention.count, limits.count),
    bytes: Math.min(retention.bytes, limits.bytes),
  };
  const window = new Window(share, state.head);
  const tell: Report = (level, message, error) => {
    report(level, level === "error" && isFull(directory) ? `${message}. The disk is full` : message, error);
  };
  const journal = new LmdbJournal(root, tables, window, retention, state, uptime, tombstones, lists, tell, keyRoom);
  try {
    await upgradeKeys(root, tables, journal, clock.now(), loading);
  } catch (error) {
    // It would go on trying to write.
    await journal.close();
    throw error;
  }
  return new LocalEngine("lmdb", window, { ...state, clock, clients }, journal);
}

/** What the engine's clock has reached by now: time that no relay ran has passed, too. */
function reachedBy(kept: LogState | undefined): number {
  const now = Date.now();
  // Earlier versions kept no time.
  const { at = now, wall = now, head } = kept ?? {};
  const reached = at + Math.max(0, now - wall);
  // Quick restarts push ids ahead of the clock. When they are far ahead, the clock follows: a `ttl` counts from the id.
  return head && head.ms > reached + 2 * ID_GAP ? head.ms : reached;
}

/**
 * Continues the log where it ended, or begins one. This first write also shows that the directory can be written.
 * @param kept what the log was when it ended; undefined: there is none
 * @param newest the last id that clients know: events that are not kept move cursors too
 */
async function begin(
  root: RootDatabase<Buffer, Buffer>,
  tables: Tables,
  directory: string,
  kept: LogState | undefined,
  uptime: Uptime,
  newest: EventId,
): Promise<LogState> {
  const now = { ms: uptime.clock.now(), seq: 0 };
  const last = kept && laterOf(kept.head, newest);
  const head = last && laterOf(now, kept.clean ? last : { ms: last.ms + ID_GAP, seq: 0 });
  const log = kept && head ? { ...kept, head } : { origin: now, head: now, floor: now, count: 0 };
  const state = { ...log, ...uptime.state() };
  const changes = new Changes();
  changes.put(tables.meta, META, encode(state));
  try {
    await changes.commit(root);
  } catch (cause) {
    throw new RelayError("unavailable", `the data directory ${directory} can not be written`, { cause });
  }
  return state;
}
