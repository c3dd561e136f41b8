/** What went wrong, as a stable string. Routes turn it into an HTTP status, sockets into an error frame. */
const ERROR_CODES = [
  "bad_request",
  "forbidden",
  "not_found",
  "too_large",
  "too_many",
  "idempotency_key_reused",
  "unavailable",
] as const;
export type ErrorCode = (typeof ERROR_CODES)[number];

/** What is bounded: an error because of a limit says which, and it is counted. */
export const LIMIT_NAMES = [
  "body_bytes",
  "message_bytes",
  "frame_bytes",
  "batch_events",
  "batch_users",
  "json_depth",
  "topics_per_client",
  "total_topics",
  "clients",
  "clients_per_user",
  "connections_per_address",
  "open_files",
  "requests",
  "failed_auths",
  "publishes",
  "frames",
  "bad_frames",
  "replay_events",
  "total_buffer",
  "replacements",
  "waits",
  "idempotency_keys",
] as const;
export type LimitName = (typeof LIMIT_NAMES)[number];

interface ErrorDetails {
  readonly cause?: unknown;
  readonly limit?: LimitName;
  readonly retryAfter?: number;
}

/** The one error class of the relay. `message` is written for the caller and names what was wrong. */
export class RelayError extends Error {
  readonly code: ErrorCode;
  /** The limit that was reached, when it was one. */
  readonly limit: LimitName | undefined;
  /** Seconds after which it is worth trying again, when that is known. */
  readonly retryAfter: number | undefined;

  constructor(code: ErrorCode, message: string, options: ErrorDetails = {}) {
    super(message, "cause" in options ? { cause: options.cause } : {});
    this.name = "RelayError";
    this.code = code;
    this.limit = options.limit;
    this.retryAfter = options.retryAfter;
  }
}

const CODES: ReadonlySet<unknown> = new Set(ERROR_CODES);

/** Whether it is an error of the relay. An engine from outside has not the class: it says the same by the `code`. */
export function isRelayError(error: unknown): error is RelayError {
  return error instanceof Error && "code" in error && CODES.has(error.code);
}
