/**
 * Several different values under one key. Most keys have one value, and then no set of their own: with a million keys
 * that halves what they take. Values are anything but sets.
 */
export class MultiMap<K, V extends string | object> {
  private readonly entries = new Map<K, V | Set<V>>();

  add(key: K, value: V): void {
    const known = this.entries.get(key);
    if (known === undefined) this.entries.set(key, value);
    else if (known instanceof Set) known.add(value);
    else if (known !== value) this.entries.set(key, new Set([known, value]));
  }

  delete(key: K, value: V): void {
    const known = this.entries.get(key);
    if (known instanceof Set) {
      known.delete(value);
      if (known.size === 0) this.entries.delete(key);
    } else if (known === value) this.entries.delete(key);
  }

  /** The values under a key, oldest first. */
  get(key: K): Iterable<V> {
    const known = this.entries.get(key);
    return known === undefined ? [] : known instanceof Set ? known : [known];
  }

  count(key: K): number {
    const known = this.entries.get(key);
    return known === undefined ? 0 : known instanceof Set ? known.size : 1;
  }
}
