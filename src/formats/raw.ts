import type { Format } from "./format.js";

/** The message and nothing around it: a string as it is, any other value as compact JSON. */
export const raw: Format = {
  name: "raw",
  personal: false,
  event: ({ message }) => (message.startsWith('"') ? (JSON.parse(message) as string) : message),
  line: ({ message }) => message,
  notice: () => undefined,
};
