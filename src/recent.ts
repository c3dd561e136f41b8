/** A map that keeps the entries that were used last, up to a number of them. */
export class Recent<V> {
  private readonly entries = new Map<string, V>();

  constructor(private readonly most: number) {}

  get(name: string): V | undefined {
    return this.entries.get(name);
  }

  /** Sets an entry, or counts it as used. */
  use(name: string, value: V): V {
    // The one that was used last is the last in order.
    this.entries.delete(name);
    this.entries.set(name, value);
    if (this.entries.size > this.most) this.deleteOldest();
    return value;
  }

  private deleteOldest(): void {
    for (const name of this.entries.keys()) return void this.entries.delete(name);
  }
}
