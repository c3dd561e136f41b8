import type { UserId } from "./event.js";

/** What the relay tells a client besides events. */
export type Notice =
  | {
      readonly event: "connected";
      readonly connection_id: string;
      readonly user_id: UserId;
      readonly topics: readonly string[];
      readonly cursor: string;
      readonly gap: boolean;
    }
  | { readonly event: "topics"; readonly topics: readonly string[] }
  | { readonly event: "gap"; readonly cursor: string }
  | ({ readonly event: "disconnected" } & Disconnect);

/** Why the relay ends a connection. `code` is a WebSocket close code. */
export interface Disconnect {
  readonly code: number;
  readonly reason: string;
  /** Whether the same URL is worth trying again. */
  readonly reconnect: boolean;
  /** When: milliseconds from now. */
  readonly retry_after_ms?: number;
}

/** Milliseconds for the other end to take what was sent before, and to close; then the connection is cut. */
export function closeWithin(code: number): number {
  // A client that may not connect (4400 to 4404) has nothing more to receive.
  return code >= 4400 && code <= REMOVED.code ? 500 : 3000;
}

export const REMOVED: Disconnect = { code: 4404, reason: "client removed or expired", reconnect: false };

export const EXPIRED: Disconnect = { code: 4401, reason: "the token has expired", reconnect: false };

export const REVOKED: Disconnect = { code: 4401, reason: "the key was removed", reconnect: false };

export const REPLACED: Disconnect = { code: 4409, reason: "replaced by a newer connection", reconnect: false };

export const SILENT: Disconnect = { code: 4408, reason: "no pong", reconnect: true, retry_after_ms: 0 };

export const REPLAYED: Disconnect = {
  code: 4429,
  reason: "a long replay: come back to go on",
  reconnect: true,
  retry_after_ms: 1000,
};

export const GAP: Disconnect = {
  code: 1013,
  reason: "events were lost: the log no longer has them",
  reconnect: true,
  retry_after_ms: 0,
};

export const FAILED: Disconnect = { code: 1013, reason: "try again later", reconnect: true, retry_after_ms: 1000 };
