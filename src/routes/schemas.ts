import { z } from "zod";
import { MAX_TOPICS } from "../core/client.js";
import { type LimitName, RelayError } from "../core/errors.js";
import { type EventDraft, isAnonymous, type UserId, userKey } from "../core/event.js";
import { parseId } from "../core/id.js";
import type { Since } from "../core/log.js";
import { quote } from "../core/quote.js";
import { BROADCAST, subscriptionFault, topicFault } from "../core/topics.js";
import type { FieldError } from "../protocol.js";
import { parseDuration } from "../units.js";
import { InvalidInput } from "./problems.js";

/** Most users that one event may name. */
const MAX_USERS = 10_000;

/** Longest replacement key and idempotency key, in characters. */
const MAX_KEY = 255;

/** How many wrong fields an answer tells of. */
const MAX_ERRORS = 20;

function named(fault: (name: string) => string | undefined): z.ZodType<string> {
  return z.string().superRefine((name, context) => {
    const message = fault(name);
    if (message) context.addIssue({ code: "custom", message, input: name });
  });
}

/**
 * A list whose length is looked at before anything in it is, and in which no more faults are looked for than are told.
 * @param limit counted when it is too long
 */
function list<T>(item: z.ZodType<T>, least: number, most: number, limit?: LimitName): z.ZodType<T[]> {
  const bounds = least > 0 ? `${least} to ${most}` : `at most ${most}`;
  return z.array(z.unknown()).transform((items, context) => {
    if (items.length < least || items.length > most) {
      const message = `must have ${bounds} items: this has ${items.length}`;
      context.addIssue({ code: "custom", message, params: { limit } });
      return z.NEVER;
    }
    const values: T[] = [];
    let faults = 0;
    for (const [index, value] of items.entries()) {
      const { data, error } = item.safeParse(value);
      if (!error) values.push(data);
      for (const { message } of error?.issues ?? []) context.addIssue({ code: "custom", message, path: [index] });
      if (error && ++faults >= MAX_ERRORS) break;
    }
    return faults > 0 ? z.NEVER : values;
  });
}

const topic = named(topicFault);
const subscriptions = list(named(subscriptionFault), 0, MAX_TOPICS, "topics_per_client");

/** Most patterns that a client's permissions may have, of either kind. */
const MAX_PATTERNS = 100;

const permissible = list(
  named((name) => (name === BROADCAST ? undefined : subscriptionFault(name))),
  0,
  MAX_PATTERNS,
);
const allow = z.strictObject({ subscribe: permissible.optional(), publish: permissible.optional() });

// Text that is no Unicode has no bytes of its own: two such users would be one where they are kept.
const userName = z
  .string()
  .min(1)
  .max(128)
  .refine((name) => name.isWellFormed());

/** A user, whoever made it. */
export const anyUserId = z.union([z.int().min(0), userName], {
  error: "must be a non-negative safe integer, or a string of 1 to 128 characters of well-formed Unicode",
});

/** A user of a backend. */
export const userId = anyUserId.refine(
  (id) => !isAnonymous(id),
  "must not be $ and digits: these are users that the relay numbers itself",
);

const seconds = z.int().min(0);

export const registration = z.strictObject({
  user_id: userId,
  topics: subscriptions.optional(),
  ttl: z.int().min(1).optional(),
  allow: allow.optional(),
});

/** What a token says (RFC 7519, and what registrations have); other claims are not looked at. */
export const tokenClaims = z
  .object({
    sub: userId,
    topics: subscriptions.optional(),
    allow: allow.optional(),
    // Seconds since 1970, as long as there are dates (ECMA-262).
    exp: z.number().max(8.64e12).optional(),
  })
  .transform(({ sub, exp, ...rest }) => ({ userId: sub, until: exp === undefined ? undefined : exp * 1000, ...rest }));
export type TokenClaims = z.output<typeof tokenClaims>;

export const clientChange = z
  .strictObject({
    topics: subscriptions.optional(),
    add: subscriptions.optional(),
    remove: subscriptions.optional(),
    allow: allow.optional(),
  })
  .refine(({ topics, add, remove }) => topics === undefined || (add === undefined && remove === undefined), {
    message: "must have topics, or add or remove",
  })
  .refine((change) => Object.values(change).some((value) => value !== undefined), {
    message: "must have topics, or add or remove, or allow",
  })
  .transform(({ topics, add, remove, allow }) => ({ topics: { set: topics, add, remove }, allow }));

export const publication = z
  .strictObject({
    topic,
    message: z.unknown().refine((value) => value !== undefined, "is required"),
    user_id: userId.optional(),
    user_ids: list(userId, 1, MAX_USERS).optional(),
    ttl: seconds.optional(),
    key: z.string().min(1).max(MAX_KEY).optional(),
  })
  .refine((item) => item.user_id === undefined || item.user_ids === undefined, {
    path: ["user_ids"],
    message: "goes instead of user_id, not with it",
  });

export const subscriptionList = z.strictObject({ topics: subscriptions });

/** `text` as a room: a topic that one may both subscribe and publish to. */
export const room = topic;

/**
 * The value as the schema has it.
 * @param at the path of the value itself
 * @throws {InvalidInput} each field that does not fit, with its path
 */
export function check<T>(schema: z.ZodType<T>, value: unknown, at?: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issues = result.error.issues.slice(0, MAX_ERRORS);
  const errors = issues.flatMap((issue) => fieldErrors(issue, at)).slice(0, MAX_ERRORS);
  const [limit] = issues.flatMap((issue) => (issue.code === "custom" && (issue.params?.["limit"] as LimitName)) || []);
  throw new InvalidInput(errors, limit);
}

function fieldErrors(issue: z.core.$ZodIssue, at: string | undefined): FieldError[] {
  const under = (...path: PropertyKey[]): string => [...(at ? [at] : []), ...path].join(".");
  if (issue.code === "unrecognized_keys") {
    const keys = issue.keys.slice(0, MAX_ERRORS).map((key) => key.slice(0, MAX_KEY));
    return keys.map((key) => ({ path: under(...issue.path, key), message: "is not a known field" }));
  }
  return [{ path: under(...issue.path), message: issue.message }];
}

/**
 * The event that a publisher's fields describe.
 * @param source finds the message as it was written, in compact JSON
 * @param maxMessage bytes
 * @param at the path of the value itself
 * @throws {RelayError} bad_request, too_large
 */
export function draftOf(value: unknown, source: () => string | undefined, maxMessage: number, at?: string): EventDraft {
  const { topic: name, message, user_id, user_ids, ttl, key } = check(publication, value, at);
  const users = user_ids ? distinct(user_ids) : user_id === undefined ? undefined : [user_id];
  return { topic: name, users, message: bounded(textOf(message, source), maxMessage), ttl, key };
}

/** A message as JSON text: a string in JSON's own spelling, anything else as it was written. */
export function textOf(message: unknown, source: () => string | undefined): string {
  return typeof message === "string" ? quote(message) : (source() ?? JSON.stringify(message));
}

/** @throws {RelayError} too_large */
export function bounded(message: string, maxMessage: number): string {
  const bytes = Buffer.byteLength(message);
  if (bytes <= maxMessage) return message;
  const text = `message: is ${bytes} bytes as JSON, and may have ${maxMessage}`;
  throw new RelayError("too_large", text, { limit: "message_bytes" });
}

function distinct(userIds: readonly UserId[]): UserId[] {
  return [...new Map(userIds.map((id) => [userKey(id), id])).values()];
}

/**
 * @param text `ID`, `10m`, `0` or `now`
 * @throws {InvalidInput}
 */
export function parseSince(text: string, path: string): Since {
  if (text === "0" || text === "0-0") return "start";
  if (text === "now") return "now";
  const id = parseId(text);
  if (id) return { id };
  const ago = parseDuration(text);
  if (ago !== undefined) return { ago };
  throw new InvalidInput([{ path, message: "must be an event id, a duration such as 10m, 0 or now" }]);
}
