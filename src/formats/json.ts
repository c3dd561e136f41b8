import type { Event, UserId } from "../core/event.js";
import { formatId } from "../core/id.js";
import { disconnected, type NotificationFrame } from "../protocol.js";
import { type Format, timeOf } from "./format.js";

/** The relay's own envelope, with notifications. */
export const json: Format = {
  name: "json",
  personal: true,
  event: text,
  line: text,
  notice: (notice) => {
    const data = notice.event === "disconnected" ? disconnected(notice) : notice;
    return JSON.stringify({ type: "notification", data } satisfies NotificationFrame);
  },
};

function text(event: Event, userId: UserId): string {
  const { id, topic, message, users } = event;
  const to = users ? `,"user_id":${JSON.stringify(userId)}` : "";
  return `{"type":"event","id":"${formatId(id)}","topic":${JSON.stringify(topic)},"message":${message},"time":"${timeOf(event)}"${to}}`;
}
