import type { Notice } from "../core/notice.js";
import type { Event, UserId } from "../core/event.js";
import type { FormatName } from "../protocol.js";

/** The seam to the wire: how an event looks. A format knows nothing of sockets, frames or streams. */
export interface Format {
  readonly name: FormatName;
  /** Whether the text depends on who gets it. */
  readonly personal: boolean;
  /** The event as text. MUST depend on the arguments alone. @param userId the client's user */
  event(event: Event, userId: UserId): string;
  /** The event as one line of JSON. */
  line(event: Event, userId: UserId): string;
  /** A notice as text; undefined when the format says nothing but events. */
  notice(notice: Notice): string | undefined;
}

export function timeOf(event: Event): string {
  return new Date(event.time).toISOString();
}
