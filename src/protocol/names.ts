import { z } from "zod";
import { MAX_FIELD_ERRORS } from "./problems.js";

/** Most topics in one list of a request. */
const MAX_TOPICS = 1000;

const MAX_TOPIC_LENGTH = 255;

/** Most patterns that a client's permissions may have, of either kind. */
const MAX_PATTERNS = 100;

/** Longest replacement key and idempotency key, in characters. */
export const MAX_KEY = 255;

/** What is wrong with `topic` as the topic of an event, or undefined. */
export function topicFault(topic: string): string | undefined {
  const fault = nameFault(topic);
  if (fault) return fault;
  // Most topics have neither character, which is found out faster.
  if (!/[*>]/.test(topic)) return undefined;
  const wild = topic.split(".").some((segment) => segment === "*" || segment === ">");
  return wild ? "is a pattern: patterns are for subscribing only" : undefined;
}

/** What is wrong with `subscription`, or undefined. */
export function subscriptionFault(subscription: string): string | undefined {
  const fault = nameFault(subscription);
  if (fault) return fault;
  if (subscription.split(".").slice(0, -1).includes(">")) return "has `>` before its last segment";
  return undefined;
}

function nameFault(name: string): string | undefined {
  if (name.length === 0) return "is empty";
  if (name.length > MAX_TOPIC_LENGTH) return `is longer than ${MAX_TOPIC_LENGTH} characters`;
  if (/\p{Cc}/u.test(name)) return "has a control character";
  if (!name.isWellFormed()) return "is not well-formed Unicode";
  if (name.startsWith("$")) return "is reserved: it starts with `$`";
  return undefined;
}

function named(fault: (name: string) => string | undefined): z.ZodType<string> {
  return z
    .string()
    .superRefine((name, context) => {
      const message = fault(name);
      if (message) context.addIssue({ code: "custom", message, input: name });
    })
    .meta({ minLength: 1, maxLength: MAX_TOPIC_LENGTH });
}

/**
 * A list whose length is looked at before anything in it is, and in which no more faults are looked for than are told.
 * @param limit the limit in /metrics that a longer list reaches
 */
export function list<T>(item: z.ZodType<T>, least: number, most: number, limit?: string): z.ZodType<T[]> {
  const bounds = least > 0 ? `${least} to ${most}` : `at most ${most}`;
  const { $schema: _, ...items } = z.toJSONSchema(item, { io: "input" });
  return z
    .array(z.unknown())
    .transform((items, context) => {
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
        if (error && ++faults >= MAX_FIELD_ERRORS) break;
      }
      return faults > 0 ? z.NEVER : values;
    })
    .meta({ items, minItems: least, maxItems: most });
}

export const topic = named(topicFault).describe("A topic: segments with dots between them. No pattern, no leading `$`");

const subscription = named(subscriptionFault).describe(
  "A topic or a pattern: `*` stands for one segment, a last segment `>` for one or more",
);

export const subscriptions = list(subscription, 0, MAX_TOPICS, "topics_per_client").describe("Topics and patterns");

/** The subscriptions of a client, as the relay names them: what it gave out itself, such as `$broadcast`, is among them. */
export const topics = z.array(z.string()).readonly().describe("All topics and patterns that the client subscribes to");

const permissible = list(
  named((name) => (name === "$broadcast" ? undefined : subscriptionFault(name))),
  0,
  MAX_PATTERNS,
);
export const permissions = z
  .strictObject({
    subscribe: permissible
      .optional()
      .describe(
        "What the client may subscribe to; absent: everything but `$broadcast`, or everything on an open relay",
      ),
    publish: permissible
      .optional()
      .describe("What the client may publish to; absent: nothing, or everything on an open relay"),
  })
  .describe("What a client may do. `$broadcast` is allowed by its name or by a lone `>`");
export type Permissions = z.infer<typeof permissions>;

// Text that is no Unicode has no bytes of its own: two such users would be one where they are kept.
const userName = z
  .string()
  .min(1)
  .max(128)
  .refine((name) => name.isWellFormed());

/** A user, whoever made it. */
export const anyUserId = z
  .union([z.int().min(0), userName], {
    error: "must be a non-negative safe integer, or a string of 1 to 128 characters of well-formed Unicode",
  })
  .describe('A user. `1` and `"1"` are the same user');
export type UserId = z.infer<typeof anyUserId>;

/** A user of a backend. */
export const userId = anyUserId.refine(
  (id) => typeof id !== "string" || !/^\$\d+$/.test(id),
  "must not be $ and digits: these are users that the relay numbers itself",
);

export const clientId = z
  .string()
  .regex(/^[\da-f]{32}$/)
  .describe("A client's id: a UUID (version 4) as 32 hex digits. Whoever has it can connect as that client");

export const eventId = z
  .string()
  .regex(/^(?:0|[1-9]\d*)-(?:0|[1-9]\d*)$/)
  .describe("`<milliseconds>-<sequence>`. Compare the first numbers, then the second, as numbers");

export const time = z.iso.datetime().describe("When the event was published, by the clock of the relay's machine");

export const seconds = z.int().min(0);

export const count = z.int().min(0);
