import type { Event, UserId } from "./event.js";
import type { Notice } from "./notice.js";
import type { Frame } from "./outbox.js";

/** How events and notices look on one connection: a format and a framing. One instance per look, shared by all. */
export interface Encoder {
  /** The event as a client of `userId` gets it. MUST return the same frame for the same event and user id. */
  event(event: Event, userId: UserId): Frame;
  /** A notice; undefined when the format has no way to say it. */
  notice(notice: Notice): Frame | undefined;
  /**
   * A question that the other end answers with `payload` once it has received everything before, as WebSockets do;
   * absent: the transport has none. MUST return the same frame for the same payload when asked again at once.
   */
  readonly ping?: ((payload: string) => Frame) | undefined;
}
