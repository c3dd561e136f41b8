import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";
import { counted, type Loading } from "../../core/loading.js";
import { inTurns, Turns } from "../../core/turns.js";

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
    const walk = new Walk(descriptor, pageSize, pages - 1).trees(roots);
    await inTurns(counted(walk, "checking pages", pages, loading), () => undefined, new Turns(loading.signal));
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

/** Goes through trees, page by page. */
class Walk {
  private readonly page: Buffer;
  private readonly overflowHeader = Buffer.alloc(HEADER);
  /** Pages that are still to be looked at, and how far above its tree's leaves each one is. */
  private readonly left: { readonly number: number; readonly depth: number }[] = [];

  constructor(
    private readonly descriptor: number,
    private readonly pageSize: number,
    private readonly lastPage: number,
  ) {
    this.page = Buffer.alloc(pageSize);
  }

  /** Yields the number of each page that was found to be right. @throws {WrongPage} */
  *trees(roots: readonly Buffer[]): Generator<number> {
    for (const root of roots) this.addTree(root);
    let count = 0;
    for (let next = this.left.pop(); next; next = this.left.pop()) {
      // More than there are: some lead back to others.
      if (count++ > this.lastPage) throw new WrongPage(next.number);
      this.look(next.number, next.depth);
      yield next.number;
    }
  }

  private addTree(bytes: Buffer): void {
    const number = readNumber(bytes, TREE.root);
    if (number === NO_PAGE) return;
    const depth = bytes.readUInt16LE(TREE.depth);
    if (depth < 1 || depth > MAX_DEPTH) throw new WrongPage(number);
    this.left.push({ number, depth });
  }

  private look(number: number, depth: number): void {
    const { page, pageSize } = this;
    this.read(number, depth > 1 ? BRANCH : LEAF, page);
    const [lower, upper] = [page.readUInt16LE(LOWER_AT), page.readUInt16LE(UPPER_AT)];
    if (lower > upper || upper > pageSize - HEADER || lower % 2 !== 0) throw new WrongPage(number);
    // From the end on, as what is added last is looked at first: so the file is read forwards.
    for (let at = HEADER + lower - 2; at >= HEADER; at -= 2) {
      const node = page.readUInt16LE(at) + HEADER;
      if (node < upper + HEADER || node + NODE.end > pageSize) throw new WrongPage(number);
      if (depth > 1) this.left.push({ number: childOf(page, node), depth: depth - 1 });
      else this.lookAtLeaf(number, node);
    }
  }

  private lookAtLeaf(number: number, node: number): void {
    const { page } = this;
    const flags = page.readUInt16LE(node + NODE.flags);
    const data = node + NODE.end + page.readUInt16LE(node + NODE.keySize);
    const size = flags & BIG ? 8 : page.readUInt32LE(node);
    if (data + size > this.pageSize) throw new WrongPage(number);
    if (flags & BIG) this.lookAtOverflow(readNumber(page, data));
    else if (flags & SUBTREE && size >= TREE.end) this.addTree(page.subarray(data, data + TREE.end));
  }

  /** A value that has pages of its own. */
  private lookAtOverflow(number: number): void {
    this.read(number, OVERFLOW, this.overflowHeader);
    if (number + this.overflowHeader.readUInt32LE(LOWER_AT) - 1 > this.lastPage) throw new WrongPage(number);
  }

  private read(number: number, kind: number, into: Buffer): void {
    const isThere =
      number <= this.lastPage &&
      readSync(this.descriptor, into, 0, into.length, number * this.pageSize) === into.length;
    const isRight = isThere && readNumber(into, 0) === number && (into.readUInt16LE(FLAGS_AT) & KIND) === kind;
    if (!isRight) throw new WrongPage(number);
  }
}

/** A page's number, in 8 bytes; `NO_PAGE` when it is none. Numbers beyond every file's end need not be exact. */
function readNumber(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at + 4) * 2 ** 32 + bytes.readUInt32LE(at);
}

/** The page that a branch's node leads to. */
function childOf(page: Buffer, node: number): number {
  return page.readUInt32LE(node) + page.readUInt16LE(node + NODE.flags) * 2 ** 32;
}
