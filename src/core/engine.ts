import type { ClientId, ClientRecord, Progress } from "./client.js";
import type { Event, EventDraft, EventHead, UserId } from "./event.js";
import type { EventId } from "./id.js";
import type { Loading } from "./loading.js";

/**
 * The seam to storage: orders the log, keeps it, and hands it to every relay that shares it. All that crosses it is data,
 * so that the other side can be another process or another machine. Four optional powers stand apart; what a relay can not
 * tell without one of them, it leaves out.
 *
 * An engine MUST
 * - give ids that strictly increase over everything that it ever ordered, changes of clients included, also after a restart;
 * - hand each entry to every follower, in the order of the ids, each once;
 * - resolve `append` only when the entry is as safe as the engine promises, and after every relay that follows through
 *   this object has followed it; hand entries on without waiting for that;
 * - reject with a RelayError `unavailable` what it can not take: at once, having done nothing, while it knows that it
 *   can not. What it had handed on already when it failed may still become safe later, as when an answer is lost;
 * - drop by itself what its retention does not allow any more, and tell its followers how far.
 */
export interface Engine {
  readonly name: string;
  /**
   * The engine's clock, in the milliseconds of the ids: what they, a `ttl`, `expiresAt` and idempotency keys are compared
   * with. It is near the wall clock and, unlike that, never goes back.
   */
  now(): number;
  /**
   * Joins a relay to the log. The follower is told of the log's bounds first, and then of every entry. It also inherits the
   * clients of relays that are gone: before this resolves, and whenever a relay goes.
   * @param loading told how far the handing over is
   * @returns how the relay leaves again: when that has resolved, the follower is told nothing more, and another relay has
   *   its clients
   */
  follow(follower: Follower, loading?: Loading): Promise<() => Promise<void>>;
  /**
   * Appends events, in order; or one change of a client. No events at all: nothing is ordered, and what resolves is a check
   * that the engine can keep data, as safely as an entry.
   * @throws {RelayError} unavailable; idempotency_key_reused: `once.key` is known with another fingerprint; too_many: the
   *   owner's room for keys is full
   */
  append(what: readonly EventDraft[] | ClientDraft, options?: AppendOptions): Promise<Appended>;
  /**
   * Reads kept events, in order. Costs about what it returns, and holds the event loop for some milliseconds at most.
   * @throws {RelayError} unavailable
   */
  read(query: Query): Promise<EngineReading>;
  /**
   * The clients as they are. Resolves when they are as safe as the engine promises, and after every relay that follows
   * through this object has followed what was ordered before.
   */
  find(who: Who): Promise<readonly ClientRecord[]>;
  /** Gives back what the engine holds, when all relays have left. What was answered stays safe. */
  close(): Promise<void>;
  /** Absent: what became of an event is known only as long as the relay remembers it. */
  readonly receipts?: ReceiptStore | undefined;
  /** Absent: the reply to a repeated request has no counts. */
  readonly replies?: ReplyStore | undefined;
  /** Absent: a client's next change tells how far it is; until then, the next relay sends it again what it has confirmed. */
  readonly cursors?: CursorStore | undefined;
  /** Absent: no other relay shares the engine. */
  readonly peers?: Peers | undefined;
}

/** A relay, as the engine sees it. What it is told it takes at once: these MUST NOT throw and MUST NOT wait. */
export interface Follower {
  /** The name of this relay among all that ever were on the engine. */
  readonly node: string;
  /** Called first, and once. */
  begin(bounds: Bounds): void;
  /** Every entry after `bounds.head`, in order, each once. */
  follow(entry: Entry): void;
  /**
   * The log has lost everything up to and with this id, except what `read` still returns. It may be told late: until then,
   * `floor` and `gap` of a reading tell.
   */
  trimmed(floor: EventId): void;
  /**
   * Another relay is gone, and no entry says so. Every relay is told; this one holds these of its clients from now on, or
   * none of them. The records are as of the last entry that this relay has followed. Called several times when the clients
   * are many: a few hundred at a time do not hold the event loop.
   */
  inherit(clients: readonly ClientRecord[]): void;
  /** Answers another relay for the clients that this one holds. */
  answer(question: Question): Promise<Answer>;
}

/** Where the log begins and ends. */
export interface Bounds {
  /** Where it began: what came before is not known. */
  readonly origin: EventId;
  /** The last id that was given out. */
  readonly head: EventId;
  /** It has nothing at or before this id any more; `origin` as long as nothing was trimmed. */
  readonly floor: EventId;
}

/** What happens, in the one order of the log. Changes of clients are entries too, so that they take effect in order. */
export type Entry = EventEntry | ClientEntry | RemovalEntry;

export interface EventEntry {
  readonly kind: "event";
  readonly event: Event;
  /** The event that this one replaces by its key. */
  readonly replaces?: EventId | undefined;
}

/** A client is new, or has changed. */
export interface ClientEntry {
  readonly kind: "client";
  readonly id: EventId;
  /** As it was appended, with `id` as its version. */
  readonly record: ClientRecord;
  readonly placed?: boolean | undefined;
}

export interface RemovalEntry {
  readonly kind: "removed";
  readonly id: EventId;
  readonly client: ClientId;
}

/** A change of one client, as data: it is made when nobody else has changed the client meanwhile. */
export interface ClientDraft {
  readonly client: ClientId;
  /** As the client is from then on, with `OWN` where it names the id of this very entry; undefined: it is removed. */
  readonly record: ClientRecord | undefined;
  /** The version that this one replaces; absent: there is no such client. */
  readonly expect: EventId | "absent";
  /** The client goes back: what its relay knows of its progress besides the record does not count any more. */
  readonly placed?: boolean | undefined;
}

export interface AppendOptions {
  /** Events that are appended under this key are appended once: all of them get safe together with the key, or none. */
  readonly once?: Once | undefined;
  /**
   * false: resolves when the entry has its place; it gets safe in its own time, and SHOULD be taken even when the engine
   * can keep nothing now.
   */
  readonly safe?: boolean | undefined;
}

/** An idempotency key. */
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

export interface Appended {
  /**
   * The ids, in the order of the drafts; those of the first request when this one is its duplicate. Of a change, its own id;
   * none when nothing was appended.
   */
  readonly ids: readonly EventId[];
  /** Present when the key was known: the first request's reply, if it was settled. */
  readonly duplicate?: { readonly reply: readonly Counts[] | undefined } | undefined;
  /** Present when the client is not what the draft expected: nothing was appended. `current`: as it is. */
  readonly conflict?: { readonly current: ClientRecord | undefined } | undefined;
}

/** What a reader asks of the log: its events after a cursor. */
export interface Query {
  readonly after: EventId;
  /** Up to and with this id; absent: up to the head. */
  readonly until?: EventId | undefined;
  /** Subscriptions: topics and patterns. */
  readonly topics: readonly string[];
  /** `userKey` of the reader: events for everyone and for this user. */
  readonly user: string;
  /** How many events: about so many at most. 0: to learn of a `gap` only. */
  readonly limit: number;
}

export interface EngineReading {
  readonly events: readonly Event[];
  /**
   * How far it got, when it ended before `until`: as many events as asked for, enough work was done, or what came after
   * that was trimmed meanwhile. Reading goes on from there.
   */
  readonly through?: EventId | undefined;
  /** Events that were replaced after this id may be among what was read. */
  readonly asOf: EventId;
  /** The log's floor when this reading began. */
  readonly floor: EventId;
  /**
   * Whether an event that the query asks for may have been trimmed: one at or below the floor that this reader could still
   * have had. True as well when the engine does not know that any more.
   */
  readonly gap: boolean;
}

/** Which clients: one by its id, one by the secret in its URL (see `ClientRecord`), or all of a user (by `userKey`). */
export type Who = { readonly client: ClientId } | { readonly secret: string } | { readonly user: string };

/** Optional: what became of old events. */
export interface ReceiptStore {
  /** An event has matched these clients of one relay. Called while that relay follows the event, so it MUST NOT throw. */
  note(event: EventId, audience: Audience): void;
  /** What is known of an event that its relays have forgotten, or that was published before they started. */
  find(event: EventId): Promise<KeptReceipt | undefined>;
}

/** Clients that events matched. The same id always means the same clients. */
export interface Audience {
  /** Unlike that of any other audience of any relay. */
  readonly id: string;
  readonly clients: readonly { readonly id: ClientId }[];
}

export interface KeptReceipt {
  readonly head: EventHead;
  /** Whom it matched; undefined when that is not known. Clients that are gone for too long may be missing. */
  readonly matched: readonly KeptClient[] | undefined;
  /** The event that has taken its place. */
  readonly replacedBy: EventId | undefined;
}

/** A client, as far as receipts need it: also one that is gone. */
export interface KeptClient extends Pick<ClientRecord, "id" | "userId" | "received" | "narrowed"> {
  /** What it is still to be sent follows from this; undefined: it is removed or forgotten. */
  readonly place: Pick<ClientRecord, "subscriptions" | "cursor"> | undefined;
}

/** Optional: the replies to requests with an idempotency key. */
export interface ReplyStore {
  /**
   * Keeps a reply for the request's duplicates.
   * @param ids as `append` gave them
   * @param reply for each of them
   */
  settle(once: Once, ids: readonly EventId[], reply: readonly Counts[]): Promise<void>;
}

/** What became of one event, as its publisher is told. Counts that are not known for sure are absent. */
export interface Counts {
  readonly matched?: number;
  readonly sent?: number;
  readonly waiting?: number;
  readonly confirmed?: number;
}

/** Optional: how far clients are. */
export interface CursorStore {
  /**
   * Notes the progress of clients; of one that has another version by now, nothing. A change that is not `placed` keeps it,
   * when it is further than what the draft says. No entries: it may come a second late,
   * and never ahead of the truth.
   */
  move(moves: readonly Move[]): Promise<void>;
}

export interface Move extends Progress {
  readonly client: ClientId;
  readonly version: EventId;
}

/** Optional: the other relays on the same engine. */
export interface Peers {
  /**
   * @param from the relay that asks
   * @returns one answer of each other relay; undefined when not all of them answered in time, which for `confirmed` begins
   *   at its `until`
   */
  ask(from: string, question: Question): Promise<readonly Answer[] | undefined>;
}

export type Question =
  /** What became of the events; answered with one list of deliveries for each of them. */
  | { readonly ask: "deliveries"; readonly events: readonly EventId[] }
  /** Wait until this relay's clients have confirmed the events, or until `until` (by the engine's clock). */
  | { readonly ask: "confirmed"; readonly events: readonly EventId[]; readonly until: number }
  /** What became of one event for clients that may have moved since: one list, of those that the relay holds. */
  | {
      readonly ask: "states";
      readonly event: EventHead;
      readonly replacedBy: EventId | undefined;
      readonly clients: readonly ClientId[];
    }
  /** Tell the engine how far the client is, which is about to move: answered when the engine has that. */
  | { readonly ask: "progress"; readonly client: ClientId }
  /** How many clients and connections it has; and how many clients of a user (by `userKey`). */
  | { readonly ask: "counts"; readonly user?: string | undefined };

/** What a relay has, and what became of the events that it was asked about. */
export interface Answer {
  readonly connections: number;
  readonly clients: number;
  /** Clients of the user that it was asked about. */
  readonly ofUser: number;
  /** The highest number that it knows of an anonymous user. */
  readonly anonymous: number;
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
