import type { IncomingHttpHeaders } from "node:http";
import { RelayError } from "../core/errors.js";
import { HttpError, InvalidInput } from "./problems.js";

/** How deep JSON may be nested: far more than messages need, far less than what a stack holds. */
export const MAX_DEPTH = 100;

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** @throws {HttpError} 415: the body is compressed */
export function checkEncoding(headers: IncomingHttpHeaders): void {
  const encoding = headers["content-encoding"];
  if (encoding === undefined || encoding === "identity") return;
  throw new HttpError(415, "send the body as it is, without content-encoding", { "accept-encoding": "identity" });
}

/** @throws {RelayError} bad_request: not UTF-8 */
export function decodeText(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new RelayError("bad_request", "the body is not valid UTF-8", { cause });
  }
}

/** @throws {RelayError} bad_request: not JSON, or nested deeper than `MAX_DEPTH` */
export function parseJson(text: string): unknown {
  if (text.trim() === "") throw new RelayError("bad_request", "not valid JSON: it is empty");
  // Each level takes two characters at least.
  if (text.length > 2 * MAX_DEPTH) checkDepth(text);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new RelayError("bad_request", `not valid JSON: ${(cause as Error).message}`, { cause });
  }
}

/**
 * The message of an event as JSON text.
 * @throws {RelayError} bad_request: it has none, or the event is nested deeper than `MAX_DEPTH`
 */
export function messageText(message: unknown): string {
  let text: string | undefined;
  let fault = "";
  try {
    text = JSON.stringify(message);
  } catch (error) {
    fault = `: ${(error as Error).message}`;
  }
  if (text === undefined) throw new InvalidInput([{ path: "message", message: `must be a JSON value${fault}` }]);
  checkDepth(text, 1);
  return text;
}

/** JSON is nested deeper than `MAX_DEPTH`. */
export function tooDeep(): RelayError {
  return new RelayError("bad_request", `JSON is nested deeper than ${MAX_DEPTH}`, { limit: "json_depth" });
}

// Of `"`, `\`, `[`, `{`, `]` and `}`.
const [QUOTE, BACKSLASH, BRACKET, BRACE, BRACKET_END, BRACE_END] = [0x22, 0x5c, 0x5b, 0x7b, 0x5d, 0x7d];

/** @param depth at which the text stands */
function checkDepth(text: string, depth = 0): void {
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code === QUOTE) index = skipString(text, index) - 1;
    else if (code === BRACKET || code === BRACE) {
      if (++depth > MAX_DEPTH) throw tooDeep();
    } else if (code === BRACKET_END || code === BRACE_END) depth--;
  }
}

/** Where the string ends whose quote stands at `start`: behind its other quote, or where the text ends. */
export function skipString(text: string, start: number): number {
  for (let quote = text.indexOf('"', start + 1); quote >= 0; quote = text.indexOf('"', quote + 1)) {
    let before = quote;
    while (text.charCodeAt(before - 1) === BACKSLASH) before--;
    // An odd number of backslashes before it makes it a part of the string.
    if ((quote - before) % 2 === 0) return quote + 1;
  }
  return text.length;
}
