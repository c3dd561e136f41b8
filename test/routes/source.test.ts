import fc from "fast-check";
import { expect, test } from "vitest";
import { elementSources, memberSource } from "../../src/routes/source.js";

const indent = fc.constantFrom(undefined, 1, "\t", " \n\r");
const value = fc.jsonValue({ maxDepth: 4, stringUnit: "binary" });

test("a member's source is its value, compact", () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string({ unit: "binary" }), value), value, indent, (others, message, space) => {
      const body = { ...others, message, payload: { b: 1, message } };
      const text = JSON.stringify(body, null, space);
      expect(memberSource(text, "message")).toBe(JSON.stringify(message));
      expect(memberSource(` ${text}\n`, "payload", "message")).toBe(JSON.stringify(message));
      expect(memberSource(text, "payload", "none")).toBeUndefined();
    }),
    { numRuns: 500 },
  );
});

test("an array's elements are found", () => {
  fc.assert(
    fc.property(fc.array(value), indent, (elements, space) => {
      const sources = elementSources(` ${JSON.stringify(elements, null, space)} `);
      expect([...sources].map((source) => JSON.parse(source) as unknown)).toEqual(JSON.parse(JSON.stringify(elements)));
    }),
  );
});

test("what JSON.parse would change stays, and the last of several members counts", () => {
  const text = '{"message":1, "m\\u0065ssage" : { "b":12345678901234567890, "a": 1e999, "b": 1.50 } }';
  expect(memberSource(text, "message")).toBe('{"b":12345678901234567890,"a":1e999,"b":1.50}');
});

test("text is an array of JSON when its elements are JSON, and nothing else is; whatever is wrong with it", () => {
  const damage = fc.tuple(fc.nat(), fc.constantFrom("", "[", "]", "{", "}", ",", '"', "\\", ":", "1", " ", "x"));
  fc.assert(
    fc.property(fc.array(value, { maxLength: 5 }), indent, fc.array(damage), (elements, space, damages) => {
      let text = JSON.stringify(elements, null, space);
      for (const [at, instead] of damages) {
        const index = 1 + (at % text.length);
        text = text.slice(0, index) + instead + text.slice(index + 1);
      }
      expect(parsed(() => [...elementSources(text)].map((source) => JSON.parse(source) as unknown))).toEqual(
        parsed(() => JSON.parse(text) as unknown),
      );
    }),
    { numRuns: 2000 },
  );
});

function parsed(parse: () => unknown): unknown {
  try {
    return parse();
  } catch {
    return "not JSON";
  }
}
