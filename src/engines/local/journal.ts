import type { ClientId, ClientRecord } from "../../core/client.js";
import type { Clock } from "../../core/clock.js";
import type { Audience, EngineReading, KeptClient, KeptReceipt, Query } from "../../core/engine.js";
import type { Event, EventDraft } from "../../core/event.js";
import type { EventId } from "../../core/id.js";
import type { ClientTable } from "./client-table.js";
import type { KeyStore } from "./keys.js";

/** What outlived the process. */
export interface Restored {
  /** At no earlier time than the log had reached. */
  readonly clock: Clock;
  readonly origin: EventId;
  /** Above every id that was ever given out. */
  readonly head: EventId;
  readonly clients: ClientTable;
}

export interface JournalReceipt extends Omit<KeptReceipt, "matched"> {
  readonly matched: readonly ClientId[] | undefined;
}

/**
 * What a LocalEngine has behind it to survive its process. It is told of everything that was ordered, in order, and
 * makes it safe in groups: whoever needs to know waits for `saved`.
 */
export interface Journal {
  /** What is put there gets safe with the rest. */
  readonly keys: KeyStore;
  /** The log has nothing at or before this id. */
  readonly floor: EventId;
  /** @param trimmed to be called when the floor has moved */
  begin(trimmed: () => void): void;
  /** To be called when clients can connect. @returns by how much later than was restored the deadlines of clients are */
  open(): number;
  /** @throws {RelayError} unavailable: nothing can be kept now */
  check(): void;
  /** Everything until the release goes to the disk in one commit. @returns the release */
  hold(): () => void;
  /** An event that is to be kept, whom it matched on each relay, and the event that it replaces. */
  addEvent(event: Event, audiences: readonly Audience[], replaces: Event | undefined): void;
  /** An event that is kept was replaced by one that is not. */
  replace(event: Event, by: EventId): void;
  /** The event below the window that `draft` replaces. */
  replacedBy(draft: EventDraft): Event | undefined;
  putClient(record: ClientRecord): void;
  /** Only cursor and confirmations of the client have moved. */
  moveClient(record: ClientRecord): void;
  removeClient(record: ClientRecord, at: EventId): void;
  /**
   * Resolves when everything that it was told so far is safe.
   * @throws {RelayError} unavailable: it is not yet, and it is not known when it will be
   */
  saved(): Promise<void>;
  /** As `saved`, of all that it was told of a client. */
  savedClient(id: ClientId): Promise<void>;
  /** Makes an empty commit. Resolves when it is on disk. @throws {RelayError} unavailable */
  probe(): Promise<void>;
  /** That an id was given out to something that is not kept. */
  note(id: EventId): void;
  /** Reads what is below the window. */
  read(query: Query): Promise<Pick<EngineReading, "events" | "through" | "asOf">>;
  /** As `gap` of `EngineReading`. To be asked only for a reader below the floor. */
  trimmed(query: Query): boolean | Promise<boolean>;
  /** What is known of an event: its head, whom it matched, and what has taken its place. */
  receipt(event: EventId): JournalReceipt | undefined;
  /** A client that was removed or forgotten; not for ever. */
  gone(client: ClientId): KeptClient | undefined;
  trim(now: number): void;
  close(): Promise<void>;
}
