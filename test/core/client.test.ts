import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import {
  type ClientRecord,
  isLost,
  topicsOf,
  weightOf,
  withAllow,
  withLoss,
  withPosition,
  withTopics,
} from "../../src/core/client.js";
import { type EventId, ZERO } from "../../src/core/id.js";

const MEBIBYTE = 1024 * 1024;

function id(ms: number): EventId {
  return { ms, seq: 0 };
}

/** As long as topics may be, and none twice. */
function longTopics(count: number, name: string): string[] {
  return Array.from({ length: count }, (_, index) => `${name}.${index}.`.padEnd(255, "x"));
}

function clientWith(topics: readonly string[]): ClientRecord {
  const subscriptions = [{ from: id(1), topics }];
  const places = { cursor: id(1), confirmed: id(1), lost: [], gap: false, node: "this one" };
  return { id: "a".repeat(32), userId: 1, subscriptions, rooms: [], ttl: 300, ...places };
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
    expect(record.gap).toBe(true);
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

  test("keeps what it is owed when single topics change, and is told of a gap after 64 changes", () => {
    const topics = longTopics(990, "topic");
    let record = clientWith(topics);
    for (let at = 2; at <= 64; at++) {
      record = withTopics(record, at % 2 ? { leave: "room" } : { join: "room" }, id(at));
    }
    expect(record).toMatchObject({ gap: false, lost: [] });
    expect(record.subscriptions).toHaveLength(64);
    record = withTopics(record, { leave: "room" }, id(65));
    expect(record).toMatchObject({ gap: true, cursor: id(2), lost: [{ after: id(1), through: id(2) }] });
    expect(record.subscriptions).toHaveLength(64);
  });

  test("is told of a gap when its changes take more than 1 MiB, and has lost only the oldest", () => {
    const lists = [0, 1, 2, 3, 4].map((index) => longTopics(900, `list.${index}`));
    const record = changedWith(clientWith(lists[0] as string[]), lists.slice(1));
    expect(record.subscriptions.map(({ from }) => from)).toEqual([1, 2, 3, 4, 5].map(id));
    const one = withTopics(record, { set: longTopics(900, "more") }, id(6));
    expect(one.subscriptions.map(({ from }) => from)).toEqual([2, 3, 4, 5, 6].map(id));
    expect(one).toMatchObject({ gap: true, cursor: id(2), lost: [{ after: id(1), through: id(2) }] });
  });
});

describe("a client that goes back", () => {
  test("again and again keeps as many lists as after the first time", () => {
    let record = changedWith(clientWith(["a"]), [["a", "b"], ["c"]]);
    record = withPosition({ ...record, cursor: id(1) }, { ms: 0, seq: 90 }, undefined);
    const { subscriptions } = record;
    for (let seq = 89; seq > 0; seq--) record = withPosition(record, { ms: 0, seq }, undefined);
    expect(record.subscriptions.map(({ topics }) => topics)).toEqual(subscriptions.map(({ topics }) => topics));
    expect(record.subscriptions.map(({ from }) => from.ms)).toEqual([0, 1, 2, 3]);
    expect(record.gap).toBe(false);
  });

  test("loses what it is owed on other topics, and is told so, when both together are too much", () => {
    const lists = [0, 1, 2, 3, 4].map((index) => longTopics(900, `list.${index}`));
    const record = changedWith(clientWith(lists[0] as string[]), lists.slice(1));
    const back = withPosition(record, { ms: 0, seq: 5 }, undefined);
    expect(back.gap).toBe(true);
    expect(back.subscriptions).toEqual([{ from: ZERO, topics: lists[4] }]);
    expect(isLost(back, { id: id(3), topic: lists[1]?.[0] as string })).toBe(true);
    expect(isLost(back, { id: id(3), topic: lists[4]?.[0] as string })).toBe(false);
    expect(isLost(back, { id: id(6), topic: "a" })).toBe(false);
  });
});

describe("exceptions of what passed a client by", () => {
  const lossAt = (ms: number, except: readonly string[]) => ({ after: id(ms), through: id(ms + 1), except });

  test("take 256 KiB at most; without them everything of the stretch counts as lost, for good", () => {
    let record = clientWith(["a"]);
    for (let ms = 10; ms < 26; ms++) record = withLoss(record, lossAt(ms, longTopics(500, `kept.${ms}`)));
    expect(weightOf(record)).toBeLessThan(300 * 1024);
    const topic = (ms: number): string => longTopics(1, `kept.${ms}`)[0] as string;
    expect(isLost(record, { id: id(26), topic: topic(25) })).toBe(false);
    expect(isLost(record, { id: id(25), topic: topic(24) })).toBe(false);
    expect(isLost(record, { id: id(24), topic: topic(23) })).toBe(true);
    const back = withPosition({ ...record, cursor: id(30) }, id(5), undefined);
    expect(isLost(back, { id: id(24), topic: topic(23) })).toBe(true);
  });

  test("are dropped where stretches are put together", () => {
    let record = clientWith(["a"]);
    for (let ms = 10; ms < 27; ms++) record = withLoss(record, lossAt(ms, ["kept"]));
    expect(record.lost).toHaveLength(16);
    expect(record.lost[0]).toEqual({ after: id(10), through: id(12), except: [] });
    expect(isLost(record, { id: id(12), topic: "kept" })).toBe(true);
  });
});

test("lists that a change leaves as they are stay the same lists", () => {
  const topics = ["a.1", "b.1", "room"];
  const first = { ...clientWith(topics), rooms: ["room"] };
  const record = withTopics(first, { add: ["b.2"] }, id(2));
  expect(record.rooms).toBe(first.rooms);
  const covers = (name: string): boolean => name !== "b.2";
  const narrowed = withAllow(record, { subscribe: [] }, covers, id(3), id(3));
  expect(narrowed.subscriptions[0]?.topics).toBe(topics);
  expect(narrowed.subscriptions[1]?.topics).toEqual(topics);
  expect(narrowed.rooms).toBe(first.rooms);
});

test("weighing a client again takes no look at its topics", () => {
  const lists = Array.from({ length: 64 }, (_, index) => [...longTopics(900, "all"), `more.${index}`]);
  const record = changedWith(clientWith([]), lists);
  const weight = weightOf(record);
  const began = performance.now();
  for (let round = 0; round < 1000; round++) expect(weightOf(record)).toBe(weight);
  // With a look at each of 58,000 topics it takes more than a second.
  expect(performance.now() - began).toBeLessThan(200);
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
