import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { ClientRecord } from "../../src/core/client.js";
import type { Engine, Entry, Follower } from "../../src/core/engine.js";
import { compareIds, type EventId, formatId, ZERO } from "../../src/core/id.js";
import { LIVE } from "../../src/core/moment.js";
import { Log } from "../../src/core/log.js";
import { Relay } from "../../src/core/relay.js";
import type { Retention } from "../../src/engines/local/window.js";
import { open, turns } from "../support/sink.js";
import { relaySettings } from "../support/settings.js";

export interface EngineSetup {
  /**
   * An engine on storage of its own; `another` is what a second relay uses that shares this storage: the same
   * instance, or another one.
   * @param retention where it differs from one that trims nothing
   */
  readonly make: (
    retention?: Partial<Retention>,
  ) => Promise<{ engine: Engine; another: () => Promise<Engine>; close: () => Promise<void> }>;
}

interface Fixture {
  readonly engine: Engine;
  readonly another: () => Promise<Engine>;
}

/** What every engine has to do: see `Engine` for the contract in words. */
export function testEngine(name: string, { make }: EngineSetup): void {
  const setUp = async (retention?: Partial<Retention>): Promise<Fixture> => {
    const { engine, another, close } = await make(retention);
    onTestFinished(close);
    return { engine, another };
  };

  describe(`engine ${name}`, () => {
    describe("orders", () => {
      test("ids strictly increase over events and changes of clients, and followers get all of it in that order", async () => {
        const { engine } = await setUp();
        const { follower, entries } = listener("here");
        await engine.join(follower);
        const { ids } = await engine.append([draft("a"), draft("b")]);
        await engine.clients.update(C1, (_, at) => record(C1, at));
        const late = await engine.append([draft("a")]);
        await settled(() => entries.length === 4);
        const seen = entries.map(idOf);
        expect(seen).toEqual([...ids, seen[2], ...late.ids]);
        for (const [index, id] of seen.slice(1).entries())
          expect(compareIds(seen[index] as EventId, id)).toBeLessThan(0);
        expect(entries.map(({ kind }) => kind)).toEqual(["event", "event", "client", "event"]);
        expect(compareIds(engine.head, seen.at(-1) as EventId)).toBeGreaterThanOrEqual(0);
      });

      test("ids of requests that overlap are all different", async () => {
        const { engine } = await setUp();
        const appended = await Promise.all(Array.from({ length: 200 }, () => engine.append([draft("a"), draft("b")])));
        expect(new Set(appended.flatMap(({ ids }) => ids.map(formatId))).size).toBe(400);
      });

      test("an event is readable when its followers get it, and when its append is answered", async () => {
        const { engine } = await setUp();
        const found: number[] = [];
        await engine.join({
          ...listener("here").follower,
          follow: () => {
            found.push(engine.window.read({ after: engine.floor, ...ALL }).events.length);
            return [];
          },
        });
        await engine.append([draft("a"), draft("a")]);
        expect(found).toEqual([1, 2]);
        expect(await read(engine, engine.floor)).toHaveLength(2);
      });

      test("what left does not follow any more", async () => {
        const { engine } = await setUp();
        const { follower, entries } = listener("here");
        const leave = await engine.join(follower);
        await leave();
        await engine.append([draft("a")]);
        expect(entries).toEqual([]);
      });
    });

    describe("keeps events", () => {
      test("as they were published, for the topics and the user that are asked for, after a cursor", async () => {
        const { engine } = await setUp();
        const start = engine.head;
        const full = { topic: "a.b", users: [1, "bob"], message: '{"x":"ä"}', ttl: 60, key: "k", attributes: "{}" };
        const { ids } = await engine.append([full, draft("a.c"), { ...draft("a.b"), users: [2] }, draft("z")]);
        const [first] = await read(engine, start, { topics: ["a.b"], user: "1" });
        expect(first).toEqual({ ...full, id: ids[0], time: ids[0]?.ms });
        expect(await topicsAfter(engine, start, { topics: ["a.*"], user: "bob" })).toEqual(["a.b", "a.c"]);
        expect(await topicsAfter(engine, start, { topics: [">"], user: "2" })).toEqual(["a.c", "a.b", "z"]);
        expect(await topicsAfter(engine, ids[0] as EventId, { topics: ["a.>"], user: "1" })).toEqual(["a.c"]);
        expect(await topicsAfter(engine, start, { topics: [">"], user: "1", limit: 2 })).toEqual(["a.b", "a.c"]);
        expect(await topicsAfter(engine, start, { topics: [">"], user: "2", until: ids[2] })).toEqual(["a.c", "a.b"]);
      });

      test("but not those with ttl 0, and not those that a later one replaces", async () => {
        const { engine } = await setUp();
        const { follower, entries } = listener("here");
        await engine.join(follower);
        await engine.append([{ ...draft("a"), ttl: 0 }]);
        const { ids } = await engine.append([
          { ...draft("a"), key: "k", message: "1" },
          { ...draft("a"), key: "k", users: [1], message: "2" },
          { ...draft("b"), key: "k", message: "3" },
          { ...draft("a"), key: "k", message: "4" },
        ]);
        await settled(() => entries.length === 5);
        const left = await read(engine, engine.origin, { user: "1" });
        expect(left.map(({ message }) => message)).toEqual(["2", "3", "4"]);
        const replacing = entries.flatMap((entry) =>
          entry.kind === "event" && entry.replaces ? [entry.replaces.id] : [],
        );
        expect(replacing).toEqual([ids[0]]);
      });
    });

    describe("tells which readers miss what was trimmed", () => {
      type Drafts = Parameters<Engine["append"]>[0];

      /** Appends one by one or all at once, and lets the engine trim. */
      const appended = async (engine: Engine, drafts: Drafts, together: boolean): Promise<EventId[]> => {
        const batches = together ? [drafts] : drafts.map((one) => [one]);
        const ids: EventId[] = [];
        for (const batch of batches) ids.push(...(await engine.append(batch)).ids);
        await engine.probe();
        return ids;
      };
      const quiet = { topics: ["quiet", "quiet.*"], user: "1" };

      describe.each([
        ["one by one", false],
        ["together", true],
      ])("appended %s", (_, together) => {
        test("a reader for whom nothing was trimmed, and one for whom something was", async () => {
          const { engine } = await setUp({ count: 3 });
          const drafts = [
            draft("before"),
            draft("a.x"),
            draft("other"),
            ...Array.from({ length: 3 }, () => draft("b")),
          ];
          const ids = await appended(engine, drafts, together);
          const [before, trimmed, floor] = ids as [EventId, EventId, EventId];
          expect(engine.floor).toEqual(floor);
          const asks = (topics: string[], after: EventId) => engine.trimmed({ topics, user: "1", after });
          for (const after of [engine.origin, before]) {
            expect(await engine.trimmed({ ...quiet, after })).toBe(false);
            for (const topic of ["a.x", "a.*", "a.>", "*.x", ">", "*.*"]) {
              expect(await asks(["quiet", topic], after), topic).toBe(true);
            }
            for (const topic of ["a", "a.x.>", "x.*", "*.y"]) expect(await asks([topic], after), topic).toBe(false);
          }
          expect(await asks(["a.x"], trimmed)).toBe(false);
          expect(await asks(["a.x", "a.*"], { ...trimmed, seq: trimmed.seq + 1 })).toBe(false);
          expect(await asks([">"], trimmed)).toBe(true);
          expect(await asks([">"], floor)).toBe(false);
          // What is still there is not missed.
          expect(await asks(["b"], engine.origin)).toBe(false);
          expect(await asks([">"], { ms: engine.origin.ms - 1, seq: 0 })).toBe(true);
        });

        test("an event for users is missed by these", async () => {
          const { engine } = await setUp({ count: 2 });
          const drafts = [{ ...draft("a"), users: [1, "bob"] }, ...Array.from({ length: 3 }, () => draft("b"))];
          await appended(engine, drafts, together);
          const asks = (user: string, topics: string[]) => engine.trimmed({ topics, user, after: engine.origin });
          for (const topics of [["a"], ["*"], [">"]]) expect(await asks("bob", topics)).toBe(true);
          expect(await asks("1", ["c", "a"])).toBe(true);
          expect(await asks("2", ["a"])).toBe(false);
          expect(await asks("bo", ["a"])).toBe(false);
          expect(await asks("bob", ["b.*", "c"])).toBe(false);
        });

        test("an event that was replaced before is not missed, its replacement is", async () => {
          const { engine } = await setUp({ count: 3 });
          const keyed = { ...draft("a"), key: "k" };
          const first = [keyed, draft("b"), keyed, draft("b"), draft("b")];
          const [, floor, replacement] = await appended(engine, first, together);
          expect(engine.floor).toEqual(floor);
          const asks = (after: EventId) => engine.trimmed({ topics: ["a"], user: "1", after });
          expect(await asks(engine.origin)).toBe(false);
          await appended(engine, [draft("b"), draft("b")], together);
          expect(compareIds(engine.floor, replacement as EventId)).toBeGreaterThanOrEqual(0);
          expect(await asks(engine.origin)).toBe(true);
          expect(await asks(replacement as EventId)).toBe(false);
        });

        test("an event that had expired is not missed, and one that was never stored", async () => {
          const { engine } = await setUp({ count: 2 });
          await appended(
            engine,
            [1, 600].map((ttl) => ({ ...draft(`ttl.${ttl}`), ttl })),
            together,
          );
          await engine.append([{ ...draft("ttl.0"), ttl: 0 }]);
          vi.useFakeTimers({ now: Date.now() + 2000, toFake: ["Date"] });
          onTestFinished(() => void vi.useRealTimers());
          await appended(
            engine,
            Array.from({ length: 4 }, () => draft("b")),
            together,
          );
          const asks = (topic: string) => engine.trimmed({ topics: [topic], user: "1", after: engine.origin });
          expect(await asks("ttl.0")).toBe(false);
          expect(await asks("ttl.1")).toBe(false);
          expect(await asks("ttl.600")).toBe(true);
        });
      });
    });

    describe("keeps clients", () => {
      test("by id and by user, until they are removed", async () => {
        const { engine } = await setUp();
        const { follower, entries } = listener("here");
        await engine.join(follower);
        const one = await engine.clients.update(C1, (_, at) => record(C1, at));
        await engine.clients.update(C2, (_, at) => ({ ...record(C2, at), userId: "1" }));
        await engine.clients.update(C3, (_, at) => ({ ...record(C3, at), userId: "bob" }));
        expect(await engine.clients.get(C1)).toEqual(one);
        expect((await engine.clients.of("1")).map(({ id }) => id).sort()).toEqual([C1, C2]);
        expect(await engine.clients.update(C1, () => undefined)).toBeUndefined();
        expect(await engine.clients.get(C1)).toBeUndefined();
        expect((await engine.clients.of("1")).map(({ id }) => id)).toEqual([C2]);
        await settled(() => entries.length === 4);
        expect(entries.at(-1)).toMatchObject({ kind: "removed", client: C1 });
      });

      test("a change that changes nothing is no entry, and one that throws changes nothing", async () => {
        const { engine } = await setUp();
        const { follower, entries } = listener("here");
        await engine.join(follower);
        const one = await engine.clients.update(C1, (_, at) => record(C1, at));
        await engine.clients.update(C1, (known) => known);
        await engine.clients.update(C2, () => undefined);
        const failing = engine.clients.update(C1, () => {
          throw new Error("no");
        });
        await expect(failing).rejects.toThrow("no");
        expect(await engine.clients.get(C1)).toEqual(one);
        expect(entries).toHaveLength(1);
      });

      test("changes that overlap are all done", async () => {
        const { engine } = await setUp();
        await engine.clients.update(C1, (_, at) => record(C1, at));
        await Promise.all(
          Array.from({ length: 50 }, (_, index) =>
            engine.clients.update(C1, (known) => known && { ...known, rooms: [...known.rooms, String(index)] }),
          ),
        );
        expect((await engine.clients.get(C1))?.rooms).toHaveLength(50);
      });

      test("clients move on without an entry", async () => {
        const { engine } = await setUp();
        const { follower, entries } = listener("here");
        await engine.join(follower);
        await engine.clients.update(C1, (_, at) => record(C1, at));
        const { ids } = await engine.append([draft("a")]);
        const [id] = ids as [EventId];
        const received = [{ after: ZERO, through: id, earliest: LIVE, latest: { id, at: 1 } }];
        const progress = { cursor: id, confirmed: id, received, sent: [] };
        await engine.clients.move(
          new Map([
            [C1, progress],
            [C2, progress],
          ]),
        );
        expect(await engine.clients.get(C1)).toMatchObject(progress);
        expect(entries).toHaveLength(2);
      });
    });

    describe("appends once under an idempotency key", () => {
      const once = { owner: "o", key: "k1", fingerprint: "f", until: Date.now() + 60_000 };
      const reply = [{ matched: 3, sent: 2, waiting: 1 }];

      test("one after the other, with the first reply when there is one", async () => {
        const { engine } = await setUp();
        const { ids } = await engine.append([draft("a")], once);
        expect(await engine.append([draft("a")], once)).toEqual({ ids, duplicate: { reply: undefined } });
        await engine.settle(once, ids, reply);
        expect(await engine.append([draft("a")], once)).toEqual({ ids, duplicate: { reply } });
        expect(await read(engine, engine.origin)).toHaveLength(1);
      });

      test("all at once", async () => {
        const { engine } = await setUp();
        const all = await Promise.all(Array.from({ length: 20 }, () => engine.append([draft("a")], once)));
        expect(all.filter(({ duplicate }) => duplicate === undefined)).toHaveLength(1);
        expect(await read(engine, engine.origin)).toHaveLength(1);
      });

      test("not with another request, and again when the time is up", async () => {
        const { engine } = await setUp();
        await engine.append([draft("a")], once);
        const other = engine.append([draft("b")], { ...once, fingerprint: "g" });
        await expect(other).rejects.toMatchObject({ code: "idempotency_key_reused" });
        const past = { ...once, key: "k2", until: Date.now() - 1 };
        await engine.append([draft("a")], past);
        expect((await engine.append([draft("a")], past)).duplicate).toBeUndefined();
      });
    });

    describe("makes two relays one", () => {
      const settings = relaySettings();
      const both = async (): Promise<[Relay, Relay]> => {
        const { engine, another } = await setUp();
        const here = await Relay.start(engine, settings);
        const there = await Relay.start(await another(), settings);
        onTestFinished(() => Promise.all([here.stop(), there.stop()]).then(() => undefined));
        return [here, there];
      };
      const registration = { userId: 1, topics: ["a"], ttl: 300 };

      test("register here, publish there, connect there", async () => {
        const [here, there] = await both();
        const { id } = await here.clients.register(registration);
        const [receipt] = await there.publisher.publish([draft("a", '"between"')]);
        expect(receipt).toMatchObject({ matched: 1, sent: 0, waiting: 1 });
        const { sink } = await open(there, id);
        await settled(() => sink.events.length === 1);
        expect(sink.events[0]).toMatchObject({ id: receipt?.id, message: "between" });
        const [second] = await here.publisher.publish([draft("a", '"after"')]);
        expect(second).toMatchObject({ matched: 1, sent: 1, waiting: 0 });
        await settled(() => sink.events.length === 2);
      });

      test("a client that connects elsewhere loses its connection here, and goes on where it was", async () => {
        const [here, there] = await both();
        const { id } = await here.clients.register(registration);
        const first = await open(here, id);
        await here.publisher.publish([draft("a", "1")]);
        first.connection.ponged(first.sink.pings.at(-1) ?? "");
        await here.connections.closed(first.connection);
        await here.publisher.publish([draft("a", "2")]);
        const second = await open(here, id);
        const third = await open(there, id);
        await settled(() => second.sink.closed !== undefined);
        expect(second.sink.closed?.code).toBe(4409);
        await settled(() => third.sink.events.length > 0);
        expect(third.sink.events.map(({ message }) => message)).toEqual([2]);
        expect(await there.countConnections()).toBe(1);
      });

      test("topics changed and clients removed here take effect there", async () => {
        const [here, there] = await both();
        const { id } = await here.clients.register(registration);
        const { sink } = await open(there, id);
        await here.clients.change(id, { set: ["b"] });
        const replies = await here.publisher.publish([draft("a"), draft("b", '"yes"')]);
        expect(replies.map(({ matched }) => matched)).toEqual([0, 1]);
        await settled(() => sink.events.length === 1);
        expect(await here.clients.remove(id)).toBe(true);
        await settled(() => sink.closed !== undefined);
        expect(sink.closed?.code).toBe(4404);
        await expect(there.clients.get(id)).rejects.toMatchObject({ code: "not_found" });
        expect(await there.clients.remove(id)).toBe(false);
      });

      test("receipts and confirmations count the clients of both", async () => {
        const [here, there] = await both();
        const one = await open(here, (await here.clients.register(registration)).id);
        const two = await open(there, (await there.clients.register(registration)).id);
        await here.clients.register(registration);
        await turns();
        const publishing = here.publisher.publish([draft("a")], { wait: 10_000 });
        for (const { sink, connection } of [one, two]) {
          await settled(() => sink.pings.length > 0);
          connection.ponged(sink.pings.at(-1) ?? "");
        }
        const [receipt] = await publishing;
        expect(receipt).toMatchObject({ matched: 3, sent: 2, waiting: 1, confirmed: 2 });
        const { deliveries } = await there.publisher.receipt(idFrom(receipt?.id));
        expect(deliveries?.map(({ state }) => state).sort()).toEqual(["confirmed", "confirmed", "waiting"]);
      });

      test("an idempotency key is known to both", async () => {
        const [here, there] = await both();
        const once = { owner: "o", key: "k", fingerprint: "f" };
        const [first] = await here.publisher.publish([draft("a")], { once });
        const [second] = await there.publisher.publish([draft("a")], { once });
        expect(second).toEqual({ ...first, duplicate: true });
      });

      test("all of a user's clients are removed, wherever they are", async () => {
        const [here, there] = await both();
        await here.clients.register(registration);
        await there.clients.register(registration);
        expect(await here.clients.removeUser("1")).toBe(2);
        expect((await there.publisher.publish([draft("a")]))[0]?.matched).toBe(0);
      });
    });
  });
}

const ALL = { topics: [">"], user: "nobody", limit: 1000 };

// Clients: UUIDs as 32 hex digits.
const [C1, C2, C3] = ["a", "b", "c"].map((digit) => digit.repeat(32)) as [string, string, string];

function draft(topic: string, message = '"m"'): { topic: string; message: string } {
  return { topic, message };
}

function record(id: string, at: EventId): ClientRecord {
  const subscriptions = [{ from: at, topics: ["a"] }];
  const place = { cursor: at, confirmed: at, received: [], sent: [], narrowed: [] };
  return { id, userId: 1, subscriptions, rooms: [], ttl: 300, node: "here", ...place };
}

function listener(node: string): { follower: Follower; entries: Entry[] } {
  const entries: Entry[] = [];
  const answer = async () => ({ connections: 0, deliveries: [] });
  const follow = (entry: Entry): [] => {
    entries.push(entry);
    return [];
  };
  return { entries, follower: { node, follow, answer } };
}

function idOf(entry: Entry): EventId {
  return entry.kind === "event" ? entry.event.id : entry.id;
}

function idFrom(text: string | undefined): EventId {
  const [ms, seq] = (text ?? "").split("-").map(Number);
  return { ms: ms ?? 0, seq: seq ?? 0 };
}

async function read(engine: Engine, after: EventId, more: Partial<typeof ALL> & { until?: EventId | undefined } = {}) {
  return (await new Log(engine).read({ after, ...ALL, ...more })).events;
}

async function topicsAfter(...args: Parameters<typeof read>): Promise<string[]> {
  return (await read(...args)).map(({ topic }) => topic);
}

/** Waits until something holds that no event tells of: other relays hear of things in their own time. */
async function settled(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 5000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error("did not come to hold");
    await new Promise(setImmediate);
  }
}
