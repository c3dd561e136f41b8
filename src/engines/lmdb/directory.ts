import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { open, type RootDatabase } from "lmdb";
import { RelayError } from "../../core/errors.js";
import { MAX_TABLES } from "./tables.js";

/** Of the data directory. Each that was ever released is told apart; see docs/data-directory.md. */
const VERSION = 1;

const VERSION_FILE = "VERSION";

/** Bytes of address space: LMDB's file may grow up to it. It takes no memory and no disk. */
const MAP_SIZE = 2 ** 40;

// LMDB's file begins with two pages that describe it. Where in such a page things are, in bytes: what it is, the version
// of its format, the size of a page, the last page that is in use, and the transaction that wrote it.
const MAGIC = { at: 24, value: 0xbeefc0de };
const FORMAT = { at: 28, value: 2 };
const PAGE_SIZE_AT = 48;
const LAST_PAGE_AT = 144;
const TRANSACTION_AT = 152;
const DESCRIPTION_BYTES = 160;

/**
 * Opens a data directory, and makes it when there is none.
 * @throws {RelayError} unavailable: it can not be used, and why
 */
export function openDirectory(path: string): RootDatabase<Buffer, Buffer> {
  return explained(path, () => {
    makeDirectory(resolve(path));
    checkVersion(path);
    checkData(path);
    const root = open<Buffer, Buffer>(path, {
      encoding: "binary",
      keyEncoding: "binary",
      maxDbs: MAX_TABLES,
      mapSize: MAP_SIZE,
      // A commit is on disk before it is answered, and fails as a whole.
      overlappingSync: false,
      eventTurnBatching: false,
    });
    checkAlone(root, path);
    return root;
  });
}

/** Does something with the directory, so that its errors say what is wrong with it. */
export function explained<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (error instanceof RelayError) throw error;
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

function checkVersion(path: string): void {
  const file = join(path, VERSION_FILE);
  const names = readdirSync(path);
  if (!names.includes(VERSION_FILE)) {
    // A start that was cut short may have left the file that becomes this one.
    const others = names.filter((name) => name !== `${VERSION_FILE}.new`);
    if (others.length > 0)
      throw unusable(path, `it has other files, such as ${others[0]}, and no file ${VERSION_FILE}`);
    writeFileSync(`${file}.new`, `topic-relay ${VERSION}\n`);
    renameSync(`${file}.new`, file);
    return;
  }
  const text = readFileSync(file, "utf8").trim();
  const version = /^topic-relay (\d{1,9})$/.exec(text)?.[1];
  if (version === undefined) throw unusable(path, `its file ${VERSION_FILE} does not say which version it is`);
  if (Number(version) > VERSION) {
    throw unusable(path, `it is of version ${version}, from a newer topic-relay: this one knows version ${VERSION}`);
  }
  if (Number(version) !== VERSION)
    throw unusable(path, `it is of version ${version}, which this topic-relay does not know`);
}

/** LMDB trusts its file: one that is not whole would end the process where it is first missed. */
function checkData(path: string): void {
  const file = join(path, "data.mdb");
  let descriptor: number;
  try {
    descriptor = openSync(file, "r+");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  try {
    const { size } = fstatSync(descriptor);
    if (size === 0) return;
    const first = describe(descriptor, 0);
    const second = first && describe(descriptor, first.pageSize);
    if (!first || !second) throw unusable(path, "data.mdb is damaged: it does not begin as it should");
    const { lastPage, pageSize } = first.transaction > second.transaction ? first : second;
    if (size < (lastPage + 1) * pageSize) {
      throw unusable(path, `data.mdb is damaged: it has ${size} bytes of ${(lastPage + 1) * pageSize}`);
    }
  } finally {
    closeSync(descriptor);
  }
}

interface Description {
  readonly pageSize: number;
  readonly lastPage: number;
  readonly transaction: number;
}

function describe(descriptor: number, at: number): Description | undefined {
  const bytes = Buffer.alloc(DESCRIPTION_BYTES);
  if (readSync(descriptor, bytes, 0, bytes.length, at) < bytes.length) return undefined;
  if (bytes.readUInt32LE(MAGIC.at) !== MAGIC.value || bytes.readUInt32LE(FORMAT.at) !== FORMAT.value) return undefined;
  const pageSize = bytes.readUInt32LE(PAGE_SIZE_AT);
  // A power of two that LMDB allows.
  if (pageSize < 256 || pageSize > 65_536 || (pageSize & (pageSize - 1)) !== 0) return undefined;
  return {
    pageSize,
    lastPage: Number(bytes.readBigUInt64LE(LAST_PAGE_AT)),
    transaction: Number(bytes.readBigUInt64LE(TRANSACTION_AT)),
  };
}

/**
 * The log is ordered in one process. LMDB knows who reads: each process has a row in its table of readers, which ends with
 * the process, however that ends.
 */
function checkAlone(root: RootDatabase<Buffer, Buffer>, path: string): void {
  // A first read takes a row in that table; whoever looks at it later finds this process.
  root.get(Buffer.of(1));
  (root as unknown as { readerCheck(): number }).readerCheck();
  const list = (root as unknown as { readerList(): string }).readerList();
  const processes = [...list.matchAll(/^\s*(\d+)\s/gm)].map(([, pid]) => Number(pid));
  const other = processes.find((pid) => pid !== process.pid);
  if (other === undefined) return;
  void root.close();
  throw unusable(path, `another process uses it: ${other}. Each relay needs a directory of its own`);
}
