import type { ClientId, ClientRecord, Progress } from "./client.js";
import type { Event, EventDraft, EventHead, UserId } from "./event.js";
import type { EventId } from "./id.js";
import type { Loading } from "./loading.js";
import type { Query, StoreReading, Window } from "./window.js";

/** What an engine has read. */
export interface EngineReading extends StoreReading {
  /** Events that were replaced after this id may be among what was read. */
  readonly asOf: EventId;
}

/** What happens, in the one order of the log. Changes of clients are entries too, so that they take effect in order. */
export type Entry =
  | EventEntry
  | { readonly kind: "client"; readonly id: EventId; readonly record: ClientRecord }
  | { readonly kind: "removed"; readonly id: EventId; readonly client: ClientId };

export interface EventEntry {
  readonly kind: "event";
  readonly event: Event;
  /** The event that this one replaces by its key. */
  readonly replaces?: Event | undefined;
}

/** A relay, as the engine sees it: it follows the log, and answers what other relays ask. */
export interface Follower {
  /** The name of this relay among those on the engine. */
  readonly node: string;
  /**
   * Called with every entry, in order, each once. MUST NOT throw, MUST NOT wait.
   * @returns this relay's clients that an event matched: whom its receipt is about. Events that matched the same
   *   clients often share one list, which is never changed.
   */
  follow(entry: Entry): readonly Matched[];
  /** Answers another relay for the clients that this one holds. */
  answer(question: Question): Promise<Answer>;
}

/** A client, as far as a receipt names it. */
export interface Matched {
  readonly id: ClientId;
}

export type Question =
  /** What became of the events; answered with one list of deliveries for each of them. */
  | { readonly ask: "deliveries"; readonly events: readonly EventId[] }
  /** Wait until this relay's clients have confirmed the events, or until `until` (by the engine's clock). */
  | { readonly ask: "confirmed"; readonly events: readonly EventId[]; readonly until: number }
  | { readonly ask: "connections" };

/** How many connections a relay has, and what became of the events that it was asked about. */
export interface Answer {
  readonly connections: number;
  readonly deliveries: readonly (readonly Delivery[])[];
}

/** What became of one event for one client that it matched. */
export interface Delivery {
  readonly client: ClientId;
  readonly userId: UserId;
  readonly state: DeliveryState;
}

/**
 * `sent`: on its open connection. `confirmed`: the client's end has it. `waiting`: it will get it when it comes back
 * or catches up. `expired`: it never will: the event's time was up, it was replaced, trimmed or skipped, or the
 * client is gone. `unknown`: it will not get it any more, and whether it has it can not be told.
 */
export type DeliveryState = "sent" | "confirmed" | "waiting" | "expired" | "unknown";

/** An idempotency key: what is appended under it is appended once. */
export interface Once {
  /** Whose key it is: the same key of another owner is another key. Empty on an open relay, where all are one. */
  readonly owner: string;
  readonly key: string;
  /** A digest of the request: the same key with another one is an error. */
  readonly fingerprint: string;
  /** By the engine's clock: until when the key is known. */
  readonly until: number;
}

/** One name for owner and key: different for each two that differ in either. */
export function onceName({ owner, key }: Pick<Once, "owner" | "key">): string {
  return JSON.stringify([owner, key]);
}

/** What became of one event, as its publisher is told. Counts that are not known for sure are absent. */
export interface Counts {
  readonly matched?: number;
  readonly sent?: number;
  readonly waiting?: number;
  readonly confirmed?: number;
}

/** A client, as far as receipts need it: also one that is gone. */
export interface KeptClient extends Pick<ClientRecord, "id" | "userId" | "received" | "narrowed"> {
  /** What it is still to be sent follows from this; undefined: it is removed or forgotten. */
  readonly place: Pick<ClientRecord, "subscriptions" | "cursor"> | undefined;
}

/** What an engine knows of an event that its relays have forgotten, or that was published before they started. */
export interface KeptReceipt {
  readonly head: EventHead;
  /** Whom it matched; undefined when that is not known. Clients that are gone for too long may be missing. */
  readonly matched: readonly KeptClient[] | undefined;
  /** The event that has taken its place. */
  readonly replacedBy: EventId | undefined;
}

export interface Appended {
  /** The ids, in the order of the drafts; those of the first request when this one is its duplicate. */
  readonly ids: readonly EventId[];
  /** Present when the key was known: the first request's reply, if it was settled. */
  readonly duplicate?: { readonly reply: readonly Counts[] | undefined };
}

/**
 * The seam to storage: orders the log, keeps it, and hands it to every relay that shares it.
 *
 * An engine MUST
 * - give ids that strictly increase over everything it ever ordered, entries of clients included, also after a restart;
 * - hand each entry to every follower in the order of the ids, and have the event in `window` before;
 * - resolve `append` and `clients.update` only when the entry is as safe as the engine promises, and after its own
 *   relay has followed it; hand entries on without waiting for that;
 * - reject with a RelayError `unavailable` what it can not take: at once, having done nothing, while it knows that it
 *   can not. What it had handed on already when it failed may still become safe later, as when an answer is lost.
 */
export interface Engine {
  readonly name: string;
  /** The newest events; older ones are had by `read`. */
  readonly window: Window;
  /** The last id that was given out. */
  readonly head: EventId;
  /**
   * The engine's clock, in the milliseconds of the ids: what they, a `ttl`, `expiresAt` and idempotency keys are compared
   * with. It is near the wall clock and, unlike that, never goes back.
   */
  now(): number;
  /** The log has nothing at or before this id any more; `origin` as long as nothing was trimmed. */
  readonly floor: EventId;
  /** Where the log began: what came before is not known. */
  readonly origin: EventId;
  /**
   * Joins a relay to the log: from now on it follows every entry. First it gets the clients that no relay holds, as
   * entries at the head that make it the one that holds them; the clock of those that had a connection starts now.
   * Shares the event loop while it does.
   * @returns how it leaves again
   */
  join(follower: Follower, loading?: Loading): Promise<() => Promise<void>>;
  /**
   * Orders and keeps events; those with `ttl` 0 are ordered and handed on, and not kept.
   * @throws {RelayError} idempotency_key_reused: `once.key` is known with another fingerprint; too_many: the owner's
   *   room for keys is full
   */
  append(drafts: readonly EventDraft[], once?: Once): Promise<Appended>;
  /**
   * Keeps the reply to a request with an idempotency key, for its duplicates.
   * @param ids as `append` gave them
   * @param reply for each of them
   */
  settle(once: Once, ids: readonly EventId[], reply: readonly Counts[]): Promise<void>;
  /**
   * Reads events below the window's floor. MUST NOT hold the event loop for longer than some milliseconds, whatever it
   * is asked for. Absent: none are kept.
   */
  readonly read?: (query: Query) => Promise<EngineReading>;
  /**
   * Checks that the engine can keep data: it stores something that is no entry and changes nothing, as safely as an entry.
   * @throws {RelayError} unavailable: it can not
   */
  probe(): Promise<void>;
  /** Drops what the retention does not allow any more. @param now of the engine's clock */
  trim(now: number): void;
  /**
   * Whether an event that the query asks for may have been trimmed: an event at or below the floor, as the floor is when
   * this is called, that its reader could still have had. True as well when the engine does not know that any more. When
   * the floor has moved by the time of the answer, ask again, from the floor that the answer is about. To be asked only
   * for a reader below the floor. MUST NOT hold the event loop for longer than some milliseconds.
   */
  trimmed(query: Omit<Query, "limit">): boolean | Promise<boolean>;
  /** What is known of an event that the relay itself has forgotten. Absent: nothing is. */
  readonly receipt?: (event: EventId) => Promise<KeptReceipt | undefined>;
  readonly clients: ClientStore;
  /** Asks the other relays on this engine. @returns undefined when not all of them answered in time */
  readonly ask: (from: string, question: Question) => Promise<Answer[] | undefined>;
  /** Gives back what the engine holds, when all relays have left. What was answered stays safe. */
  close(): Promise<void>;
}

export interface ClientStore {
  get(id: ClientId): Promise<ClientRecord | undefined>;
  /** All clients of a user, by `userKey`. */
  of(user: string): Promise<ClientRecord[]>;
  /**
   * Changes one client, as an entry of the log. `change` gets the record as it is (undefined: unknown) and the
   * entry's id, and returns the new one; undefined removes the client. It MAY be called again when another relay
   * changed the same client meanwhile; what it throws is thrown on, and nothing changes.
   * @param safe whether to wait until it is as safe as the engine promises; otherwise it becomes so in its own time,
   *   and SHOULD be taken even when the engine can keep nothing now
   * @returns the record as it is now; undefined when there is none. No entry when there was none and there is none,
   *   or when `change` returned what it got.
   */
  update(id: ClientId, change: ClientChange, safe?: boolean): Promise<ClientRecord | undefined>;
  /** Notes how far clients are. No entry: it may come a second late, and never ahead of the truth. */
  move(clients: ReadonlyMap<ClientId, Progress>): Promise<void>;
}

export type ClientChange = (record: ClientRecord | undefined, at: EventId) => ClientRecord | undefined;
