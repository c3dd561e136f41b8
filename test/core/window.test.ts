import fc from "fast-check";
import { expect, test } from "vitest";
import { type Event, isFor, replacementKey } from "../../src/core/event.js";
import { compareIds } from "../../src/core/id.js";
import { matchesTopic } from "../../src/core/topics.js";
import { Window } from "../../src/core/window.js";

const BOUNDLESS = { age: Infinity, count: Infinity, bytes: Infinity };

const draft = fc.record(
  {
    topic: fc.constantFrom("a", "b", "a.x", "a.y", "b.x"),
    users: fc.uniqueArray(fc.constantFrom<string | number>(1, 2, "bob"), { minLength: 1 }),
    key: fc.constantFrom("k", "l"),
    message: fc.constant('"m"'),
  },
  { requiredKeys: ["topic", "message"] },
);
const query = fc.record({
  after: fc.nat({ max: 40 }),
  until: fc.option(fc.nat({ max: 40 }), { nil: undefined }),
  topics: fc.uniqueArray(fc.constantFrom("a", "b", "a.*", "*.x", ">", "b.x", "none")),
  user: fc.constantFrom("1", "2", "bob", "eve"),
  limit: fc.integer({ min: 1, max: 10 }),
});

function numbered(drafts: readonly Omit<Event, "id">[]): Event[] {
  return drafts.map((event, index) => ({ ...event, id: { ms: index + 1, seq: 0 } }));
}

test("reading gives what filtering the whole log would give", () => {
  fc.assert(
    fc.property(fc.array(draft, { maxLength: 40 }), query, fc.integer({ min: 1, max: 50 }), (drafts, asked, count) => {
      const events = numbered(drafts);
      const window = new Window({ ...BOUNDLESS, count });
      const left: Event[] = [];
      for (const event of events) {
        const key = replacementKey(event);
        const old = left.findIndex((other) => key !== undefined && replacementKey(other) === key);
        const [replaced] = old >= 0 ? left.splice(old, 1) : [];
        left.push(event);
        if (left.length > count) left.shift();
        expect(window.append(event)).toEqual(replaced);
      }
      const after = { ms: asked.after, seq: 0 };
      const until = asked.until === undefined ? undefined : { ms: asked.until, seq: 0 };
      const expected = left
        .filter(({ id }) => compareIds(id, after) > 0 && (!until || compareIds(id, until) <= 0))
        .filter((event) => isFor(event, asked.user) && asked.topics.some((name) => matchesTopic(name, event.topic)));
      const read = window.read({ ...asked, after, until });
      // About so many as asked for: not fewer, unless there are no more.
      expect(read).toEqual(expected.slice(0, read.length));
      expect(read.length).toBeGreaterThanOrEqual(Math.min(asked.limit, expected.length));
      expect(window.count).toBe(left.length);
    }),
    { numRuns: 1000 },
  );
});

test("what is trimmed moves the floor, and takes its memory along", () => {
  const window = new Window({ ...BOUNDLESS, age: 100 });
  const event = (ms: number): Event => ({ id: { ms, seq: 0 }, topic: `t${ms}`, users: [ms], key: "k", message: "1" });
  for (const ms of [1000, 1050, 1090]) window.append(event(ms));
  const before = window.bytes;
  window.trim(1150);
  expect(window.floor).toEqual({ ms: 1050, seq: 0 });
  expect(window.count).toBe(1);
  expect(window.bytes).toBeLessThan(before / 2);
  window.trim(2000);
  expect([window.count, window.bytes]).toEqual([0, 0]);
});

test("the bytes setting bounds what is kept", () => {
  const window = new Window({ ...BOUNDLESS, bytes: 100_000 });
  for (let ms = 1; ms <= 1000; ms++)
    window.append({ id: { ms, seq: 0 }, topic: "a", message: `"${"x".repeat(1000)}"` });
  expect(window.bytes).toBeLessThanOrEqual(100_000);
  expect(window.count).toBeGreaterThan(50);
  expect(window.count).toBeLessThan(100);
});
