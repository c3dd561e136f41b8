import { z } from "zod";
import { anyUserId, count, eventId, list, MAX_KEY, seconds, time, topic, userId } from "./names.js";
import { problem } from "./problems.js";

/** Most users that one event may name. */
const MAX_USERS = 10_000;

/** A message. JSON has no word for `undefined`: it is what a missing field looks like. */
export const message = z
  .unknown()
  .refine((value) => value !== undefined, "is required")
  .describe("Any JSON value; a setting bounds its bytes as compact JSON");

export const publication = z
  .strictObject({
    topic,
    message,
    user_id: userId.optional().describe("Whom the event is for; default: everyone"),
    user_ids: list(userId, 1, MAX_USERS).optional().describe("Whom the event is for, when several users are named"),
    ttl: seconds
      .optional()
      .describe("Seconds after which the event is not sent any more; 0: only to those connected now, and not kept"),
    key: z
      .string()
      .min(1)
      .max(MAX_KEY)
      .optional()
      .describe("The event replaces an earlier one with the same topic, users and key for who does not have that yet"),
  })
  .refine((item) => item.user_id === undefined || item.user_ids === undefined, {
    path: ["user_ids"],
    message: "goes instead of user_id, not with it",
  })
  .describe("An event to publish: `POST /publish`, and the action `publish`");
export type Publication = z.infer<typeof publication>;

/** CloudEvents 1.0 (section 3.1): attribute names are lower-case letters and digits; values here are simple. */
const attributeValue = z.union([z.string(), z.boolean(), z.number()]);

export const cloudEvent = z
  .object({
    specversion: z.literal("1.0"),
    id: z.string().min(1),
    source: z.string().min(1),
    type: z.string().min(1),
    subject: z.string("is required: it is the topic"),
    time: z.iso.datetime({ offset: true }).optional(),
    datacontenttype: z.string().min(1).optional(),
    dataschema: z.string().min(1).optional(),
    data: z.unknown().optional(),
  })
  .catchall(attributeValue)
  .describe("A CloudEvent in structured mode, to publish and in the format `cloudevents`: `subject` is the topic");
export type CloudEvent = z.infer<typeof cloudEvent>;

const counts = {
  matched: count.optional().describe("Clients that the event was meant for"),
  sent: count.optional().describe("Clients to whose open connection the event was written"),
  waiting: count.optional().describe("Clients that get the event when they come back in time or catch up"),
};

export const receipt = z
  .strictObject({
    id: eventId,
    ...counts,
    confirmed: count.optional().describe("After `wait`: clients that have confirmed the event"),
    duplicate: z.literal(true).optional().describe("The idempotency key was used before, and nothing was published"),
  })
  .describe("What a publisher learns of one event. A count that is not known for sure is absent");
export type Receipt = z.infer<typeof receipt>;

export const receipts = z
  .array(z.union([receipt, problem]))
  .readonly()
  .describe("For each of several events a receipt, or a problem in its place");
export type Receipts = z.infer<typeof receipts>;

const deliveryState = z
  .enum(["sent", "confirmed", "waiting", "expired"])
  .describe("`sent`: not confirmed yet; `waiting`: to be sent; `expired`: not to be sent any more, and not confirmed");

const delivery = z
  .strictObject({
    id: z
      .string()
      .regex(/^[\da-f]{8}(?:[\da-f]{24}|…)$/)
      .describe("The client's id; with a key that lacks the scope `register`, its first eight digits and `…`"),
    user_id: anyUserId,
    state: deliveryState,
  })
  .describe("What became of an event for one client");

export const eventRecord = z
  .strictObject({
    id: eventId,
    topic: z.string(),
    time,
    user_id: anyUserId.optional(),
    user_ids: z.array(anyUserId).readonly().optional(),
    ttl: seconds.optional(),
    key: z.string().optional(),
    ...counts,
    confirmed: count.optional(),
    expired: count.optional(),
    clients: z.array(delivery).readonly().optional(),
  })
  .describe("`GET /events/ID`: what became of an event. Counts and clients are absent where a state is not known");
export type EventRecord = z.infer<typeof eventRecord>;
