import { RelayError } from "../core/errors.js";
import { MAX_DEPTH, skipString, tooDeep } from "./json.js";

// Finds parts of JSON text as they were written, so that a message goes on as it came: `JSON.parse` would round long
// numbers.

// Of `"`, `,`, `[`, `{`, `]` and `}`.
const [QUOTE, COMMA, BRACKET, BRACE, BRACKET_END, BRACE_END] = [0x22, 0x2c, 0x5b, 0x7b, 0x5d, 0x7d];

/**
 * The compact source of a member, by its path from the top; of several with one name the last, as in `JSON.parse`.
 * @param text valid JSON
 */
export function memberSource(text: string, ...path: string[]): string | undefined {
  let [start, end] = [skipSpace(text, 0), text.length];
  for (const name of path) {
    if (text[start] !== "{") return undefined;
    let found: [number, number] | undefined;
    for (const [keyStart, valueStart, valueEnd] of members(text, start)) {
      const key = text.slice(keyStart, skipString(text, keyStart));
      // Most keys have no escapes, and are compared as they stand.
      if (key === `"${name}"` || (key.includes("\\") && JSON.parse(key) === name)) found = [valueStart, valueEnd];
    }
    if (!found) return undefined;
    [start, end] = found;
  }
  return compact(text.slice(start, end));
}

/**
 * The sources of an array's elements, one after the other: each is to be parsed by itself, so that a long array does not
 * hold up others.
 * @param text begins with `[`; need not be valid JSON
 * @throws {RelayError} bad_request: what stands between the elements is not JSON, or an element is nested too deep
 */
export function* elementSources(text: string): Generator<string> {
  let at = skipSpace(text, skipSpace(text, 0) + 1);
  let isEnd = text.charCodeAt(at) === BRACKET_END;
  while (!isEnd) {
    const end = skipValue(text, at);
    yield text.slice(at, end);
    at = skipSpace(text, end);
    isEnd = text.charCodeAt(at) === BRACKET_END;
    if (!isEnd && text.charCodeAt(at) !== COMMA) throw misplaced(text, at);
    if (!isEnd) at = skipSpace(text, at + 1);
  }
  const rest = skipSpace(text, at + 1);
  if (rest < text.length) throw misplaced(text, rest);
}

function misplaced(text: string, at: number): RelayError {
  const what = at < text.length ? `${JSON.stringify(text[at])} is not expected` : "it ends too soon";
  return new RelayError("bad_request", `not valid JSON: ${what} at position ${at}`);
}

/** The members of an object: where the key and the value begin, and where the value ends. */
function* members(text: string, start: number): Generator<[number, number, number]> {
  let at = skipSpace(text, start + 1);
  while (text[at] !== "}") {
    const key = at;
    at = skipSpace(text, skipSpace(text, skipString(text, at)) + 1);
    const end = skipValue(text, at);
    yield [key, at, end];
    at = skipSpace(text, end);
    if (text[at] === ",") at = skipSpace(text, at + 1);
  }
}

/** Where the white space ends that begins at `start`. */
export function skipSpace(text: string, start: number): number {
  let at = start;
  while (isSpace(text.charCodeAt(at))) at++;
  return at;
}

/** Where the value ends that begins at `start`; the end of the text when it has no end. */
function skipValue(text: string, start: number): number {
  let depth = 0;
  for (let at = start; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = skipString(text, at) - 1;
      if (depth === 0) return at + 1;
    } else if (code === BRACE || code === BRACKET) {
      // The array is a level too.
      if (++depth >= MAX_DEPTH) throw tooDeep();
    } else if (code === BRACE_END || code === BRACKET_END) {
      if (depth === 0) return at;
      if (--depth === 0) return at + 1;
    } else if (depth === 0 && (code === COMMA || isSpace(code))) return at;
  }
  return text.length;
}

/** Without the white space between tokens. */
function compact(text: string): string {
  let result = "";
  let kept = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) at = skipString(text, at) - 1;
    else if (isSpace(code)) {
      result += text.slice(kept, at);
      kept = at + 1;
    }
  }
  return kept === 0 ? text : result + text.slice(kept);
}

function isSpace(code: number): boolean {
  return code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09;
}
