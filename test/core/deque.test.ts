import fc from "fast-check";
import { expect, test } from "vitest";
import { Deque } from "../../src/core/deque.js";

test("it is a queue, whatever is done to it", () => {
  const step = fc.oneof(fc.nat({ max: 100 }), fc.constantFrom("shift" as const, "retain" as const));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const deque = new Deque<number>();
      let model: number[] = [];
      for (const action of steps) {
        if (action === "shift") expect(deque.shift()).toBe(model.shift());
        else if (action === "retain") {
          deque.retain((item) => item % 3 > 0);
          model = model.filter((item) => item % 3 > 0);
        } else {
          deque.push(action);
          model.push(action);
        }
        expect(deque.length).toBe(model.length);
        expect([deque.at(0), deque.at(model.length - 1), deque.at(model.length)]).toEqual([
          model[0],
          model.at(-1),
          undefined,
        ]);
      }
    }),
  );
});

test("searching finds the first item after", () => {
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 50 })), fc.nat({ max: 20 }), fc.nat({ max: 50 }), (items, shifts, sought) => {
      const sorted = items.sort((a, b) => a - b);
      const deque = new Deque<number>();
      for (const item of sorted) deque.push(item);
      for (let n = 0; n < shifts; n++) deque.shift();
      const left = sorted.slice(shifts);
      const index = left.findIndex((item) => item > sought);
      expect(deque.search((item) => item > sought)).toBe(index === -1 ? left.length : index);
    }),
  );
});
