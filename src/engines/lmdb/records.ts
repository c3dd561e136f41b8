import type { ClientId, ClientRecord } from "../../core/client.js";
import type { EventId } from "../../core/id.js";
import type { KnownKey } from "../journal.js";
import { ID_BYTES, idPair, readId } from "./bytes.js";

// Values in JSON, as what they hold may grow with versions. An id is `{"ms", "seq"}`.

/** What is known of a client when it is gone. */
export interface Tombstone extends Pick<ClientRecord, "userId" | "confirmed" | "lost"> {
  /** When it went. */
  readonly at: EventId;
}

/** The table of the log's state has one row. */
export interface LogState {
  readonly origin: EventId;
  /** The last id that was given out to something that is kept. */
  readonly head: EventId;
  readonly floor: EventId;
  /** Events above the floor. */
  readonly count: number;
}

export function encode(value: Tombstone | KnownKey | LogState): Buffer {
  return Buffer.from(JSON.stringify(value));
}

/** @throws {SyntaxError} not what `encode` made */
export function decode(bytes: Buffer): unknown {
  return JSON.parse(bytes.toString());
}

/** All of a client but its id, and what changes all the time. */
export function encodeClient({ id: _id, cursor: _cursor, confirmed: _confirmed, ...rest }: ClientRecord): Buffer {
  return Buffer.from(JSON.stringify(rest));
}

export function encodeProgress({ cursor, confirmed }: ClientRecord): Buffer {
  return idPair(cursor, confirmed);
}

/** @throws {SyntaxError | RangeError} not what `encodeClient` and `encodeProgress` made */
export function decodeClient(id: ClientId, client: Buffer, progress: Buffer): ClientRecord {
  const rest = JSON.parse(client.toString()) as Omit<ClientRecord, "id" | "cursor" | "confirmed">;
  return { ...rest, id, cursor: readId(progress), confirmed: readId(progress, ID_BYTES) };
}
