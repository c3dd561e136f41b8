/**
 * Finds parts of JSON text as they were written, so that a message goes on as it came: `JSON.parse` would round long
 * numbers. All of it takes text that is known to be valid JSON.
 */

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** The compact source of a member, by its path from the top; of several with one name the last, as in `JSON.parse`. */
export function memberSource(text: string, ...path: string[]): string | undefined {
  let [start, end] = [skipSpace(text, 0), text.length];
  for (const name of path) {
    if (text[start] !== "{") return undefined;
    let found: [number, number] | undefined;
    for (const [keyStart, valueStart, valueEnd] of parts(text, start)) {
      const key = text.slice(keyStart, skipString(text, keyStart));
      // Most keys have no escapes, and are compared as they stand.
      if (key === `"${name}"` || (key.includes("\\") && JSON.parse(key) === name)) found = [valueStart, valueEnd];
    }
    if (!found) return undefined;
    [start, end] = found;
  }
  return compact(text.slice(start, end));
}

/** The sources of an array's elements. */
export function elementSources(text: string): string[] {
  return [...parts(text, skipSpace(text, 0))].map(([, start, end]) => text.slice(start, end));
}

/** The members of an object or the elements of an array: where the key (or the element), and the value, begin and end. */
function* parts(text: string, start: number): Generator<[number, number, number]> {
  const isObject = text[start] === "{";
  let at = skipSpace(text, start + 1);
  while (text[at] !== "}" && text[at] !== "]") {
    const key = at;
    if (isObject) at = skipSpace(text, skipSpace(text, skipString(text, at)) + 1);
    const end = skipValue(text, at);
    yield [key, at, end];
    at = skipSpace(text, end);
    if (text[at] === ",") at = skipSpace(text, at + 1);
  }
}

function skipSpace(text: string, start: number): number {
  let at = start;
  while (isSpace(text.charCodeAt(at))) at++;
  return at;
}

function skipString(text: string, start: number): number {
  let at = start + 1;
  while (text.charCodeAt(at) !== QUOTE) at += text.charCodeAt(at) === BACKSLASH ? 2 : 1;
  return at + 1;
}

function skipValue(text: string, start: number): number {
  if (text.charCodeAt(start) === QUOTE) return skipString(text, start);
  let depth = 0;
  for (let at = start; at < text.length; at++) {
    const character = text[at] as string;
    if (character === '"') at = skipString(text, at) - 1;
    else if (character === "{" || character === "[") depth++;
    else if (character === "}" || character === "]") {
      if (depth === 0) return at;
      if (--depth === 0) return at + 1;
    } else if (depth === 0 && (character === "," || isSpace(text.charCodeAt(at)))) return at;
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
