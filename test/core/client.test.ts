import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import {
  type ClientRecord,
  isOwed,
  lostEnd,
  lostUntil,
  topicsOf,
  weightOf,
  withCursor,
  withPosition,
  withTopics,
} from "../../src/core/client.js";
import type { EventId } from "../../src/core/id.js";
import { takenAt, withAllow } from "../../src/core/narrowing.js";
import { LIVE, NEVER } from "../../src/core/moment.js";
import { clientRecord } from "../support/engine.js";

const MEBIBYTE = 1024 * 1024;

function id(ms: number): EventId {
  return { ms, seq: 0 };
}

/** As long as topics may be, and none twice. */
function longTopics(count: number, name: string): string[] {
  return Array.from({ length: count }, (_, index) => `${name}.${index}.`.padEnd(255, "x"));
}

function clientWith(topics: readonly string[]): ClientRecord {
  return clientRecord({ topics }, id(1));
}

/** The client after changes at 2, 3, 4 …, with its cursor where it was. */
function changedWith(record: ClientRecord, lists: readonly (readonly string[])[]): ClientRecord {
  return lists.reduce<ClientRecord>((before, set, index) => withTopics(before, { set }, id(index + 2)), record);
}

const collectGarbage = ((): (() => void) => {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
})();

function heap(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}

describe("a client that is behind", () => {
  test("takes 2 MiB of memory at most, however often and however its topics change", () => {
    const before = heap();
    const lists = Array.from({ length: 200 }, (_, index) => longTopics(999, `other.${index}`));
    const record = changedWith(clientWith([]), lists);
    lists.length = 0;
    expect(heap() - before).toBeLessThan(2 * MEBIBYTE);
    expect(weightOf(record)).toBeLessThan(2 * MEBIBYTE);
    expect(lostUntil(record, id(1))).toBeDefined();
    expect(topicsOf(record)).toHaveLength(999);
  });

  test("takes no more memory for topics that it names again and again", () => {
    const before = heap();
    let record = clientWith([]);
    // Parsed each time, as they come from outside: other strings, though they are equal. All of them would take 15 MB.
    const texts = [999, 998].map((count) => JSON.stringify(longTopics(count, "same")));
    for (let at = 2; at < 60; at++) {
      record = withTopics(record, { set: JSON.parse(texts[at % 2] as string) as string[] }, id(at));
    }
    expect(record.subscriptions).toHaveLength(59);
    expect(heap() - before).toBeLessThan(3 * MEBIBYTE);
    expect(weightOf(record)).toBeLessThan(MEBIBYTE);
  });

  test("keeps what it is owed when single topics change, and is told of a gap after 256 changes", () => {
    const topics = longTopics(990, "topic");
    const change = (before: ClientRecord, at: number): ClientRecord =>
      withTopics(before, at % 2 ? { leave: "room" } : { join: "room" }, id(at));
    let record = clientWith(topics);
    for (let at = 2; at <= 125; at++) record = change(record, at);
    // Lists of a thousand topics are more than 1 MiB before they are that many.
    expect(lostUntil(record, id(1))).toBeUndefined();
    record = clientWith(["a"]);
    for (let at = 2; at <= 256; at++) record = change(record, at);
    expect(lostUntil(record, id(1))).toBeUndefined();
    expect(record.subscriptions).toHaveLength(256);
    for (let at = 257; at < 267; at++) {
      record = change(record, at);
      expect(lostUntil(record, id(1))).toEqual(id(at - 255));
      expect(record).toMatchObject({ cursor: id(1) });
      expect(record.subscriptions).toHaveLength(257);
    }
    expect([10, 11].map((ms) => isOwed(record, { topic: "a", id: { ms, seq: 1 } }))).toEqual([false, true]);
    expect(lostUntil(withCursor(record, id(11)), id(11))).toBeUndefined();
  });

  test("is told of a gap when its changes take more than 1 MiB, and has lost only the oldest", () => {
    const lists = [0, 1, 2, 3, 4].map((index) => longTopics(900, `list.${index}`));
    const record = changedWith(clientWith(lists[0] as string[]), lists.slice(1));
    expect(record.subscriptions.map(({ from }) => from)).toEqual([1, 2, 3, 4, 5].map(id));
    const one = withTopics(record, { set: longTopics(900, "more") }, id(6));
    expect(one.subscriptions.map(({ from }) => from)).toEqual([1, 2, 3, 4, 5, 6].map(id));
    expect(one.subscriptions[0]).toEqual({ from: id(1), topics: [], isLost: true });
    expect(lostUntil(one, id(1))).toEqual(id(2));
  });
});

describe("a client that goes back", () => {
  test("again and again keeps as many lists as after the first time", () => {
    let record = changedWith(clientWith(["a"]), [["a", "b"], ["c"]]);
    record = withPosition({ ...record, cursor: id(1) }, { ms: 0, seq: 90 }, id(4));
    const { subscriptions } = record;
    for (let seq = 89; seq > 0; seq--) record = withPosition(record, { ms: 0, seq }, id(5));
    expect(record.subscriptions.map(({ topics }) => topics)).toEqual(subscriptions.map(({ topics }) => topics));
    expect(record.subscriptions.map(({ from }) => from.ms)).toEqual([0, 1, 2, 3]);
    expect(record.narrowed).toHaveLength(1);
  });

  test("stays where it is when both together are too much: it loses nothing that it is owed", () => {
    const lists = [0, 1, 2, 3, 4].map((index) => longTopics(965, `list.${index}`));
    const record = changedWith(clientWith(lists[0] as string[]), lists.slice(1));
    expect(withPosition(record, { ms: 0, seq: 5 }, id(9))).toBe(record);
    const more = withTopics(record, { set: longTopics(965, "more") }, id(9));
    expect(lostUntil(more, more.cursor)).toBeDefined();
    expect(withPosition(more, { ms: 0, seq: 5 }, id(10))).toBe(more);
  });

  test("does not get back what is lost of its history", () => {
    let record = clientWith(["a"]);
    for (let at = 2; at <= 260; at++) record = withTopics(record, { set: [at % 2 ? "a" : "b"] }, id(at));
    expect(lostUntil(record, id(1))).toBeDefined();
    const less = { ...record, subscriptions: [...record.subscriptions.slice(0, 9), ...record.subscriptions.slice(-1)] };
    const back = withPosition(less, { ms: 0, seq: 5 }, id(300));
    expect([lostUntil(back, id(0)), lostUntil(back, id(1))]).toEqual([undefined, lostUntil(less, id(1))]);
    expect(lostEnd(back)).toEqual(lostUntil(less, id(1)));
  });
});

describe("what is taken from a client with a permission", () => {
  const taken = (record: ClientRecord, ms: number, topic: string): EventId | undefined =>
    takenAt(record.narrowed, { id: { ms, seq: 1 }, topic });

  test("is what the subscriptions of then had matched and what is left of them does not", () => {
    const before = withTopics(clientWith(["a", "*.c"]), { set: ["b", "*.c"] }, id(5));
    const covers = (name: string): boolean => name === "a" || name === "a.c";
    const record = withAllow(before, {}, covers, id(9));
    expect([taken(record, 3, "a"), taken(record, 3, "a.c"), taken(record, 7, "b")]).toEqual([undefined, id(9), id(9)]);
    expect(taken(record, 9, "b")).toBeUndefined();
    const less = withAllow(record, {}, () => false, id(12));
    expect([taken(less, 3, "a"), taken(less, 3, "a.c")]).toEqual([id(12), id(9)]);
  });

  test("takes 256 KiB at most; before what is forgotten of it, only what still matches is owed", () => {
    const lists = Array.from({ length: 8 }, (_, index) => ["x", ...longTopics(200, `kept.${index}`)]);
    const received = [
      { after: id(1), through: id(30), earliest: { id: id(25), at: 25 }, latest: { id: id(25), at: 25 } },
    ];
    let record: ClientRecord = { ...changedWith(clientWith(["x", "y"]), lists), received };
    for (const at of [20, 21]) record = withAllow(record, {}, (name) => name !== "xy"[at - 20], id(at));
    expect(record.narrowed.map(({ after }) => after.ms)).toEqual([5, 6, 7, 8, 9, 1]);
    expect(record.received).toEqual([
      { after: id(1), through: id(20), earliest: LIVE, latest: NEVER },
      { ...received[0], after: id(20) },
    ]);
    const owed = (ms: number, topic: string): boolean => isOwed(record, { id: { ms, seq: 1 }, topic });
    expect([owed(3, "x"), owed(3, lists[1]?.[9] as string)]).toEqual([false, true]);
  });
});

test("lists that a change leaves as they are stay the same lists", () => {
  const topics = ["a.1", "b.1", "room"];
  const first = { ...clientWith(topics), rooms: ["room"] };
  const record = withTopics(first, { add: ["b.2"] }, id(2));
  expect(record.rooms).toBe(first.rooms);
  const covers = (name: string): boolean => name !== "b.2";
  const narrowed = withAllow(record, { subscribe: [] }, covers, id(3));
  expect(narrowed.subscriptions[0]?.topics).toBe(topics);
  expect(narrowed.subscriptions[1]?.topics).toEqual(topics);
  expect(narrowed.rooms).toBe(first.rooms);
});

test("weighing a client again takes no look at its topics", () => {
  const lists = Array.from({ length: 64 }, (_, index) => [...longTopics(900, "all"), `more.${index}`]);
  const record = changedWith(clientWith([]), lists);
  const time = (): number => {
    const began = performance.now();
    weightOf(record);
    return performance.now() - began;
  };
  const first = time();
  // The first look is at each of 58,000 topics. The median, as anything may come in between.
  const others = Array.from({ length: 101 }, time).sort((a, b) => a - b);
  expect(others[50]).toBeLessThan(first / 5);
});

test("a change that leaves the topics as they are is none", () => {
  const record = clientWith(["a", "b"]);
  for (const change of [
    { set: ["a", "b"] },
    { add: ["b"] },
    { remove: ["c"] },
    { leave: "c" },
    { set: ["a", "b", "a"] },
  ]) {
    expect(withTopics(record, change, id(2))).toBe(record);
  }
  const inRoom = withTopics(record, { join: "a" }, id(2));
  expect(inRoom).toEqual({ ...record, rooms: ["a"] });
  expect(withTopics(inRoom, { join: "a" }, id(3))).toBe(inRoom);
});
