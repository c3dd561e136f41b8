import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";
import type { Loading } from "../../core/loading.js";
import { Turns } from "../../core/turns.js";

// LMDB trusts its file: where that is not what it should be, the process ends without a word. So the file is looked
// through before it is opened: each page of the trees, whether it is the page that it should be and holds together.

// A page begins with its number (8 bytes), the transaction that wrote it (8), 2 bytes of no interest, its flags (2), and
// where its free space begins and ends (2 and 2), counted from the end of this header.
const HEADER = 24;
const FLAGS_AT = 18;
const LOWER_AT = 20;
const UPPER_AT = 22;
const [BRANCH, LEAF, OVERFLOW] = [1, 2, 4];
const KIND = 15;

// The first two pages describe the file, by turns: what it is, the version of its format, the size of a page, the roots of
// the free list and of the main tree, and the transaction that wrote the description.
const MAGIC = 0xbeefc0de;
const FORMAT = 2;
const DESCRIPTION = {
  magic: 24,
  format: 28,
  pageSize: 48,
  free: 48,
  main: 96,
  transaction: 152,
  end: 160,
};

// A tree: flags and depth (2 bytes each) after 4 bytes, and the page of its root (8 bytes) at the end.
const TREE = { depth: 6, root: 40, end: 48 };
/** As a JavaScript number 2 ** 64 - 1 is rounded up; no file has so many pages. */
const NO_PAGE = 2 ** 64;

// A node: 4 bytes that are the size of its data or most of a page's number, flags and the size of the key (2 bytes each).
const NODE = { flags: 4, keySize: 6, end: 8 };
const [BIG, SUBTREE] = [1, 2];

/** Deeper than a tree of 2^64 rows. */
const MAX_DEPTH = 64;

/**
 * Whether LMDB's file begins as it should. What does not exist, or is empty, is not damaged.
 * @returns what is wrong, or undefined
 * @throws what the system says when it can not be read and written
 */
export function findFalseStart(file: string): string | undefined {
  if (!existsSync(file)) return undefined;
  const descriptor = openSync(file, "r+");
  try {
    return read(descriptor) === "damaged" ? FALSE_START : undefined;
  } finally {
    closeSync(descriptor);
  }
}

/** As `findFalseStart`, and whether its pages are all there and hold together. Nobody may write to it meanwhile. */
export async function findDamage(file: string, loading: Loading): Promise<string | undefined> {
  const descriptor = openSync(file, "r");
  try {
    const description = read(descriptor);
    if (description === "damaged") return FALSE_START;
    if (!description) return undefined;
    const { pageSize, bytes } = description;
    // Not the last page that LMDB has ever given out: those that were not needed after all are not written.
    const pages = Math.floor(fstatSync(descriptor).size / pageSize);
    const roots = [DESCRIPTION.free, DESCRIPTION.main].map((at) => bytes.subarray(at, at + TREE.end));
    await new Walk(descriptor, pageSize, pages - 1).run(roots, loading);
    return undefined;
  } catch (error) {
    if (error instanceof WrongPage) return error.message;
    throw error;
  } finally {
    closeSync(descriptor);
  }
}

const FALSE_START = "it does not begin as it should";

/** What the file says of itself; undefined while LMDB has made it and not written it yet. */
function read(descriptor: number): Description | "damaged" | undefined {
  if (fstatSync(descriptor).size === 0) return undefined;
  const first = describe(descriptor, 0);
  const second = first && describe(descriptor, first.pageSize);
  if (!first || !second) return "damaged";
  return first.transaction > second.transaction ? first : second;
}

class WrongPage extends Error {
  constructor(page: number) {
    super(`page ${page} is not what it should be`);
  }
}

interface Description {
  readonly pageSize: number;
  readonly transaction: number;
  readonly bytes: Buffer;
}

function describe(descriptor: number, at: number): Description | undefined {
  const bytes = Buffer.alloc(DESCRIPTION.end);
  if (readSync(descriptor, bytes, 0, bytes.length, at) < bytes.length) return undefined;
  if (bytes.readUInt32LE(DESCRIPTION.magic) !== MAGIC || bytes.readUInt32LE(DESCRIPTION.format) !== FORMAT) {
    return undefined;
  }
  const pageSize = bytes.readUInt32LE(DESCRIPTION.pageSize);
  // A power of two that LMDB allows.
  if (pageSize < 256 || pageSize > 65_536 || (pageSize & (pageSize - 1)) !== 0) return undefined;
  return {
    pageSize,
    transaction: Number(bytes.readBigUInt64LE(DESCRIPTION.transaction)),
    bytes,
  };
}

/** Pages that are put in order at a time: a disk reads them several times as fast as in the order of the trees. */
const BATCH = 65_536;

/** Bytes that are read at once at most; and up to this many bytes between two pages are read with them. */
const READ = 512 * 1024;
const GAP = 64 * 1024;

/** A page to be looked at, and how far above its tree's leaves it is (0: a value that has pages of its own), as one number. */
const DEPTHS = 2 * MAX_DEPTH;

/** Goes through trees, page by page. */
class Walk {
  private readonly bytes = Buffer.alloc(READ);
  private left: number[] = [];
  private looked = 0;

  constructor(
    private readonly descriptor: number,
    private readonly pageSize: number,
    private readonly lastPage: number,
  ) {}

  /** @throws {WrongPage} */
  async run(roots: readonly Buffer[], loading: Loading): Promise<void> {
    const turns = new Turns(loading.signal);
    for (const root of roots) this.addTree(root);
    while (this.left.length > 0) {
      const batch = Float64Array.from(this.left.splice(-BATCH)).sort();
      for (let start = 0; start < batch.length;) {
        loading.progress({ step: "checking pages", done: this.looked, of: this.lastPage });
        start = this.lookFrom(batch, start);
        if (turns.over) await turns.rest();
      }
    }
  }

  private add(number: number, depth: number): void {
    if (number > this.lastPage) throw new WrongPage(number);
    this.left.push(number * DEPTHS + depth);
  }

  private addTree(bytes: Buffer): void {
    const number = readNumber(bytes, TREE.root);
    if (number === NO_PAGE) return;
    const depth = bytes.readUInt16LE(TREE.depth);
    if (depth < 1 || depth > MAX_DEPTH) throw new WrongPage(number);
    this.add(number, depth);
  }

  /** Looks at pages that are near each other. @returns which one comes next */
  private lookFrom(batch: Float64Array, start: number): number {
    const { pageSize } = this;
    const first = numberOf(batch, start);
    let end = start + 1;
    for (let last = first; end < batch.length; end++) {
      const number = numberOf(batch, end);
      if ((number - last) * pageSize > GAP || (number + 1 - first) * pageSize > READ) break;
      last = number;
    }
    const length = (numberOf(batch, end - 1) + 1 - first) * pageSize;
    const isThere = readSync(this.descriptor, this.bytes, 0, length, first * pageSize) === length;
    for (let index = start; index < end; index++) {
      const number = numberOf(batch, index);
      // More than there are: some lead back to others.
      if (!isThere || this.looked++ > this.lastPage) throw new WrongPage(number);
      const at = (number - first) * pageSize;
      this.look(this.bytes.subarray(at, at + pageSize), number, (batch[index] as number) % DEPTHS);
    }
    return end;
  }

  private look(page: Buffer, number: number, depth: number): void {
    const kind = depth > 1 ? BRANCH : depth === 1 ? LEAF : OVERFLOW;
    if (readNumber(page, 0) !== number || (page.readUInt16LE(FLAGS_AT) & KIND) !== kind) throw new WrongPage(number);
    const [lower, upper] = [page.readUInt16LE(LOWER_AT), page.readUInt16LE(UPPER_AT)];
    if (kind === OVERFLOW) {
      if (number + page.readUInt32LE(LOWER_AT) - 1 > this.lastPage) throw new WrongPage(number);
      return;
    }
    if (lower > upper || upper > this.pageSize - HEADER || lower % 2 !== 0) throw new WrongPage(number);
    for (let at = HEADER; at < HEADER + lower; at += 2) {
      const node = page.readUInt16LE(at) + HEADER;
      if (node < upper + HEADER || node + NODE.end > this.pageSize) throw new WrongPage(number);
      if (depth > 1) this.add(childOf(page, node), depth - 1);
      else this.lookAtLeaf(page, number, node);
    }
  }

  private lookAtLeaf(page: Buffer, number: number, node: number): void {
    const flags = page.readUInt16LE(node + NODE.flags);
    const data = node + NODE.end + page.readUInt16LE(node + NODE.keySize);
    const size = flags & BIG ? 8 : page.readUInt32LE(node);
    if (data + size > this.pageSize) throw new WrongPage(number);
    if (flags & BIG) this.add(readNumber(page, data), 0);
    else if (flags & SUBTREE && size >= TREE.end) this.addTree(page.subarray(data, data + TREE.end));
  }
}

function numberOf(batch: Float64Array, index: number): number {
  return Math.floor((batch[index] as number) / DEPTHS);
}

/** A page's number, in 8 bytes; `NO_PAGE` when it is none. Numbers beyond every file's end need not be exact. */
function readNumber(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at + 4) * 2 ** 32 + bytes.readUInt32LE(at);
}

/** The page that a branch's node leads to. */
function childOf(page: Buffer, node: number): number {
  return page.readUInt32LE(node) + page.readUInt16LE(node + NODE.flags) * 2 ** 32;
}
