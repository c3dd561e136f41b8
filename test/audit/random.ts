/** Seeded choices: the same seed and name give the same sequence. */
export class Random {
  private state: number;

  constructor(private readonly seed: string) {
    this.state = 2166136261;
    for (const character of seed) this.state = Math.imul(this.state ^ (character.codePointAt(0) ?? 0), 16777619);
  }

  /** A source of its own for one actor, so that what others choose does not change its choices. */
  fork(name: string | number): Random {
    return new Random(`${this.seed}/${name}`);
  }

  /** From 0 to below 1 (mulberry32). */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  }

  /** A whole number, both ends included. */
  int(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(0, list.length - 1)] as T;
  }

  /** One of the names, each as often as its weight says. */
  weighted<T extends string>(weights: Readonly<Record<T, number>>): T {
    const entries = Object.entries<number>(weights) as [T, number][];
    let left = this.next() * entries.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [name, weight] of entries) if ((left -= weight) < 0) return name;
    return (entries[0] as [T, number])[0];
  }

  some<T>(list: readonly T[], least: number): T[] {
    const taken = list.filter(() => this.chance(0.5));
    while (taken.length < least) {
      const more = this.pick(list);
      if (!taken.includes(more)) taken.push(more);
    }
    return taken;
  }
}
