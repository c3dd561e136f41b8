/** The wire protocol: what docs/PROTOCOL.md says, as types and constants. Imports nothing, so that clients can share it. */

export const FORMATS = ["raw", "json", "cloudevents"] as const;
export type FormatName = (typeof FORMATS)[number];

/** The relay's own subprotocol. A client that offers it knows the relay's close codes. */
export const OWN_SUBPROTOCOL = "relay.v1.json";

/** WebSocket subprotocols, and the format that each one selects. */
export const SUBPROTOCOLS: Readonly<Record<string, FormatName>> = {
  [OWN_SUBPROTOCOL]: "json",
  "cloudevents.json": "cloudevents",
};

/** WebSocket close codes that the relay uses (RFC 6455 section 7.4; 44xx are its own, after HTTP's). */
export const CLOSE = {
  goingAway: 1001,
  policy: 1008,
  tooBig: 1009,
  restarting: 1012,
  tryLater: 1013,
  badRequest: 4400,
  unauthorized: 4401,
  forbidden: 4403,
  removed: 4404,
  noPong: 4408,
  replaced: 4409,
  tooMany: 4429,
} as const;

/** RFC 9457 problem details, as every HTTP error is answered. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: string;
  errors?: FieldError[];
}

/** What is wrong with one field; `path` is dotted, and empty for the whole body. */
export interface FieldError {
  path: string;
  message: string;
}

/** An answer to a frame that could not be understood or done; `id` when it was a request. */
export interface ErrorFrame {
  id?: string | number;
  type: "error";
  error: { code: string; message: string };
}

export interface ResponseFrame {
  id: string | number;
  type: "response";
  data: unknown;
}

export interface NotificationFrame {
  type: "notification";
  data: { event: string };
}
