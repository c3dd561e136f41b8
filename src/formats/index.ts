import { FORMATS, type FormatName, SUBPROTOCOLS } from "../protocol.js";
import { cloudevents } from "./cloudevents.js";
import { FramedEncoder, type Framing } from "./encoder.js";
import type { Format } from "./format.js";
import { json } from "./json.js";
import { raw } from "./raw.js";

export const formats: Readonly<Record<FormatName, Format>> = { raw, json, cloudevents };

/** The format of a name, or undefined. */
export function formatNamed(name: string): Format | undefined {
  return FORMATS.includes(name as FormatName) ? formats[name as FormatName] : undefined;
}

/** The first subprotocol offered that the relay speaks, with its format. */
export function chooseSubprotocol(offered: Iterable<string>): { name: string; format: Format } | undefined {
  for (const name of offered) {
    const format = Object.hasOwn(SUBPROTOCOLS, name) ? SUBPROTOCOLS[name] : undefined;
    if (format) return { name, format: formats[format] };
  }
  return undefined;
}

/** All formats in one framing. */
export function encodersFor(framing: Framing): Readonly<Record<FormatName, FramedEncoder>> {
  const encoder = (format: Format): FramedEncoder => new FramedEncoder(format, framing);
  return { raw: encoder(raw), json: encoder(json), cloudevents: encoder(cloudevents) };
}
