/** What went wrong, as a stable string. Routes turn it into an HTTP status, sockets into an error frame. */
export type ErrorCode =
  | "bad_request"
  | "not_found"
  | "too_large"
  | "too_many"
  | "idempotency_key_reused"
  | "unavailable";

/** The one error class of the relay. `message` is written for the caller and names what was wrong. */
export class RelayError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "RelayError";
    this.code = code;
  }
}
