import { z } from "zod";
import { anyUserId, clientId, count, eventId, subscriptions, time, topic, topics } from "./names.js";
import { errorFrame } from "./problems.js";
import { message, publication, receipt } from "./publish.js";

// What clients send, besides the text `ping`.

export const requestId = z.union([z.string().max(255), z.number()], { error: "must be a string or a number" });

export const subscriptionList = z.strictObject({ topics: subscriptions }).describe("Replaces the subscriptions");

export const join = z
  .strictObject({ type: z.literal("join"), room: topic })
  .describe("Subscribes to a topic, to chat in it too");
export const leave = z.strictObject({ type: z.literal("leave"), room: topic }).describe("Unsubscribes from a topic");
export const chat = z
  .strictObject({ type: z.literal("chat"), content: z.string() })
  .describe("Publishes the content to every topic that the client has joined");

export const request = z
  .strictObject({
    id: requestId.describe("The answer has the same"),
    type: z.literal("request"),
    action: z.string().describe("One of the actions"),
    payload: z.unknown().optional().describe("As the action has it"),
  })
  .describe("Asks for something; answered by a response or an error");
export type RequestFrame = z.infer<typeof request>;

const withMessage = z.strictObject({ message });
const nothing = z.strictObject({}).optional();
const topicList = z.strictObject({ topics });

/** The actions of requests: what each one takes, and what its response has as `data`. */
export const ACTIONS = {
  echo: { payload: withMessage, data: z.strictObject({ echo: z.unknown() }) },
  broadcast: { payload: withMessage, data: receipt },
  get_connections: {
    payload: nothing,
    data: z.strictObject({ connections: count.optional().describe("Absent: not known now") }),
  },
  subscribe: { payload: subscriptionList, data: topicList },
  unsubscribe: { payload: subscriptionList, data: topicList },
  topics: { payload: nothing, data: topicList },
  publish: { payload: publication, data: receipt },
  ack: { payload: z.strictObject({ id: z.string() }), data: z.strictObject({ id: eventId }) },
} as const;
export type Action = keyof typeof ACTIONS;
export type ActionPayload<A extends Action> = z.infer<(typeof ACTIONS)[A]["payload"]>;
export type ActionData<A extends Action = Action> = z.infer<(typeof ACTIONS)[A]["data"]>;

export const clientFrame = z.union([subscriptionList, join, leave, chat, request]);
export type ClientFrame = z.infer<typeof clientFrame>;

// What the relay sends, besides the text `pong`.

export const response = z
  .strictObject({
    id: requestId,
    type: z.literal("response"),
    data: z.union(Object.values(ACTIONS).map(({ data }) => data)).describe("As the action has it"),
  })
  .describe("The answer to a request");
export type ResponseFrame = z.infer<typeof response>;

export const eventFrame = z
  .strictObject({
    type: z.literal("event"),
    id: eventId,
    topic: z.string(),
    message: z.unknown(),
    time,
    user_id: anyUserId.optional().describe("The client's own user; absent: the event was for everyone"),
  })
  .describe("An event in the format `json`");
export type EventFrame = z.infer<typeof eventFrame>;

const connected = z
  .strictObject({
    event: z.literal("connected"),
    connection_id: clientId,
    user_id: anyUserId,
    topics,
    cursor: eventId.describe("What follows came after this"),
    gap: z.boolean().describe("Whether events were lost before that"),
  })
  .describe("The first frame of a connection");

const topicsChanged = z
  .strictObject({ event: z.literal("topics"), topics })
  .describe("The change of topics that this connection asked for is done");

const gap = z
  .strictObject({ event: z.literal("gap"), cursor: eventId })
  .describe("Events before the cursor were lost: the log no longer has them");

const disconnected = z
  .strictObject({
    event: z.literal("disconnected"),
    code: z.int().describe("The WebSocket close code"),
    reason: z.string(),
    reconnect: z.boolean().describe("Whether the same URL is worth trying again"),
    retry_after_ms: count.optional().describe("When; absent: as you like"),
  })
  .describe("The last frame before the relay closes");
export type Disconnected = z.infer<typeof disconnected>;

export const notification = z
  .strictObject({
    type: z.literal("notification"),
    data: z.discriminatedUnion("event", [connected, topicsChanged, gap, disconnected]),
  })
  .describe("Something besides events that a client is told in the format `json`");
export type NotificationFrame = z.infer<typeof notification>;

export const serverFrame = z.union([eventFrame, response, errorFrame, notification]);
export type ServerFrame = z.infer<typeof serverFrame>;

export const restarting = z
  .strictObject({ retry_after_ms: count.describe("When this client is to come back") })
  .describe("The data of the last event of an event stream, `restarting`: the relay shuts down");
export type Restarting = z.infer<typeof restarting>;
