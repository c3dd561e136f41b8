/** Which of many has the highest count, where counts change one by one. Each change takes the same time. */
export class Ranking<T> {
  /** Those with each count. */
  private readonly levels: Set<T>[] = [];

  /** @param count what it is now, one more than before */
  up(item: T, count: number): void {
    this.levels[count - 1]?.delete(item);
    for (let level = this.levels.length; level <= count; level++) this.levels.push(new Set());
    this.levels[count]?.add(item);
  }

  /** @param count what it is now, one less than before */
  down(item: T, count: number): void {
    this.levels[count + 1]?.delete(item);
    if (count > 0) this.levels[count]?.add(item);
    while (this.levels.at(-1)?.size === 0) this.levels.pop();
  }

  /** One of those with the highest count; undefined when nothing counts. */
  get top(): T | undefined {
    const [first] = this.levels.at(-1) ?? [];
    return first;
  }
}
