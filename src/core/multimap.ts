/**
 * Several different values under one key. Most keys have one value, and then no set of their own: with a million keys
 * that halves what they take. Values are anything but sets.
 */
export class MultiMap<K, V extends string | object> {
  private readonly entries = new Map<K, V | Set<V>>();

  /** @returns whether the key is new */
  add(key: K, value: V): boolean {
    const known = this.entries.get(key);
    if (known === undefined) this.entries.set(key, value);
    else if (known instanceof Set) known.add(value);
    else if (known !== value) this.entries.set(key, new Set([known, value]));
    return known === undefined;
  }

  /** @returns whether it was there */
  delete(key: K, value: V): boolean {
    const known = this.entries.get(key);
    if (!(known instanceof Set)) return known === value && this.entries.delete(key);
    const was = known.delete(value);
    if (known.size === 0) this.entries.delete(key);
    return was;
  }

  /** The values under a key, oldest first. */
  get(key: K): Iterable<V> {
    const known = this.entries.get(key);
    return known === undefined ? [] : known instanceof Set ? known : [known];
  }

  has(key: K, value: V): boolean {
    const known = this.entries.get(key);
    return known instanceof Set ? known.has(value) : known !== undefined && known === value;
  }

  count(key: K): number {
    const known = this.entries.get(key);
    return known === undefined ? 0 : known instanceof Set ? known.size : 1;
  }
}
