import { z } from "zod";
import { anyUserId, clientId, count, permissions, seconds, subscriptions, topics, userId } from "./names.js";

export const registration = z
  .strictObject({
    user_id: userId,
    topics: subscriptions.optional().describe("Default: those of the relay's default topics that the client may have"),
    ttl: z
      .int()
      .min(1)
      .optional()
      .describe("Seconds for which the client is kept without a connection; a setting bounds them"),
    allow: permissions.optional(),
  })
  .describe("`POST /register`");
export type Registration = z.infer<typeof registration>;

export const claims = z
  .object({
    sub: userId,
    topics: subscriptions.optional(),
    allow: permissions.optional(),
    // As long as there are dates (ECMA-262).
    exp: z.number().max(8.64e12).optional().describe("Seconds since 1970: when the client and its connection end"),
  })
  .describe("What a token says of a client; the relay does not look at other claims");
export type Claims = z.infer<typeof claims>;

export const clientChange = z
  .strictObject({
    topics: subscriptions.optional().describe("Replaces all subscriptions"),
    add: subscriptions.optional(),
    remove: subscriptions.optional(),
    allow: permissions.optional().describe("Changes the permissions first; a list that is absent stays as it is"),
  })
  .refine(({ topics, add, remove }) => topics === undefined || (add === undefined && remove === undefined), {
    message: "must have topics, or add or remove",
  })
  .refine((change) => Object.values(change).some((value) => value !== undefined), {
    message: "must have topics, or add or remove, or allow",
  })
  .describe("`PATCH /register/ID`");
export type ClientChange = z.infer<typeof clientChange>;

const allowed = z.array(z.string()).readonly().optional();

export const registered = z
  .strictObject({
    url: z.url({ protocol: /^wss?$/ }).describe("Where the client connects with a WebSocket"),
    stream_url: z.url({ protocol: /^https?$/ }).describe("Where the client opens a stream"),
    id: clientId,
    user_id: anyUserId,
    topics,
    expires_in: seconds.describe("Seconds until the client is forgotten, if it does not connect"),
    allow: z.strictObject({ subscribe: allowed, publish: allowed }).optional(),
  })
  .describe("The reply of `POST /register`");
export type Registered = z.infer<typeof registered>;

export const clientState = registered
  .extend({ connected: z.boolean() })
  .describe("The reply of `GET` and `PATCH /register/ID`");
export type ClientState = z.infer<typeof clientState>;

export const clientRemoved = z
  .strictObject({ removed: z.boolean().describe("Whether there was such a client") })
  .describe("The reply of `DELETE /register/ID`");
export type ClientRemoved = z.infer<typeof clientRemoved>;

export const userRemoved = z
  .strictObject({ removed: count.describe("How many clients the user had") })
  .describe("The reply of `DELETE /users/USER`");
export type UserRemoved = z.infer<typeof userRemoved>;
