import type { Counts } from "../../core/engine.js";
import type { EventId } from "../../core/id.js";

// What stands under an idempotency key, in few bytes: a digest of the request, the ids of its events, and the reply. Ids of a
// request are mostly consecutive and its replies mostly equal, so both are kept as runs. Numbers are varints: 7 bits in
// a byte, the lowest first, and the highest bit says that more follow.

/** Bytes of the digest. */
const DIGEST = 16;

const COUNTS = ["matched", "sent", "waiting", "confirmed"] as const;

/** @param fingerprint in hex */
export function packKey(fingerprint: string, ids: readonly EventId[], reply: readonly Counts[] | undefined): Buffer {
  const numbers: number[] = [];
  packIds(numbers, ids);
  if (reply) packReply(numbers, reply);
  return Buffer.concat([Buffer.from(fingerprint, "hex"), Buffer.from(numbers)]);
}

/** How many bytes longer a packed key is with its reply. */
export function packedLength(reply: readonly Counts[]): number {
  const numbers: number[] = [];
  packReply(numbers, reply);
  return numbers.length;
}

export interface Unpacked {
  /** In hex. */
  readonly fingerprint: string;
  readonly ids: EventId[];
  /** Undefined: there is none yet. */
  readonly reply: Counts[] | undefined;
}

export function unpackKey(bytes: Buffer): Unpacked {
  const numbers = new Numbers(bytes, DIGEST);
  const ids = unpackIds(numbers);
  const reply = numbers.isAtEnd ? undefined : unpackReply(numbers, ids.length);
  return { fingerprint: bytes.toString("hex", 0, DIGEST), ids, reply };
}

/** How many there are; then for each run how far its milliseconds and its first sequence are on, and its length. */
function packIds(numbers: number[], ids: readonly EventId[]): void {
  put(numbers, ids.length);
  let [ms, seq] = [0, 0];
  for (let index = 0; index < ids.length;) {
    const first = ids[index] as EventId;
    let end = index + 1;
    for (let next = ids[end]; next?.ms === first.ms && next.seq === first.seq + end - index; next = ids[++end]);
    put(numbers, first.ms - ms);
    put(numbers, first.ms === ms ? first.seq - seq : first.seq);
    put(numbers, end - index);
    ms = first.ms;
    seq = first.seq + end - index;
    index = end;
  }
}

function unpackIds(numbers: Numbers): EventId[] {
  const count = numbers.next();
  const ids: EventId[] = [];
  let [ms, seq] = [0, 0];
  while (ids.length < count) {
    const on = numbers.next();
    ms += on;
    seq = numbers.next() + (on === 0 ? seq : 0);
    for (let left = numbers.next(); left > 0; left--) ids.push({ ms, seq: seq++ });
  }
  return ids;
}

/** For each run of equal counts its length, a bit for each count that is known, and these. */
function packReply(numbers: number[], reply: readonly Counts[]): void {
  for (let index = 0; index < reply.length;) {
    const counts = reply[index] as Counts;
    let end = index + 1;
    while (end < reply.length && isSame(counts, reply[end] as Counts)) end++;
    put(numbers, end - index);
    put(
      numbers,
      COUNTS.reduce((bits, name, bit) => bits | (counts[name] === undefined ? 0 : 1 << bit), 0),
    );
    for (const name of COUNTS) if (counts[name] !== undefined) put(numbers, counts[name]);
    index = end;
  }
}

function unpackReply(numbers: Numbers, length: number): Counts[] {
  const reply: Counts[] = [];
  while (reply.length < length) {
    const end = reply.length + numbers.next();
    const bits = numbers.next();
    const counts: { -readonly [Name in keyof Counts]: Counts[Name] } = {};
    for (const [bit, name] of COUNTS.entries()) if (bits & (1 << bit)) counts[name] = numbers.next();
    while (reply.length < end) reply.push(counts);
  }
  return reply;
}

function isSame(a: Counts, b: Counts): boolean {
  return a.matched === b.matched && a.sent === b.sent && a.waiting === b.waiting && a.confirmed === b.confirmed;
}

/** @param value a non-negative safe integer */
function put(numbers: number[], value: number): void {
  let left = value;
  for (; left >= 0x80; left = Math.floor(left / 0x80)) numbers.push((left % 0x80) + 0x80);
  numbers.push(left);
}

class Numbers {
  constructor(
    private readonly bytes: Buffer,
    private at: number,
  ) {}

  get isAtEnd(): boolean {
    return this.at >= this.bytes.length;
  }

  /** @throws {RangeError} there is no more */
  next(): number {
    let value = 0;
    for (let unit = 1; ; unit *= 0x80) {
      const byte = this.bytes.readUInt8(this.at++);
      value += (byte % 0x80) * unit;
      if (byte < 0x80) return value;
    }
  }
}
