import type { Event, UserId } from "../core/event.js";
import { formatId } from "../core/id.js";
import { type Format, timeOf } from "./format.js";

/**
 * One structured CloudEvent (CloudEvents 1.0, JSON format). What came as a CloudEvent keeps its own `id`, `source`,
 * `type` and extensions; `relayid` is always the relay's event id, for `since` and `ack`.
 */
export const cloudevents: Format = {
  name: "cloudevents",
  personal: true,
  event: text,
  line: text,
  notice: () => undefined,
};

function text(event: Event, userId: UserId): string {
  const id = formatId(event.id);
  const head = {
    specversion: "1.0",
    id,
    source: "/topic-relay",
    type: "topic-relay.event",
    time: timeOf(event),
    datacontenttype: "application/json",
    ...(event.attributes === undefined ? {} : (JSON.parse(event.attributes) as object)),
    subject: event.topic,
    relayid: id,
    ...(event.users ? { relayuser: String(userId) } : {}),
  };
  return `${JSON.stringify(head).slice(0, -1)},"data":${event.message}}`;
}
