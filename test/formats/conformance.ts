import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Event, UserId } from "../../src/core/event.js";
import type { Notice } from "../../src/core/notice.js";
import type { Format } from "../../src/formats/format.js";

/** What a client can read back; what the format does not tell is absent. */
export interface Decoded {
  readonly message: unknown;
  readonly id?: string;
  readonly topic?: string;
  readonly user?: UserId | undefined;
}

const event: fc.Arbitrary<Event> = fc.record(
  {
    id: fc.record({ ms: fc.nat({ max: 2 ** 41 }), seq: fc.nat() }),
    time: fc.nat({ max: 2 ** 41 }),
    topic: fc.string({ minLength: 1, maxLength: 20, unit: "grapheme" }),
    message: fc.json({ maxDepth: 3 }).map((text) => JSON.stringify(JSON.parse(text))),
    users: fc.constant([1, "bob"]),
  },
  { requiredKeys: ["id", "time", "topic", "message"] },
);

const notice: Notice = { event: "topics", topics: ["a"] };

/** What every format has to do: see `Format`. `text` and `line` read its two forms as a client would. */
export function testFormat(
  format: Format,
  { text, line, notices }: { text: (text: string) => Decoded; line: (text: string) => Decoded; notices: boolean },
): void {
  describe(`format ${format.name}`, () => {
    test("what a client reads is what was published", () => {
      fc.assert(
        fc.property(event, (published) => {
          for (const read of [text(format.event(published, "bob")), line(format.line(published, "bob"))]) {
            expect(read.message).toEqual(JSON.parse(published.message));
            if ("id" in read) expect(read.id).toBe(`${published.id.ms}-${published.id.seq}`);
            if ("topic" in read) expect(read.topic).toBe(published.topic);
            if ("user" in read) expect(read.user).toBe(published.users ? "bob" : undefined);
          }
        }),
      );
    });

    test("a line has no line break, and is JSON", () => {
      fc.assert(
        fc.property(event, (published) => {
          const written = format.line(published, 1);
          expect(written).not.toMatch(/[\r\n]/);
          expect(() => JSON.parse(written)).not.toThrow();
        }),
      );
    });

    test("only a format that is personal depends on the user", () => {
      const published = { id: { ms: 1, seq: 0 }, time: 1, topic: "a", message: "1", users: [1, 2] };
      expect(format.event(published, 1) !== format.event(published, 2)).toBe(format.personal);
      const forAll = { id: { ms: 1, seq: 0 }, time: 1, topic: "a", message: "1" };
      expect(format.event(forAll, 1)).toBe(format.event(forAll, 2));
    });

    test(notices ? "notices are said" : "nothing is said but events", () => {
      const said = format.notice(notice);
      expect(said === undefined ? undefined : JSON.parse(said)).toEqual(
        notices ? { type: "notification", data: notice } : undefined,
      );
    });
  });
}
