import fc from "fast-check";
import { expect, test } from "vitest";
import { compareIds, formatId, IdSource, parseId } from "../../src/core/id.js";

const anyId = fc.record({ ms: fc.maxSafeNat(), seq: fc.maxSafeNat() });

test("ids strictly increase, whatever the clock says", () => {
  fc.assert(
    fc.property(anyId, fc.array(fc.nat({ max: 2 ** 43 })), (last, clock) => {
      const source = new IdSource({ ms: Math.min(last.ms, 2 ** 43), seq: Math.min(last.seq, 2 ** 40) });
      let before = { ms: Math.min(last.ms, 2 ** 43), seq: Math.min(last.seq, 2 ** 40) };
      for (const now of clock) {
        const id = source.next(now);
        expect(compareIds(before, id)).toBeLessThan(0);
        before = id;
      }
    }),
  );
});

test("an id takes the clock's milliseconds when it can", () => {
  const source = new IdSource({ ms: 10, seq: 3 });
  expect(source.next(11)).toEqual({ ms: 11, seq: 0 });
  expect(source.next(11)).toEqual({ ms: 11, seq: 1 });
  expect(source.next(5)).toEqual({ ms: 11, seq: 2 });
});

test("an id is read back as it is written", () => {
  fc.assert(
    fc.property(anyId, (id) => {
      expect(parseId(formatId(id))).toEqual(id);
    }),
  );
});

test.each(["", "1", "1-", "-1", "1-2-3", "01-0", "1-00", " 1-0", "1-0\n", "1e3-0", "99999999999999999-0", "0x1-0"])(
  "%j is no id",
  (text) => {
    expect(parseId(text)).toBeUndefined();
  },
);
