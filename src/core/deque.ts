/**
 * A queue: in at the end, out at the front. A `Map` or `Set` used as one grows slow, as finding its first entry steps
 * over all that were deleted before it.
 */
export class Deque<T> {
  private items: (T | undefined)[] = [];
  private start = 0;

  get length(): number {
    return this.items.length - this.start;
  }

  at(index: number): T | undefined {
    return this.items[this.start + index];
  }

  push(item: T): void {
    this.items.push(item);
  }

  shift(): T | undefined {
    const item = this.items[this.start];
    if (this.length === 0) return undefined;
    this.items[this.start++] = undefined;
    // Give the memory back once half of the array is behind us: constant cost per item, over time.
    if (this.start * 2 > this.items.length) {
      this.items = this.items.slice(this.start);
      this.start = 0;
    }
    return item;
  }

  /** Keeps only what passes. */
  retain(passes: (item: T) => boolean): void {
    this.items = this.items.slice(this.start).filter((item) => item !== undefined && passes(item));
    this.start = 0;
  }

  /** The index of the first item for which `isAfter` holds, when it holds for all after it too; else `length`. */
  search(isAfter: (item: T) => boolean): number {
    let low = this.start;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (isAfter(this.items[middle] as T)) high = middle;
      else low = middle + 1;
    }
    return low - this.start;
  }
}
