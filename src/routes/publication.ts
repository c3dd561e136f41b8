import type { FastifyRequest } from "fastify";
import { isRelayError, RelayError } from "../core/errors.js";
import type { EventDraft } from "../core/event.js";
import { draftOfBinaryCloudEvent, draftOfCloudEvent, isBinaryCloudEvent } from "./cloudevents.js";
import { decodeText, parseJson } from "./json.js";
import { HttpError } from "./problems.js";
import { draftOf } from "./schemas.js";
import { elementSources, memberSource, skipSpace } from "./source.js";

/** Characters that JSON may need for one character, and those of an event besides its message: 10,000 users take most. */
const MAX_ESCAPE = 6;
const ITEM_ROOM = 2 * 1024 * 1024;

/** The request is not JSON: not only the item in which that was found is refused, but all of it. */
export class Malformed extends Error {
  constructor(readonly reason: unknown) {
    super("malformed");
  }
}

/** A request's events as they came (over HTTP, as text), to be made one by one. */
export interface ManyItems<T> {
  readonly items: Iterable<T>;
  readonly draft: (item: T) => EventDraft;
}

/** What a request brings. The reply has the form of the request. */
type PublishBody =
  | { readonly form: "single"; readonly draft: () => EventDraft }
  | ({ readonly form: "array" | "lines" } & ManyItems<string>);

/** @throws {HttpError} 415: not a type that events come in; {RelayError} bad_request */
export function bodyOf(request: FastifyRequest, maxMessage: number): PublishBody {
  const { headers } = request;
  const body = (request.body as Buffer | undefined) ?? Buffer.alloc(0);
  if (isBinaryCloudEvent(headers)) {
    return { form: "single", draft: () => draftOfBinaryCloudEvent(headers, body, maxMessage) };
  }
  const type = (headers["content-type"] ?? "").split(";", 1)[0]?.trim().toLowerCase();
  const read = type?.startsWith("application/cloudevents") ? structured : plain;
  switch (type) {
    case "application/json":
    case "application/cloudevents+json":
    case "application/cloudevents-batch+json": {
      const text = decodeText(body);
      if (/^\s*\[/.test(text)) {
        return { form: "array", items: elementSources(text), draft: (item) => ofElement(item, read, maxMessage) };
      }
      return { form: "single", draft: () => read(parseItem(text, maxMessage), text, maxMessage) };
    }
    case "application/x-ndjson":
    case "application/ndjson":
      return {
        form: "lines",
        items: linesOf(decodeText(body)),
        draft: (item) => plain(parseItem(item, maxMessage), item, maxMessage),
      };
    default:
      throw new HttpError(
        415,
        "send content-type: application/json, application/x-ndjson, or a CloudEvent (application/cloudevents+json, " +
          "application/cloudevents-batch+json, or ce-* headers)",
      );
  }
}

function ofElement(source: string, read: typeof plain, maxMessage: number): EventDraft {
  let value: unknown;
  try {
    value = parseItem(source, maxMessage);
  } catch (error) {
    throw isRelayError(error) && error.code === "too_large" ? error : new Malformed(error);
  }
  return read(value, source, maxMessage);
}

/** The lines that are not blank. */
function* linesOf(text: string): Generator<string> {
  for (let start = skipSpace(text, 0); start < text.length;) {
    const end = text.indexOf("\n", start);
    const line = text.slice(start, end < 0 ? text.length : end);
    yield line;
    start = skipSpace(text, start + line.length);
  }
}

/** @throws {RelayError} bad_request; too_large: longer than any event is, and more than is parsed in one go */
function parseItem(source: string, maxMessage: number): unknown {
  const most = maxMessage * MAX_ESCAPE + ITEM_ROOM;
  if (source.length <= most) return parseJson(source);
  throw new RelayError("too_large", `an event may have ${most} characters: this one has ${source.length}`, {
    limit: "message_bytes",
  });
}

function plain(value: unknown, text: string, maxMessage: number): EventDraft {
  return draftOf(value, () => memberSource(text, "message"), maxMessage);
}

function structured(value: unknown, text: string, maxMessage: number): EventDraft {
  return draftOfCloudEvent(value, () => memberSource(text, "data"), maxMessage);
}
