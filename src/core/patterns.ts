import { isReserved, isRest, REST, WILDCARD } from "./topics.js";

/** Work that may still be done before the event loop is left to others, in units of about 10 ns. */
export interface Work {
  left: number;
}

/**
 * The first rows of every depth: the patterns that have `*` there, those that have their last `>` there, and those that
 * end just before it.
 */
const [ANY_ROW, REST_ROW, END_ROW, ROWS] = [0, 1, 2, 3];

/** Rows of bits: which patterns can have a segment in one place. */
interface Depth {
  /** The rows of the segments that patterns spell out; each has the bits of `*` too. */
  readonly rows: Map<string, number>;
  bits: Uint32Array;
  /** Whether a pattern has its last `>` here. */
  isOpen: boolean;
}

/**
 * What the segments so far say of a topic: it matches however it goes on (`open`), it depends on the rest (`some`), or it
 * can not match (`none`).
 */
export type Fit = "open" | "some" | "none";

/**
 * Patterns that are matched all at once: each has a bit, and each segment of a topic leaves the bits of those that can
 * have it. So matching takes a step per segment for each 32 patterns, however the patterns are made.
 */
export class PatternSet {
  /** Segments of the longest pattern. */
  readonly length: number;
  private readonly words: number;
  private readonly depths: Depth[];
  private readonly scratch: Uint32Array;

  constructor(patterns: readonly string[]) {
    const all = patterns.map((pattern) => pattern.split("."));
    this.words = Math.ceil(all.length / 32);
    this.length = Math.max(0, ...all.map(({ length }) => length));
    this.scratch = new Uint32Array(this.words);
    this.depths = Array.from({ length: this.length + 1 }, () => {
      return { rows: new Map(), bits: this.scratch, isOpen: false };
    });
    for (const segments of all) {
      for (const [depth, segment] of segments.entries()) {
        const at = this.depthAt(depth);
        if (isRest(segments, depth)) at.isOpen = true;
        else if (segment !== WILDCARD && !at.rows.has(segment)) at.rows.set(segment, ROWS + at.rows.size);
      }
    }
    for (const depth of this.depths) depth.bits = new Uint32Array((ROWS + depth.rows.size) * this.words);
    for (const [index, segments] of all.entries()) this.add(index, segments);
    for (const { rows, bits } of this.depths) {
      for (const row of rows.values()) {
        for (let word = 0; word < this.words; word++) this.set(bits, row, word, bits[word] as number);
      }
    }
  }

  /** All patterns. */
  all(): Uint32Array {
    return new Uint32Array(this.words).fill(-1);
  }

  /** Whether one of the patterns matches the topic; of a pattern: whether one matches every topic that it does. */
  matches(topic: string, work?: Work): boolean {
    if (isReserved(topic)) return false;
    const segments = topic.split(".");
    if (work) work.left -= segments.length * (4 + (this.words >> 1));
    // A last `>` may be many segments, and only `>` stands for those.
    const isOpen = segments.at(-1) === REST;
    if (isOpen) segments.pop();
    const left = this.scratch.fill(-1);
    const fit = this.narrow(left, 0, segments, left);
    if (fit !== "some") return fit === "open";
    return isOpen ? this.hasRest(left, segments.length) : this.hasEnd(left, segments.length);
  }

  /** Leaves in `to` those of `from` that can have these segments from the depth on. */
  narrow(from: Uint32Array, depth: number, segments: readonly string[], to: Uint32Array): Fit {
    let [source, at] = [from, depth];
    for (const segment of segments) {
      if (this.hasRest(source, at)) return "open";
      if (at >= this.length || !this.step(source, at++, segment, to)) return "none";
      source = to;
    }
    return "some";
  }

  /** Whether one of them is as long as that. */
  hasEnd(patterns: Uint32Array, depth: number): boolean {
    return this.meets(patterns, depth, END_ROW);
  }

  /** The segments that are worth trying at the depth; undefined: all of them. */
  segmentsAt(patterns: Uint32Array, depth: number): ReadonlyMap<string, unknown> | undefined {
    const isAny = this.meets(patterns, depth, ANY_ROW) || this.hasRest(patterns, depth);
    return isAny ? undefined : this.depthAt(depth).rows;
  }

  /** Leaves in `to` those of `from` that can have the segment at the depth. @returns whether there are any */
  private step(from: Uint32Array, depth: number, segment: string, to: Uint32Array): boolean {
    const { rows, bits } = this.depthAt(depth);
    const row = (rows.get(segment) ?? ANY_ROW) * this.words;
    let any = 0;
    for (let word = 0; word < this.words; word++) {
      const both = (from[word] as number) & (bits[row + word] as number);
      to[word] = both;
      any |= both;
    }
    return any !== 0;
  }

  /** Whether one of them matches whatever comes from the depth on. */
  private hasRest(patterns: Uint32Array, depth: number): boolean {
    return this.depthAt(depth).isOpen && this.meets(patterns, depth, REST_ROW);
  }

  private meets(patterns: Uint32Array, depth: number, row: number): boolean {
    const { bits } = this.depthAt(depth);
    for (let word = 0; word < this.words; word++) {
      if (((patterns[word] as number) & (bits[row * this.words + word] as number)) !== 0) return true;
    }
    return false;
  }

  private add(index: number, segments: readonly string[]): void {
    const [word, bit] = [index >> 5, 1 << (index & 31)];
    for (const [depth, segment] of segments.entries()) {
      const { rows, bits } = this.depthAt(depth);
      const row = segment === WILDCARD ? ANY_ROW : isRest(segments, depth) ? REST_ROW : (rows.get(segment) as number);
      this.set(bits, row, word, bit);
    }
    const { length } = segments;
    if (segments[length - 1] !== REST) this.set(this.depthAt(length).bits, END_ROW, word, bit);
  }

  private set(bits: Uint32Array, row: number, word: number, value: number): void {
    const at = row * this.words + word;
    bits[at] = (bits[at] as number) | value;
  }

  private depthAt(depth: number): Depth {
    return this.depths[depth] as Depth;
  }
}
