import type { z } from "zod";
import { type LimitName, RelayError } from "../core/errors.js";
import { type EventDraft, type UserId, userKey } from "../core/event.js";
import { parseId } from "../core/id.js";
import type { Since } from "../core/log.js";
import { quote } from "../core/quote.js";
import { type FieldError, MAX_FIELD_ERRORS, MAX_KEY, publication } from "../protocol.js";
import { parseDuration } from "../units.js";
import { InvalidInput } from "./problems.js";

/**
 * The value as the schema has it.
 * @param at the path of the value itself
 * @throws {InvalidInput} each field that does not fit, with its path
 */
export function check<T>(schema: z.ZodType<T>, value: unknown, at?: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issues = result.error.issues.slice(0, MAX_FIELD_ERRORS);
  const errors = issues.flatMap((issue) => fieldErrors(issue, at)).slice(0, MAX_FIELD_ERRORS);
  const [limit] = issues.flatMap((issue) => (issue.code === "custom" && (issue.params?.["limit"] as LimitName)) || []);
  throw new InvalidInput(errors, limit);
}

function fieldErrors(issue: z.core.$ZodIssue, at: string | undefined): FieldError[] {
  const under = (...path: PropertyKey[]): string => [...(at ? [at] : []), ...path].join(".");
  if (issue.code === "unrecognized_keys") {
    const keys = issue.keys.slice(0, MAX_FIELD_ERRORS).map((key) => key.slice(0, MAX_KEY));
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
