import type { IncomingHttpHeaders } from "node:http";
import { RelayError } from "../core/errors.js";
import type { EventDraft } from "../core/event.js";
import { cloudEvent } from "../protocol.js";
import { decodeText, parseJson } from "./json.js";
import { InvalidInput } from "./problems.js";
import { check, draftOf } from "./schemas.js";
import { memberSource } from "./source.js";

/**
 * An event from a structured CloudEvent (JSON event format).
 * @param source finds its data as it was written, in compact JSON
 */
export function draftOfCloudEvent(value: unknown, source: () => string | undefined, maxMessage: number): EventDraft {
  if (typeof value === "object" && value !== null && "data_base64" in value) {
    throw new InvalidInput([{ path: "data_base64", message: "is not supported: send text or JSON in data" }]);
  }
  const { specversion: _, subject, relayuser, relayid: __, data, ...attributes } = check(cloudEvent, value);
  const odd = Object.keys(attributes).find((name) => !/^[a-z\d]+$/.test(name));
  if (odd !== undefined) {
    throw new InvalidInput([{ path: odd, message: "is not an attribute name: use lower-case letters and digits" }]);
  }
  const fields = { topic: subject, message: data ?? null, ...(relayuser === undefined ? {} : { user_id: relayuser }) };
  return { ...draftOf(fields, source, maxMessage), attributes: boundedAttributes(attributes, maxMessage) };
}

/** Whether a request is a CloudEvent in the binary mode of the HTTP binding (section 3.1.3). */
export function isBinaryCloudEvent(headers: IncomingHttpHeaders): boolean {
  return headers["ce-specversion"] !== undefined;
}

/** An event from `ce-*` headers and a body (HTTP binding section 3.1). */
export function draftOfBinaryCloudEvent(
  headers: IncomingHttpHeaders,
  body: Uint8Array,
  maxMessage: number,
): EventDraft {
  const type = headers["content-type"];
  const attributes: Record<string, unknown> = type === undefined ? {} : { datacontenttype: type };
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith("ce-") && typeof value === "string") attributes[name.slice(3)] = decodeHeader(name, value);
  }
  const text = decodeText(body);
  const isJson = text !== "" && (type === undefined || /^[^;]*[/+]json\s*(?:;|$)/i.test(type));
  const data = isJson ? parseJson(text) : text;
  return draftOfCloudEvent({ ...attributes, data }, () => (isJson ? memberSource(text) : undefined), maxMessage);
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * A value by section 3.1.3.2 of the HTTP binding: unquoted, then percent-decoded once. Characters beyond ASCII should
 * be percent-encoded; some SDKs send them as UTF-8 instead.
 * @param value as Node has it: a character for each byte
 */
function decodeHeader(name: string, value: string): string {
  try {
    const text = utf8.decode(Buffer.from(value, "latin1"));
    return decodeURIComponent(text.startsWith('"') ? unquoted(text) : text);
  } catch (cause) {
    throw new RelayError("bad_request", `the header ${name} is not percent-encoded UTF-8`, { cause });
  }
}

/** The value of a quoted string (RFC 9110 section 5.6.4). @throws it is none */
function unquoted(text: string): string {
  const inner = /^"((?:[^"\\]|\\.)*)"$/.exec(text)?.[1];
  if (inner === undefined) throw new Error("a quote without its other one");
  return inner.replaceAll(/\\(.)/g, "$1");
}

function boundedAttributes(attributes: object, maxBytes: number): string {
  const text = JSON.stringify(attributes);
  if (Buffer.byteLength(text) > maxBytes) {
    throw new RelayError("too_large", `the event's attributes may have ${maxBytes} bytes`, { limit: "message_bytes" });
  }
  return text;
}
