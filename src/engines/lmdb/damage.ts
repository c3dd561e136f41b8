import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";

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
const NO_PAGE = 0xffffffffffffffffn;

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
  return existsSync(file) ? inspect(file, () => undefined) : undefined;
}

/** As `findFalseStart`, and whether its pages are all there and hold together. Nobody may write to it meanwhile. */
export function findDamage(file: string): string | undefined {
  return inspect(file, (descriptor, { pageSize, bytes }) => {
    // Not the last page that LMDB has ever given out: those that were not needed after all are not written.
    const pages = Math.floor(fstatSync(descriptor).size / pageSize);
    const walk = new Walk(descriptor, pageSize, pages - 1);
    for (const at of [DESCRIPTION.free, DESCRIPTION.main]) {
      const page = walk.tree(bytes.subarray(at, at + TREE.end));
      if (page !== undefined) return `page ${page} is not what it should be`;
    }
    return undefined;
  });
}

function inspect(
  file: string,
  further: (descriptor: number, description: Description) => string | undefined,
): string | undefined {
  const descriptor = openSync(file, "r+");
  try {
    // LMDB makes it, and then writes it.
    if (fstatSync(descriptor).size === 0) return undefined;
    const first = describe(descriptor, 0);
    const second = first && describe(descriptor, first.pageSize);
    if (!first || !second) return "it does not begin as it should";
    return further(descriptor, first.transaction > second.transaction ? first : second);
  } finally {
    closeSync(descriptor);
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

/** Goes through trees, page by page. Each method returns the number of the first page that is wrong, or undefined. */
class Walk {
  constructor(
    private readonly descriptor: number,
    private readonly pageSize: number,
    private readonly lastPage: number,
  ) {}

  tree(bytes: Buffer): number | undefined {
    const root = bytes.readBigUInt64LE(TREE.root);
    if (root === NO_PAGE) return undefined;
    const depth = bytes.readUInt16LE(TREE.depth);
    return depth > MAX_DEPTH ? Number(root) : this.page(Number(root), depth);
  }

  private page(number: number, depth: number): number | undefined {
    const page = this.read(number, depth > 1 ? BRANCH : LEAF, this.pageSize);
    if (!page || depth < 1) return number;
    const [lower, upper] = [page.readUInt16LE(LOWER_AT), page.readUInt16LE(UPPER_AT)];
    if (lower > upper || upper > this.pageSize - HEADER || lower % 2 !== 0) return number;
    for (let at = HEADER; at < HEADER + lower; at += 2) {
      const node = page.readUInt16LE(at) + HEADER;
      if (node < upper + HEADER || node + NODE.end > this.pageSize) return number;
      const wrong = depth > 1 ? this.page(childOf(page, node), depth - 1) : this.leaf(page, node);
      if (wrong !== undefined) return wrong;
    }
    return undefined;
  }

  private leaf(page: Buffer, node: number): number | undefined {
    const flags = page.readUInt16LE(node + NODE.flags);
    const data = node + NODE.end + page.readUInt16LE(node + NODE.keySize);
    const size = flags & BIG ? 8 : page.readUInt32LE(node);
    if (data + size > this.pageSize) return Number(page.readBigUInt64LE(0));
    if (flags & BIG) return this.overflow(Number(page.readBigUInt64LE(data)));
    return flags & SUBTREE && size >= TREE.end ? this.tree(page.subarray(data, data + TREE.end)) : undefined;
  }

  /** A value that has pages of its own. */
  private overflow(number: number): number | undefined {
    const page = this.read(number, OVERFLOW, HEADER);
    return page && number + page.readUInt32LE(LOWER_AT) - 1 <= this.lastPage ? undefined : number;
  }

  private read(number: number, kind: number, length: number): Buffer | undefined {
    if (number > this.lastPage) return undefined;
    const page = Buffer.allocUnsafe(length);
    if (readSync(this.descriptor, page, 0, length, number * this.pageSize) < length) return undefined;
    return page.readBigUInt64LE(0) === BigInt(number) && (page.readUInt16LE(FLAGS_AT) & KIND) === kind
      ? page
      : undefined;
  }
}

/** The page that a branch's node leads to. */
function childOf(page: Buffer, node: number): number {
  return page.readUInt32LE(node) + page.readUInt16LE(node + NODE.flags) * 2 ** 32;
}
