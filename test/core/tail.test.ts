import fc from "fast-check";
import { expect, test } from "vitest";
import { type Event, isFor, replacementKey } from "../../src/core/event.js";
import { compareIds, type EventId, ZERO } from "../../src/core/id.js";
import { Tail } from "../../src/core/tail.js";
import { matchesTopic } from "../../src/core/topics.js";

/** As many events as a tail keeps, and as many characters of their messages. */
const MOST = { events: 2048, characters: 8 * 1024 * 1024 };

/** Some have more users than are compared one by one. */
const users = fc.oneof(
  fc.uniqueArray(fc.constantFrom<string | number>(1, 2, "bob"), { minLength: 1 }),
  fc
    .uniqueArray(fc.constantFrom<string | number>(1, "bob"))
    .map((some) => [...some, ...Array.from({ length: 15 }, (_, index) => `user ${index}`)]),
);
const draft = fc.record(
  {
    topic: fc.constantFrom("a", "b", "a.x", "a.y", "b.x"),
    users,
    key: fc.constantFrom("k", "l"),
    message: fc.constant('"m"'),
  },
  { requiredKeys: ["topic", "message"] },
);
const query = fc.record({
  after: fc.nat({ max: 40 }),
  until: fc.option(fc.nat({ max: 40 }), { nil: undefined }),
  topics: fc.uniqueArray(fc.constantFrom("a", "b", "a.*", "*.x", ">", "b.x", "none")),
  user: fc.constantFrom("1", "2", "bob", "user 14", "eve"),
  limit: fc.integer({ min: 1, max: 10 }),
});

function at(ms: number): EventId {
  return { ms, seq: 0 };
}

function eventAt(ms: number, more: Partial<Event> = {}): Event {
  return { id: at(ms), time: ms, topic: "a", message: "1", ...more };
}

/** Reads on to the end. Each reading gets on, and what it has read comes before the place that it got to. */
function readAll(tail: Tail, asked: Parameters<Tail["read"]>[0]): { events: Event[]; readings: number } {
  const events: Event[] = [];
  let readings = 0;
  for (let after: EventId | undefined = asked.after; after; readings++) {
    const reading: ReturnType<Tail["read"]> = tail.read({ ...asked, after });
    events.push(...reading.events);
    const { through } = reading;
    if (through) expect(compareIds(through, after)).toBeGreaterThan(0);
    expect(reading.events.every(({ id }) => !through || compareIds(id, through) <= 0)).toBe(true);
    expect(reading.events.length).toBeLessThanOrEqual(asked.limit);
    after = through;
  }
  return { events, readings };
}

test("reading gives what filtering the newest events would give, without those that were replaced or trimmed", () => {
  fc.assert(
    fc.property(fc.array(draft, { maxLength: 40 }), query, fc.nat({ max: 40 }), (drafts, asked, trimmed) => {
      const events = drafts.map((each, index) => eventAt(index + 1, each));
      const tail = new Tail(ZERO);
      const left: Event[] = [];
      for (const event of events) {
        const key = replacementKey(event);
        const old = left.findIndex((other) => key !== undefined && replacementKey(other) === key);
        for (const { id } of old >= 0 ? left.splice(old, 1) : []) tail.replace(id);
        left.push(event);
        tail.append(event);
        if (event.id.ms === trimmed) tail.dropThrough(event.id);
      }
      const floor = trimmed <= events.length ? at(trimmed) : ZERO;
      expect(tail.floor).toEqual(floor);
      const [after, until] = [
        at(Math.max(asked.after, floor.ms)),
        asked.until === undefined ? undefined : at(asked.until),
      ];
      const expected = left
        .filter(({ id }) => compareIds(id, after) > 0 && (!until || compareIds(id, until) <= 0))
        .filter((event) => isFor(event, asked.user) && asked.topics.some((name) => matchesTopic(name, event.topic)));
      expect(readAll(tail, { ...asked, after, until }).events).toEqual(expected);
    }),
    { numRuns: 3000 },
  );
});

test("a reading of many events by many patterns ends where its work is done, and the next one goes on from there", () => {
  const tail = new Tail(ZERO);
  const events = Array.from({ length: MOST.events }, (_, index) =>
    eventAt(index + 1, { topic: `${"a.".repeat(60)}x` }),
  );
  for (const event of events) tail.append(event);
  const topics = Array.from({ length: 150 }, (_, index) => `${"*.".repeat(60)}${index === 149 ? "x" : index}`);
  const { events: read, readings } = readAll(tail, { after: ZERO, topics, user: "1", limit: MOST.events });
  expect(read).toEqual(events);
  expect(readings).toBeGreaterThan(1);
});

test("through is how far a reading got that ended before the end of the tail, also when it found nothing there", () => {
  const tail = new Tail(ZERO);
  for (let ms = 1; ms <= 3; ms++) tail.append(eventAt(ms));
  const asked = { after: ZERO, topics: ["a"], user: "1" };
  expect(tail.read({ ...asked, limit: 2 })).toEqual({ events: [eventAt(1), eventAt(2)], through: at(2) });
  expect(tail.read({ ...asked, limit: 10 })).toEqual({ events: [1, 2, 3].map((ms) => eventAt(ms)) });
  expect(tail.read({ ...asked, until: at(1), limit: 10 })).toEqual({ events: [eventAt(1)] });
  expect(tail.read({ ...asked, after: at(3), limit: 10 })).toEqual({ events: [] });
});

test("it keeps so many events: an older one moves the floor when it goes, one that was replaced too", () => {
  const tail = new Tail(at(5));
  expect(tail.floor).toEqual(at(5));
  for (let ms = 10; ms < 10 + MOST.events; ms++) tail.append(eventAt(ms));
  expect(tail.floor).toEqual(at(5));
  tail.replace(at(11));
  tail.append(eventAt(5000));
  expect(tail.floor).toEqual(at(10));
  tail.append(eventAt(5001));
  expect(tail.floor).toEqual(at(11));
  const { events } = readAll(tail, { after: tail.floor, topics: ["a"], user: "1", limit: 100 });
  expect(events).toHaveLength(MOST.events);
  expect(events[0]?.id).toEqual(at(12));
});

test("it keeps so many characters, and not even one event that has more", () => {
  const tail = new Tail(ZERO);
  const message = "x".repeat(MOST.characters / 8);
  for (let ms = 1; ms <= 8; ms++) tail.append(eventAt(ms, { message }));
  expect(tail.floor).toEqual(ZERO);
  tail.append(eventAt(9));
  expect(tail.floor).toEqual(at(1));
  tail.append(eventAt(10, { message: `${"x".repeat(MOST.characters)}.` }));
  expect(tail.floor).toEqual(at(10));
  expect(tail.read({ after: at(10), topics: [">"], user: "1", limit: 10 })).toEqual({ events: [] });
  // What went gave its room back.
  for (let ms = 11; ms <= 18; ms++) tail.append(eventAt(ms, { message }));
  expect(tail.floor).toEqual(at(10));
});

test("what is replaced or trimmed may be in the tail no more, or never have been", () => {
  const tail = new Tail(at(5));
  for (const ms of [10, 20, 30]) tail.append(eventAt(ms));
  for (const ms of [3, 15, 40]) tail.replace(at(ms));
  tail.dropThrough(at(3));
  expect(tail.floor).toEqual(at(5));
  // The log's floor may stand between two events, and after the last one.
  tail.dropThrough(at(15));
  expect(tail.floor).toEqual(at(15));
  expect(readAll(tail, { after: at(15), topics: ["a"], user: "1", limit: 9 }).events.map(({ id }) => id.ms)).toEqual([
    20, 30,
  ]);
  tail.dropThrough(at(35));
  expect(tail.floor).toEqual(at(35));
  tail.append(eventAt(50));
  expect(readAll(tail, { after: at(35), topics: ["a"], user: "1", limit: 9 }).events).toEqual([eventAt(50)]);
});
