import type { EventId } from "./id.js";

/** Whoever the backend says: a non-negative safe integer or 1–128 characters. `1` and `"1"` are the same user. */
export type UserId = number | string;

/** The user of a client of `/ws` that no backend has registered. Backends can not name such users. */
export function anonymous(number: number): UserId {
  return `$${number}`;
}

/** The number of an anonymous user; undefined: the user is none. */
export function numberOf(userId: UserId): number | undefined {
  if (typeof userId !== "string" || !userId.startsWith("$")) return undefined;
  return /^\$\d+$/.test(userId) ? Number(userId.slice(1)) : undefined;
}

/** What makes two user ids the same user. */
export function userKey(userId: UserId): string {
  return String(userId);
}

/** An event as the publisher gives it. */
export interface EventDraft {
  readonly topic: string;
  /** The users that it is for; absent: everyone. Never empty, no user twice. */
  readonly users?: readonly UserId[];
  /**
   * The message as JSON text. Text rather than a value: it is encoded once for every format and client, and
   * its memory is what its length says.
   */
  readonly message: string;
  /** Seconds after which it is not delivered any more; 0: only to those connected now, and never stored. */
  readonly ttl?: number;
  /** A later event with the same topic, users and key replaces this one for whoever has not received it yet. */
  readonly key?: string;
  /** Attributes of the CloudEvent that it was published as (`id`, `source`, `type`, extensions), as JSON text. */
  readonly attributes?: string;
}

export interface Event extends EventDraft {
  readonly id: EventId;
  /** When it was published, by the clock on the wall: Unix milliseconds. Tells the time; ids tell the order. */
  readonly time: number;
}

/** What is remembered of an event for receipts: all but its message. */
export type EventHead = Pick<Event, "id" | "time" | "topic" | "users" | "ttl" | "key">;

export function headOf({ id, time, topic, users, ttl, key }: Event): EventHead {
  return { id, time, topic, users, ttl, key };
}

/** An event's time is that of its id, but when they differ by more than this, in milliseconds. */
const SAME_TIME = 1000;

/** The `time` of an event. @param wall the clock on the wall when it was published */
export function publishedAt({ ms }: EventId, wall: number): number {
  return Math.abs(wall - ms) > SAME_TIME ? wall : ms;
}

export function isFor(event: Pick<EventDraft, "users">, user: string): boolean {
  return event.users === undefined || event.users.some((userId) => userKey(userId) === user);
}

/** @param now of the engine's clock */
export function isExpired(event: Pick<Event, "id" | "ttl">, now: number): boolean {
  return (expiryOf(event) ?? Infinity) <= now;
}

/** By the engine's clock: from when on the event is not sent any more; undefined: it has no `ttl`. */
export function expiryOf({ id, ttl }: Pick<Event, "id" | "ttl">): number | undefined {
  return ttl === undefined ? undefined : id.ms + ttl * 1000;
}

/** Whether not all whom the event matches get it: its time may be up, or a later one may take its place. */
export function isDroppable({ ttl, key }: Pick<EventDraft, "ttl" | "key">): boolean {
  return ttl !== undefined || key !== undefined;
}

/** Events with the same replacement key replace each other; undefined when the event has no `key`. */
export function replacementKey(event: Pick<EventDraft, "topic" | "users" | "key">): string | undefined {
  if (event.key === undefined) return undefined;
  const users = event.users?.map(userKey).sort() ?? null;
  return JSON.stringify([event.topic, users, event.key]);
}
