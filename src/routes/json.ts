import type { IncomingHttpHeaders } from "node:http";
import { RelayError } from "../core/errors.js";
import { HttpError } from "./problems.js";

/** How deep JSON may be nested: far more than messages need, far less than what a stack holds. */
export const MAX_DEPTH = 100;

const BLANK = /^\s*$/;

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
  if (BLANK.test(text)) throw new RelayError("bad_request", "not valid JSON: it is empty");
  // Each level takes two characters at least.
  if (text.length > 2 * MAX_DEPTH && depthOf(text) > MAX_DEPTH)
    throw new RelayError("bad_request", `JSON is nested deeper than ${MAX_DEPTH}`, { limit: "json_depth" });
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new RelayError("bad_request", `not valid JSON: ${(cause as Error).message}`, { cause });
  }
}

// Of `"`, `\`, `[`, `{`, `]` and `}`.
const [QUOTE, BACKSLASH, BRACKET, BRACE, BRACKET_END, BRACE_END] = [0x22, 0x5c, 0x5b, 0x7b, 0x5d, 0x7d];

function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  let quoted = false;
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (quoted) {
      if (code === BACKSLASH) index++;
      else if (code === QUOTE) quoted = false;
    } else if (code === QUOTE) quoted = true;
    else if (code === BRACKET || code === BRACE) deepest = Math.max(deepest, ++depth);
    else if (code === BRACKET_END || code === BRACE_END) depth--;
  }
  return deepest;
}
