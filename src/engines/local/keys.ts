import { hash } from "node:crypto";
import { type Counts, type Once, onceName } from "../../core/engine.js";
import { RelayError } from "../../core/errors.js";
import type { EventId } from "../../core/id.js";
import { packKey, unpackKey } from "./packed-key.js";

/**
 * Bytes that the idempotency keys of one owner may take: 2,000 keys a second of one event each, for the 10 minutes in which
 * a key is known. Each key counts with `KEY_BYTES` and its packed value, about 34 bytes for one event.
 */
export const KEY_ROOM = 192 * 1024 * 1024;

/** What a key takes besides its packed value, roughly: digests, and what LMDB (or V8) needs for each entry. */
const KEY_BYTES = 120;

/** What stands under a key. */
export interface KnownKey {
  readonly ids: readonly EventId[];
  /** Undefined while the first request is not answered yet, and when a crash came before that. */
  readonly reply: readonly Counts[] | undefined;
}

/** The idempotency keys that an engine knows. Each owner has a room of its own. */
export interface KeyStore {
  /** @throws {RelayError} idempotency_key_reused: known with another fingerprint */
  find(once: Once): KnownKey | undefined;
  /** To be called before a new key is put. @throws {RelayError} too_many: the owner's room is full */
  checkRoom(owner: string): void;
  /** Keeps a key that is new. */
  add(once: Once, ids: readonly EventId[], reply?: readonly Counts[]): void;
  /** Keeps the reply to the request of a key that is there. */
  settle(once: Once, ids: readonly EventId[], reply: readonly Counts[]): void;
  /** Resolves when all that was put of a key is as safe as the engine promises. @throws {RelayError} unavailable */
  saved(once: Once): Promise<void>;
  /** Drops keys whose time is up, as many as take a few milliseconds. @returns whether there are more */
  trim(now: number): boolean;
}

/** Characters of a digest, in hex: 16 bytes. */
const DIGEST = 32;

export function digestOf(text: string): string {
  return hash("sha256", text).slice(0, DIGEST);
}

interface Digests {
  /** Of owner and key together. */
  readonly key: string;
  readonly fingerprint: string;
}

/** Each is asked for several times while a request is under way. */
const digests = new WeakMap<Once, Digests>();

function digestsOf(once: Once): Digests {
  const known = digests.get(once);
  if (known) return known;
  const made = { key: digestOf(onceName(once)), fingerprint: digestOf(once.fingerprint) };
  digests.set(once, made);
  return made;
}

/** Stands for owner and key together. */
export function keyDigest(once: Once): string {
  return digestsOf(once).key;
}

/** What is kept under a key, in bytes. */
export function packedKey(once: Once, ids: readonly EventId[], reply?: readonly Counts[]): Buffer {
  return packKey(digestsOf(once).fingerprint, ids, reply);
}

/** @throws {RelayError} idempotency_key_reused */
export function openPacked(bytes: Buffer, once: Once): KnownKey {
  const { fingerprint, ids, reply } = unpackKey(bytes);
  if (fingerprint === digestsOf(once).fingerprint) return { ids, reply };
  throw new RelayError("idempotency_key_reused", "this Idempotency-Key was used with another request");
}

/** What a key counts in its owner's room. @param length of the packed value */
export function bytesOf(length: number): number {
  return KEY_BYTES + length;
}

/**
 * Refuses a new key when the owner's room is full. What has ended makes room at once, also while it is not dropped yet.
 * @param excess bytes that have to be freed for it
 * @param keys the owner's, those that end first at the front
 * @param now of the engine's clock
 * @throws {RelayError} too_many: and when there will be room
 */
export function refuseFull(
  excess: number,
  keys: Iterable<{ readonly until: number; readonly length: number }>,
  now: number,
): void {
  let left = excess;
  for (const { until, length } of keys) {
    left -= bytesOf(length);
    if (left > 0) continue;
    if (until <= now) return;
    throw noRoom(Math.ceil((until - now) / 1000));
  }
  // The rest is not on disk yet.
  throw noRoom();
}

function noRoom(retryAfter?: number): RelayError {
  const message = "there is no room for more idempotency keys until the oldest end: nothing was published";
  return new RelayError("too_many", message, {
    limit: "idempotency_keys",
    ...(retryAfter !== undefined && { retryAfter }),
  });
}
