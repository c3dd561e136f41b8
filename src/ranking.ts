/** Which of many has the highest count, where counts change one by one. Each change takes the same time. */
export class Ranking<T> {
  /** Those with each count. Levels stay when they are empty: connections come and go. */
  private readonly levels: Set<T>[] = [new Set()];
  private highest = 0;

  /** @param count what it is now, one more than before */
  up(item: T, count: number): void {
    this.levels[count - 1]?.delete(item);
    if (count === this.levels.length) this.levels.push(new Set());
    this.levels[count]?.add(item);
    if (count > this.highest) this.highest = count;
  }

  /** @param count what it is now, one less than before */
  down(item: T, count: number): void {
    this.levels[count + 1]?.delete(item);
    if (count > 0) this.levels[count]?.add(item);
    // It went down by one, so at least one is there.
    if (this.levels[this.highest]?.size === 0) this.highest--;
  }

  /** One of those with the highest count; undefined when nothing counts. */
  get top(): T | undefined {
    const [first] = this.levels[this.highest] ?? [];
    return first;
  }
}
