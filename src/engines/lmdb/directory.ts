import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  statfsSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { open, type RootDatabase } from "lmdb";
import { isRelayError, RelayError } from "../../core/errors.js";
import type { Loading } from "../../core/loading.js";
import { findDamage, findFalseStart } from "./damage.js";
import { MAX_TABLES } from "./tables.js";

/** Of the data directory: see docs/data-directory.md for what is in it, and for what was in earlier ones. */
const VERSION = 4;

/** The earliest version that is upgraded. */
const FIRST_VERSION = 1;

const VERSION_FILE = "VERSION";
const UNFINISHED = "VERSION.new";
const DATA_FILE = "data.mdb";

/** Bytes of address space: LMDB's file may grow up to it. It takes no memory and no disk. */
const MAP_SIZE = 2 ** 40;

/** Directories that this process has open. */
const opened = new Set<string>();

/**
 * Opens a data directory, and makes it when there is none.
 * @throws {RelayError} unavailable: it can not be used, and why; what the system says
 */
export async function openDirectory(path: string, loading: Loading): Promise<RootDatabase<Buffer, Buffer>> {
  makeDirectory(resolve(path));
  checkVersion(path);
  const file = join(path, DATA_FILE);
  refuseDamaged(path, findFalseStart(file));
  const realPath = realpathSync(path);
  if (opened.has(realPath)) {
    throw unusable(path, "this process uses it already. Each relay needs a directory of its own");
  }
  opened.add(realPath);
  let root: RootDatabase<Buffer, Buffer> | undefined;
  try {
    root = open<Buffer, Buffer>(path, {
      encoding: "binary",
      keyEncoding: "binary",
      maxDbs: MAX_TABLES,
      mapSize: MAP_SIZE,
      // A commit is on disk before it is answered, and fails as a whole.
      overlappingSync: false,
      eventTurnBatching: false,
    });
    checkAlone(root, path);
    // Only now: a process that writes there would make it look damaged.
    refuseDamaged(path, await findDamage(file, loading));
  } catch (error) {
    await root?.close();
    opened.delete(realPath);
    throw error;
  }
  const close = root.close.bind(root);
  root.close = async () => {
    await close();
    opened.delete(realPath);
  };
  return root;
}

/** Does something with the directory, so that its errors say what is wrong with it. */
export async function explained<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    // Given up, as the relay ends.
    if (isRelayError(error) || (error as Error).name === "AbortError") throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const known = typeof code === "string" ? REASONS[code] : undefined;
    throw unusable(path, known ?? message, error);
  }
}

/** With those above it. Not by the option for that, which does not come back where nothing can be made, as in /proc. */
function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return;
    if (code !== "ENOENT" || existsSync(dirname(path))) throw error;
    makeDirectory(dirname(path));
    mkdirSync(path, { mode: 0o700 });
  }
}

const REASONS: Record<string, string> = {
  EACCES: "it can not be written: permission denied",
  EPERM: "it can not be written: not permitted",
  EROFS: "it can not be written: the file system is read-only",
  ENOSPC: "it can not be written: the disk is full",
  ENOTDIR: "it is not a directory",
  ENOENT: "it can not be made there",
};

/** Blocks of the file system that are too few to go on with. */
const FEW_BLOCKS = 64;

/** Whether the disk under the directory is full, as far as can be seen. */
export function isFull(path: string): boolean {
  try {
    return statfsSync(path).bavail < FEW_BLOCKS;
  } catch {
    return false;
  }
}

function unusable(path: string, why: string, cause?: unknown): RelayError {
  return new RelayError("unavailable", `the data directory ${path} can not be used: ${why}`, { cause });
}

/**
 * The file that says the version comes last: while there is none, nothing was ever acknowledged. One by another name
 * tells a directory that was begun from one of something else.
 */
function checkVersion(path: string): void {
  const names = readdirSync(path);
  if (names.includes(VERSION_FILE)) {
    versionOf(path);
    checkDataFile(path, names);
  } else {
    const own = names.includes(UNFINISHED) ? [UNFINISHED, DATA_FILE, "lock.mdb"] : [];
    const other = names.find((name) => !own.includes(name));
    if (other !== undefined) throw unusable(path, `it has other files, such as ${other}, and no file ${VERSION_FILE}`);
    writeFileSync(join(path, UNFINISHED), "");
  }
}

/** @throws {RelayError} it is none that can be used */
function versionOf(path: string): number {
  const text = readFileSync(join(path, VERSION_FILE), "utf8").trim();
  const match = /^topic-relay (\d{1,9})$/.exec(text)?.[1];
  if (match === undefined) throw unusable(path, `its file ${VERSION_FILE} does not say which version it is`);
  const version = Number(match);
  if (version > VERSION) {
    throw unusable(path, `it is of version ${version}, from a newer topic-relay: this one knows version ${VERSION}`);
  }
  if (version < FIRST_VERSION) {
    throw unusable(path, `it is of version ${version}, which this topic-relay does not know`);
  }
  return version;
}

function checkDataFile(path: string, names: readonly string[]): void {
  if (!names.includes(DATA_FILE)) throw unusable(path, `its ${DATA_FILE} is missing`);
  if (statSync(join(path, DATA_FILE)).size === 0) throw unusable(path, `its ${DATA_FILE} is damaged: it is empty`);
}

/**
 * Writes the current version to the directory. Call it when a new directory has its first data, and before rows that only
 * this version can read are written to an older one.
 */
export function finishDirectory(path: string): void {
  if (existsSync(join(path, VERSION_FILE)) && versionOf(path) === VERSION) return;
  // On disk before any row that only this version can read: the disk may keep writes in another order.
  writeFileSync(join(path, UNFINISHED), `topic-relay ${VERSION}\n`, { flush: true });
  renameSync(join(path, UNFINISHED), join(path, VERSION_FILE));
  flushDirectory(path);
}

function flushDirectory(path: string): void {
  try {
    const descriptor = openSync(path, "r");
    try {
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch {
    // Not every system can do that with a directory.
  }
}

function refuseDamaged(path: string, damage: string | undefined): void {
  if (damage !== undefined) throw unusable(path, `data.mdb is damaged: ${damage}`);
}

/**
 * The log is ordered in one process. LMDB knows who reads: each process has a row in its table of readers, which ends with
 * the process, however that ends.
 */
function checkAlone(root: RootDatabase<Buffer, Buffer>, path: string): void {
  // This takes a row in that table, so that whoever looks at it later finds this process; and reads nothing else.
  root.getStats();
  (root as unknown as { readerCheck(): number }).readerCheck();
  const list = (root as unknown as { readerList(): string }).readerList();
  const processes = [...list.matchAll(/^\s*(\d+)\s/gm)].map(([, pid]) => Number(pid));
  const other = processes.find((pid) => pid !== process.pid);
  if (other === undefined) return;
  throw unusable(path, `another process uses it: ${other}. Each relay needs a directory of its own`);
}
