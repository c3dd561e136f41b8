import { Deque } from "../core/deque.js";
import type { Once } from "../core/engine.js";
import { RelayError } from "../core/errors.js";
import type { KnownKey } from "./journal.js";

/** Bytes that idempotency keys may take, with the ids and the replies that they stand for. */
const MAX_BYTES = 64 * 1024 * 1024;

// Estimated, on 64-bit V8: a key's own objects, and an id.
const KEY_BYTES = 512;
const ID_BYTES = 48;

/** The idempotency keys that are known, in memory. */
export class KnownKeys {
  private readonly keys = new Map<string, KnownKey>();
  /** In the order in which they end: all live equally long. */
  private readonly oldest = new Deque<{ readonly key: string; readonly until: number }>();
  private bytes = 0;

  /** @param forgotten told of each key whose time is up */
  constructor(private readonly forgotten: (key: KnownKey) => void) {}

  /** @throws {RelayError} idempotency_key_reused: known with another fingerprint; unavailable: too many keys */
  get(once: Once): KnownKey | undefined {
    const now = Date.now();
    this.forget(now);
    const kept = this.keys.get(once.key);
    const known = kept && kept.until > now ? kept : undefined;
    if (known && known.fingerprint !== once.fingerprint) {
      throw new RelayError("idempotency_key_reused", "this Idempotency-Key was used with another request");
    }
    if (!known && this.bytes >= MAX_BYTES) {
      throw new RelayError("unavailable", "there is no room for more idempotency keys: the oldest end within minutes");
    }
    return known;
  }

  add(known: KnownKey): void {
    // One that ended a moment ago may still be there.
    const before = this.keys.get(known.key);
    if (before) this.bytes -= bytesOf(before);
    this.keys.set(known.key, known);
    this.oldest.push(known);
    this.bytes += bytesOf(known);
  }

  /** @returns the key with its reply; undefined when it is not known any more */
  settle(key: string, reply: string): KnownKey | undefined {
    const known = this.keys.get(key);
    if (!known) return undefined;
    const settled = { ...known, reply };
    this.keys.set(key, settled);
    this.bytes += bytesOf(settled) - bytesOf(known);
    return settled;
  }

  private forget(now: number): void {
    for (let first = this.oldest.at(0); first && first.until <= now; first = this.oldest.at(0)) {
      this.oldest.shift();
      const known = this.keys.get(first.key);
      if (known?.until !== first.until) continue;
      this.keys.delete(first.key);
      this.bytes -= bytesOf(known);
      this.forgotten(known);
    }
  }
}

function bytesOf({ ids, reply }: KnownKey): number {
  return KEY_BYTES + ids.length * ID_BYTES + (reply?.length ?? 0);
}
