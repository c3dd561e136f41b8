/**
 * The vocabulary of the wire: every body and frame as a schema, and the types that follow from the schemas.
 * docs/PROTOCOL.md explains it. Imports zod alone, so that clients and generators can share it.
 */

import type { Disconnected } from "./protocol/frames.js";

export * from "./protocol/frames.js";
export * from "./protocol/health.js";
export * from "./protocol/names.js";
export * from "./protocol/problems.js";
export * from "./protocol/publish.js";
export * from "./protocol/register.js";

export const FORMATS = ["raw", "json", "cloudevents"] as const;
export type FormatName = (typeof FORMATS)[number];

/** The relay's own subprotocol. A client that offers it knows the relay's close codes. */
export const OWN_SUBPROTOCOL = "relay.v1.json";

/** WebSocket subprotocols, and the format that each one selects. */
export const SUBPROTOCOLS: Readonly<Record<string, FormatName>> = {
  [OWN_SUBPROTOCOL]: "json",
  "cloudevents.json": "cloudevents",
};

/** How the relay ends a connection for one reason. */
interface Closing {
  /** WebSocket close code (RFC 6455 section 7.4); those from 4400 on are the relay's own, after HTTP's statuses. */
  readonly code: number;
  /** The reason in the close frame, when the relay has nothing more exact to say. */
  readonly text: string;
  /** Whether the same URL is worth trying again. */
  readonly reconnect: boolean;
  /** Milliseconds to wait before that, when the relay names no other time. */
  readonly retryAfter?: number;
  /** Milliseconds for the other end to take what was sent before, and to close; then the relay cuts the connection. */
  readonly closeWithin: number;
}

/** A client that may not connect has nothing more to receive. */
const AT_ONCE = 500;
const IN_ORDER = 3000;

/** Where the text has the milliseconds to wait. */
const RETRY = "{ms}";

/** Why connections are closed: by the relay, or by its WebSocket library for a client that breaks RFC 6455 or a limit. */
export const CLOSE = {
  going_away: { code: 1001, text: "going away", reconnect: true, closeWithin: IN_ORDER },
  not_utf8: { code: 1007, text: "not UTF-8", reconnect: false, closeWithin: IN_ORDER },
  policy: { code: 1008, text: "too many fragments", reconnect: false, closeWithin: IN_ORDER },
  too_big: { code: 1009, text: "too big", reconnect: false, closeWithin: IN_ORDER },
  restarting: { code: 1012, text: `restarting, retry after ${RETRY} ms`, reconnect: true, closeWithin: IN_ORDER },
  failed: { code: 1013, text: "try again later", reconnect: true, retryAfter: 1000, closeWithin: IN_ORDER },
  gap: {
    code: 1013,
    text: "events were lost: the log no longer has them",
    reconnect: true,
    retryAfter: 0,
    closeWithin: IN_ORDER,
  },
  bad_request: { code: 4400, text: "a bad parameter", reconnect: false, closeWithin: AT_ONCE },
  unauthorized: { code: 4401, text: "no good token or key", reconnect: false, closeWithin: AT_ONCE },
  expired: { code: 4401, text: "the token has expired", reconnect: false, closeWithin: AT_ONCE },
  revoked: { code: 4401, text: "the key was removed", reconnect: false, closeWithin: AT_ONCE },
  forbidden: { code: 4403, text: "not permitted", reconnect: false, closeWithin: AT_ONCE },
  removed: { code: 4404, text: "client removed or expired", reconnect: false, closeWithin: AT_ONCE },
  silent: { code: 4408, text: "no pong", reconnect: true, retryAfter: 0, closeWithin: IN_ORDER },
  replaced: { code: 4409, text: "replaced by a newer connection", reconnect: false, closeWithin: IN_ORDER },
  hasty: { code: 4429, text: "too many frames before the relay answers", reconnect: true, closeWithin: IN_ORDER },
  flooded: { code: 4429, text: "too many bad frames", reconnect: false, closeWithin: AT_ONCE },
  replayed: {
    code: 4429,
    text: "a long replay: come back to go on",
    reconnect: true,
    retryAfter: 1000,
    closeWithin: IN_ORDER,
  },
} as const satisfies Record<string, Closing>;
export type CloseReason = keyof typeof CLOSE;

/** What a WebSocket reports as its close code when it ended without a close frame: the network is gone. Never sent. */
export const NO_CLOSE_FRAME = 1006;

/** For a client that knows the close codes: why a handshake is refused that HTTP refuses with one of these statuses. */
export const REFUSED_HANDSHAKES = {
  400: "bad_request",
  401: "unauthorized",
  403: "forbidden",
  404: "removed",
} as const satisfies Record<number, CloseReason>;

/**
 * The last notification of a connection. Its close frame has the same code, and as much of the reason as has room.
 * @param retryAfter milliseconds; absent: as the reason has it
 * @param detail absent: the reason's own text
 */
export function disconnected(why: {
  readonly reason: CloseReason;
  readonly retryAfter?: number;
  readonly detail?: string;
}): Disconnected {
  const { code, text, reconnect, retryAfter: usual }: Closing = CLOSE[why.reason];
  const { retryAfter = usual, detail = text.replace(RETRY, String(retryAfter ?? 0)) } = why;
  const retry = retryAfter === undefined ? {} : { retry_after_ms: retryAfter };
  return { event: "disconnected", code, reason: detail, reconnect, ...retry };
}
