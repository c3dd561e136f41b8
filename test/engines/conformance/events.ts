import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { Engine, EngineReading, Entry, Query } from "../../../src/core/engine.js";
import type { EventDraft } from "../../../src/core/event.js";
import { compareIds, type EventId, formatId } from "../../../src/core/id.js";
import {
  addClient,
  C1,
  C2,
  changeClient,
  draft,
  hasGap,
  Listener,
  type MakeLog,
  newClient,
  onlyId,
  openLog,
  type Power,
  present,
  readAll,
  topicsAfter,
} from "./support.js";

/** Events: what is read of them, what replaces them, and what is trimmed. */
export function testEvents(make: MakeLog, powers: readonly Power[]): void {
  /** An engine, and where its log begins. */
  const setUp = async (count?: number) => {
    const engine = await (await openLog(make, count === undefined ? {} : { count }))();
    const { listener } = await Listener.on(engine, "here");
    const [bounds] = listener.bounds;
    if (!bounds) throw new Error("the follower was not told the bounds");
    return { engine, listener, start: bounds.origin };
  };

  describe("keeps events", () => {
    test("as they were published, for the topics and the user that are asked for, after a cursor", async () => {
      const { engine, start, listener } = await setUp();
      const full = { topic: "a.b", users: [1, "bob"], message: '{"x":"ä"}', ttl: 60, key: "k", attributes: "{}" };
      const { ids } = await engine.append([full, draft("a.c"), { ...draft("a.b"), users: [2] }, draft("z")]);
      const [first] = await readAll(engine, start, { topics: ["a.b"], user: "1" });
      expect(first).toEqual({ ...full, id: ids[0], time: ids[0]?.ms });
      expect(listener.entries[0]).toEqual({ kind: "event", event: first });
      expect(await topicsAfter(engine, start, { topics: ["a.*"], user: "bob" })).toEqual(["a.b", "a.c"]);
      expect(await topicsAfter(engine, start, { topics: [">"], user: "2" })).toEqual(["a.c", "a.b", "z"]);
      expect(await topicsAfter(engine, ids[0] as EventId, { topics: ["a.>"], user: "1" })).toEqual(["a.c"]);
      expect(await topicsAfter(engine, start, { topics: [">"], user: "2", until: ids[2] })).toEqual(["a.c", "a.b"]);
    });

    test("a few at a time, each once; and with a limit of 0 none, which tells of gaps only", async () => {
      const { engine, start } = await setUp();
      const { ids } = await engine.append(Array.from({ length: 20 }, (_, index) => draft(index % 2 ? "a" : "b")));
      const few = await engine.read({ after: start, topics: ["a"], user: "1", limit: 2 });
      expect(few.events.map(({ id }) => id)).toEqual([ids[1], ids[3]]);
      expect(few.through).toBeDefined();
      const asked = { topics: ["a"], limit: 3 };
      expect((await readAll(engine, start, asked)).map(({ id }) => id)).toEqual(ids.filter((_, index) => index % 2));
      const none = await engine.read({ after: start, topics: [">"], user: "1", limit: 0 });
      expect(none).toMatchObject({ events: [], gap: false, floor: start });
      // Also when these are not among the newest any more.
      for (let index = 0; index < 10; index++) await engine.append([draft("later")]);
      // A reading that has got to where it was to end does not say how far it got.
      for (const [index, until] of ids.entries()) {
        const { events, through } = await engine.read({ after: start, until, topics: ["a"], user: "1", limit: 100 });
        expect(events.map(({ id }) => id)).toEqual(ids.filter((_, place) => place <= index && place % 2));
        expect(through).toBeUndefined();
      }
    });

    test("on many topics, read with many subscriptions", async () => {
      const { engine, start } = await setUp();
      const topics = Array.from({ length: 500 }, (_, index) => `t.${index}.${index % 7}`);
      const { ids } = await engine.append(topics.map((topic) => draft(topic)));
      expect(await topicsAfter(engine, start, { topics: topics.slice(0, 400), limit: 100 })).toEqual(
        topics.slice(0, 400),
      );
      const read = await readAll(engine, start, { topics: ["t.*.3", "t.5.>", "u.*"], limit: 10 });
      expect(read.map(({ topic }) => topic)).toEqual(
        topics.filter((topic) => topic.endsWith(".3") || topic.startsWith("t.5.")),
      );
      expect(await topicsAfter(engine, ids.at(-2) as EventId, {})).toEqual([topics.at(-1)]);
    });

    test("but not those with ttl 0, which followers get all the same", async () => {
      const { engine, start, listener } = await setUp();
      const { ids } = await engine.append([{ ...draft("a"), ttl: 0 }, draft("b")]);
      expect(listener.ids).toEqual(ids);
      expect(await topicsAfter(engine, start)).toEqual(["b"]);
    });

    test("but not those that a later one replaces, of which followers are told", async () => {
      const { engine, start, listener } = await setUp();
      const { ids } = await engine.append([
        { ...draft("a"), key: "k", message: "1" },
        { ...draft("a"), key: "k", users: [1], message: "2" },
        { ...draft("b"), key: "k", message: "3" },
        { ...draft("a"), key: "k", message: "4" },
      ]);
      const left = await readAll(engine, start, { user: "1" });
      expect(left.map(({ message }) => message)).toEqual(["2", "3", "4"]);
      const replaced = listener.entries.map((entry) => (entry.kind === "event" ? entry.replaces : undefined));
      expect(replaced).toEqual([undefined, undefined, undefined, ids[0]]);
      // One that is not kept takes the place of one that is.
      const last = onlyId(await engine.append([{ ...draft("a"), key: "k", ttl: 0 }]));
      expect(listener.entries.at(-1)).toMatchObject({ event: { id: last }, replaces: ids[3] });
      expect((await readAll(engine, start, { user: "1" })).map(({ message }) => message)).toEqual(["2", "3"]);
    });
  });

  test("loses nothing without a gap, also of what is trimmed while it is read", async () => {
    const open = await openLog(make, { count: 20 });
    const [one, two] = [await open(), await open()];
    const { listener } = await Listener.on(two, "here");
    const all = await one.append(Array.from({ length: 60 }, (_, index) => draft(topicAt(index))));
    const ids = [...all.ids];
    for (let round = 0; round < 30; round++) {
      const starts = [0, 1, 5, 15, 19, 20, 21, 25, 60].map((back) => ids.at(-1 - back) ?? (ids[0] as EventId));
      const readings = starts.flatMap((after) =>
        ["a", "rare", ">"].map(async (topic) => {
          const query = { after, topics: [topic], user: "1", limit: 3 };
          return { query, ...(await two.read(query)) };
        }),
      );
      const drafts = Array.from({ length: 10 }, (_, index) => draft(topicAt(ids.length + index)));
      const appending = drafts.map((each) => one.append([each]));
      const done = await Promise.all(readings);
      ids.push(...(await Promise.all(appending)).map(onlyId));
      await listener.until(() => listener.ids.length === ids.length);
      for (const reading of done) expect(lostBy(reading, listener.entries)).toEqual([]);
    }
  });

  if (powers.includes("kept receipts")) {
    test("keeps whom an event matched, as its relay has noted it, and what replaced the event", async () => {
      const engine = await (await openLog(make))();
      const receipts = present(engine.receipts);
      class Noting extends Listener {
        override follow(entry: Entry): void {
          super.follow(entry);
          if (entry.kind === "event") receipts.note(entry.event.id, { id: "one", clients: [{ id: C1 }, { id: C2 }] });
        }
      }
      await engine.follow(new Noting("here"));
      const { version } = await addClient(engine, newClient(C1));
      await addClient(engine, newClient(C2));
      const [first, second] = [
        onlyId(await engine.append([{ ...draft("a"), key: "k", users: [1] }])),
        onlyId(await engine.append([{ ...draft("a"), key: "k", users: [1] }])),
      ];
      const kept = present(await receipts.find(first));
      expect(kept.head).toMatchObject({ id: first, topic: "a", key: "k", users: [1] });
      expect(kept.replacedBy).toEqual(second);
      expect(kept.matched?.map(({ id }) => id)).toEqual([C1, C2]);
      await changeClient(engine, { client: C1, record: undefined, expect: version });
      const later = await receipts.find(second);
      expect(later?.matched?.map(({ id, place }) => [id, place !== undefined])).toEqual([
        [C1, false],
        [C2, true],
      ]);
      expect(later?.replacedBy).toBeUndefined();
      expect(await receipts.find({ ms: first.ms, seq: first.seq + 1_000_000 })).toBeUndefined();
    });
  }

  describe.each([
    ["one by one", false],
    ["together", true],
  ])("tells which readers miss what was trimmed, appended %s:", (_, together) => {
    const trimming = async (count: number) => {
      const { engine, listener, start } = await setUp(count);
      const append = (drafts: readonly EventDraft[]) => appended(engine, drafts, together);
      /** Waits until the log has nothing up to this id any more. */
      const trimmedTo = async (floor: EventId) => {
        await listener.until(() => compareIds(listener.floors.at(-1) ?? start, floor) >= 0);
        expect(formatId(listener.floors.at(-1) ?? start)).toBe(formatId(floor));
      };
      return { engine, start, append, trimmedTo };
    };

    test("a reader for whom nothing was trimmed, and one for whom something was", async () => {
      const { engine, start, append, trimmedTo } = await trimming(3);
      const ids = await append(["before", "a.x", "other", "b", "b", "b"].map((topic) => draft(topic)));
      const [before, trimmed, floor] = ids as [EventId, EventId, EventId];
      await trimmedTo(floor);
      for (const after of [start, before]) {
        expect(await hasGap(engine, ["quiet", "quiet.*"], after)).toBe(false);
        for (const topic of ["a.x", "a.*", "a.>", "*.x", ">", "*.*"]) {
          expect(await hasGap(engine, ["quiet", topic], after), topic).toBe(true);
        }
        for (const topic of ["a", "a.x.>", "x.*", "*.y"])
          expect(await hasGap(engine, [topic], after), topic).toBe(false);
      }
      expect(await hasGap(engine, ["a.x"], trimmed)).toBe(false);
      expect(await hasGap(engine, ["a.x", "a.*"], { ...trimmed, seq: trimmed.seq + 1 })).toBe(false);
      expect(await hasGap(engine, [">"], trimmed)).toBe(true);
      expect(await hasGap(engine, [">"], floor)).toBe(false);
      // What is still there is not missed, and can be read.
      expect(await hasGap(engine, ["b"], start)).toBe(false);
      expect((await readAll(engine, start)).map(({ id }) => id)).toEqual(ids.slice(3));
    });

    test("an event for users is missed by these", async () => {
      const { engine, start, append, trimmedTo } = await trimming(2);
      const ids = await append([{ ...draft("a"), users: [1, "bob"] }, draft("b"), draft("b"), draft("b")]);
      await trimmedTo(ids[1] as EventId);
      for (const topics of [["a"], ["*"], [">"]]) expect(await hasGap(engine, topics, start, "bob")).toBe(true);
      expect(await hasGap(engine, ["c", "a"], start, "1")).toBe(true);
      expect(await hasGap(engine, ["a"], start, "2")).toBe(false);
      expect(await hasGap(engine, ["a"], start, "bo")).toBe(false);
      expect(await hasGap(engine, ["b.*", "c"], start, "bob")).toBe(false);
    });

    test("an event that was replaced before is not missed, its replacement is", async () => {
      const { engine, start, append, trimmedTo } = await trimming(3);
      const keyed = { ...draft("a"), key: "k" };
      const [, floor, replacement] = await append([keyed, draft("b"), keyed, draft("b"), draft("b")]);
      await trimmedTo(floor as EventId);
      expect(await hasGap(engine, ["a"], start)).toBe(false);
      await trimmedTo((await append([draft("b"), draft("b"), draft("b"), draft("b")]))[0] as EventId);
      expect(await hasGap(engine, ["a"], start)).toBe(true);
      expect(await hasGap(engine, ["a"], replacement as EventId)).toBe(false);
    });

    test("an event that had expired is not missed, and one that was never kept", async () => {
      const { engine, start, append, trimmedTo } = await trimming(2);
      await append([1, 600].map((ttl) => ({ ...draft(`ttl.${ttl}`), ttl })));
      await engine.append([{ ...draft("ttl.0"), ttl: 0 }]);
      vi.useFakeTimers({ now: Date.now() + 2000, toFake: ["Date"] });
      onTestFinished(() => void vi.useRealTimers());
      await trimmedTo((await append([draft("b"), draft("b"), draft("b"), draft("b")]))[1] as EventId);
      for (const [topic, gap] of [
        ["ttl.0", false],
        ["ttl.1", false],
        ["ttl.600", true],
      ] as const) {
        expect(await hasGap(engine, [topic], start), topic).toBe(gap);
      }
    });
  });
}

/** Appends one by one or all at once. */
async function appended(engine: Engine, drafts: readonly EventDraft[], together: boolean): Promise<EventId[]> {
  const batches = together ? [drafts] : drafts.map((one) => [one]);
  const ids: EventId[] = [];
  for (const batch of batches) ids.push(...(await engine.append(batch)).ids);
  return ids;
}

function topicAt(index: number): string {
  return index % 37 === 0 ? "rare" : (["a", "b"][index % 2] as string);
}

/** Events that a reading passed over without a word. */
function lostBy(
  { query, events, through, floor, gap }: EngineReading & { query: Query },
  entries: readonly Entry[],
): string[] {
  const end = through ?? events.at(-1)?.id ?? query.after;
  const read = new Set(events.map(({ id }) => formatId(id)));
  return entries.flatMap((entry) => {
    if (entry.kind !== "event" || (query.topics[0] !== ">" && query.topics[0] !== entry.event.topic)) return [];
    const { id } = entry.event;
    const isPassed = compareIds(id, query.after) > 0 && compareIds(id, end) <= 0;
    const isSaid = read.has(formatId(id)) || (gap && compareIds(id, floor) <= 0);
    return isPassed && !isSaid ? [formatId(id)] : [];
  });
}
