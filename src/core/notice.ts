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

/** Why the relay ends a connection. Transports and formats know how each reason is said. */
export type Reason =
  // The client is unknown, removed or forgotten.
  | "removed"
  // The client's token has expired.
  | "expired"
  // The client's API key was removed.
  | "revoked"
  // A newer connection of the client took over.
  | "replaced"
  // The other end left a ping unanswered.
  | "silent"
  // The connection was sent as many earlier events as one connection may get.
  | "replayed"
  // Events were lost, and the format has no words for it.
  | "gap"
  // The relay could not go on.
  | "failed"
  // The relay shuts down.
  | "restarting"
  // The client sent too many bad frames.
  | "flooded"
  // The client sent too much while another connection has its place.
  | "hasty"
  // The client may not connect.
  | "bad_request"
  | "unauthorized"
  | "forbidden";

export interface Disconnect {
  readonly reason: Reason;
  /** Milliseconds until the client is to come back; absent: as is usual for the reason. */
  readonly retryAfter?: number;
  /** What exactly was wrong, for people; absent: no more than the reason says. */
  readonly detail?: string;
}
