import type { ClientId } from "../../core/client.js";
import type { EventId } from "../../core/id.js";

// Keys are compared byte by byte, so numbers are big-endian.

/** Bytes of an id: milliseconds and sequence, 6 each. */
export const ID_BYTES = 12;

/** Bytes of a client's UUID. */
export const CLIENT_BYTES = 16;

/** The largest number that 6 bytes hold. */
const MAX_PART = 2 ** 48 - 1;

/** Bytes of a time, in Unix milliseconds. */
export const TIME_BYTES = 6;

export function writeTime(target: Buffer, time: number, at: number): number {
  return target.writeUIntBE(Math.min(time, MAX_PART), at, TIME_BYTES);
}

export function readTime(source: Buffer, at: number): number {
  return readPart(source, at);
}

export function writeId(target: Buffer, { ms, seq }: EventId, at: number): number {
  target.writeUIntBE(Math.min(ms, MAX_PART), at, 6);
  target.writeUIntBE(Math.min(seq, MAX_PART), at + 6, 6);
  return at + ID_BYTES;
}

export function readId(source: Buffer, at = 0): EventId {
  return { ms: readPart(source, at), seq: readPart(source, at + 6) };
}

/** As `readUIntBE` of 6 bytes, in less time. */
function readPart(source: Buffer, at: number): number {
  return source.readUInt16BE(at) * 2 ** 32 + source.readUInt32BE(at + 2);
}

export function idKey(id: EventId): Buffer {
  const key = Buffer.allocUnsafe(ID_BYTES);
  writeId(key, id, 0);
  return key;
}

export function clientKey(id: ClientId): Buffer {
  return Buffer.from(id, "hex");
}

export function clientOf(key: Buffer): ClientId {
  return key.toString("hex");
}

export function listKey(number: number): Buffer {
  const key = Buffer.allocUnsafe(6);
  key.writeUIntBE(number, 0, 6);
  return key;
}

export function listNumber(key: Buffer): number {
  return key.readUIntBE(0, 6);
}

/** Just above every key that starts with `prefix` and goes on with an id, a topic or a client. */
export function endOf(prefix: Buffer): Buffer {
  return Buffer.concat([prefix, Buffer.alloc(ID_BYTES + 1, 0xff)]);
}

/** Whom an event is for, as the front of a posting's key: everyone, or one user. */
export function addressee(user: string | undefined): Buffer {
  if (user === undefined) return Buffer.of(0);
  const name = Buffer.from(user);
  // With its length, so that no user's keys are among another's.
  return Buffer.concat([Buffer.of(1, name.length >> 8, name.length & 0xff), name]);
}
