import fc from "fast-check";
import { expect, test } from "vitest";
import { type Event, isFor, replacementKey } from "../../src/core/event.js";
import { compareIds, type EventId } from "../../src/core/id.js";
import { matchesTopic } from "../../src/core/topics.js";
import { type StoreReading, Window } from "../../src/engines/local/window.js";

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

function numbered(drafts: readonly Omit<Event, "id" | "time">[]): Event[] {
  return drafts.map((event, index) => ({ ...event, id: { ms: index + 1, seq: 0 }, time: index + 1 }));
}

// From those that are used up at once to those that never are: by topic and event by event, in one read and in many.
const bounds = fc.record({
  topics: fc.constantFrom(0, 1, 3, 10, 1000),
  slots: fc.constantFrom(1, 2, 10, 1000),
  scan: fc.constantFrom(1, 50, 200, 100_000),
});
const count = fc.integer({ min: 1, max: 50 });

test("reading gives what filtering the whole log would give, however little one read may cost", () => {
  fc.assert(
    fc.property(fc.array(draft, { maxLength: 40 }), query, count, bounds, (drafts, asked, count, cost) => {
      const events = numbered(drafts);
      const window = new Window({ ...BOUNDLESS, count }, undefined, cost);
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
      const read: Event[] = [];
      for (let from: EventId | undefined = after; from;) {
        const reading: StoreReading = window.read({ ...asked, after: from, until });
        read.push(...reading.events);
        const { through } = reading;
        // Each read gets on, and what it has read comes before the place that it got to.
        if (through) expect(compareIds(through, from)).toBeGreaterThan(0);
        expect(reading.events.every(({ id }) => !through || compareIds(id, through) <= 0)).toBe(true);
        from = through;
      }
      expect(read).toEqual(expected);
      expect(window.count).toBe(left.length);
    }),
    { numRuns: 3000 },
  );
});

test("what is trimmed moves the floor, and takes its memory along", () => {
  const window = new Window({ ...BOUNDLESS, age: 100 });
  const event = (ms: number): Event => ({
    id: { ms, seq: 0 },
    time: ms,
    topic: `t${ms}`,
    users: [ms],
    key: "k",
    message: "1",
  });
  for (const ms of [1000, 1050, 1090]) window.append(event(ms));
  const before = window.bytes;
  window.trim(1150);
  expect(window.floor).toEqual({ ms: 1050, seq: 0 });
  expect(window.count).toBe(1);
  expect(window.bytes).toBeLessThan(before / 2);
  window.trim(2000);
  expect([window.count, window.bytes]).toEqual([0, 0]);
});

test("very much that is too old at once is dropped in several turns", () => {
  const window = new Window({ ...BOUNDLESS, age: 1000 });
  for (let seq = 0; seq < 12_000; seq++) window.append({ id: { ms: 1, seq }, time: 1, topic: "a", message: "1" });
  const left: number[] = [];
  while (window.trim(2000)) left.push(window.count);
  expect(left).toEqual([7000, 2000]);
  expect(window.count).toBe(0);
});

test("the bytes setting bounds what is kept", () => {
  const window = new Window({ ...BOUNDLESS, bytes: 100_000 });
  for (let ms = 1; ms <= 1000; ms++)
    window.append({ id: { ms, seq: 0 }, time: ms, topic: "a", message: `"${"x".repeat(1000)}"` });
  expect(window.bytes).toBeLessThanOrEqual(100_000);
  expect(window.count).toBeGreaterThan(50);
  expect(window.count).toBeLessThan(100);
});
