import { describe, expect, test } from "vitest";
import { type ClientRecord, withVersion } from "../../../src/core/client.js";
import type { Engine } from "../../../src/core/engine.js";
import { compareIds, type EventId, OWN, ZERO } from "../../../src/core/id.js";
import { LIVE } from "../../../src/core/moment.js";
import {
  addClient,
  C1,
  C2,
  C3,
  changeClient,
  draft,
  find,
  Listener,
  type MakeLog,
  newClient,
  onlyId,
  openLog,
  type Power,
  present,
  resolved,
} from "./support.js";

/** Clients: changes that replace a version, and how they are found. */
export function testClients(make: MakeLog, powers: readonly Power[]): void {
  describe("keeps clients", () => {
    test("as they were appended, with the entry's id as their version and in the place of `OWN`", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { listener } = await Listener.on(two, "there");
      const id = { ms: 7, seq: 3 };
      const full = newClient(C1, {
        userId: "bob",
        subscriptions: [
          { from: ZERO, since: OWN, topics: ["ä.*", ">"] },
          { from: OWN, topics: [], isLost: true },
        ],
        rooms: ["r"],
        allow: { subscribe: [">"], publish: [] },
        key: "k",
        until: Date.now() + 60_000,
        expiresAt: one.now() + 60_000,
        cursor: id,
        received: [{ after: ZERO, through: id, earliest: LIVE, latest: { id, at: 5 } }],
      });
      const record = await addClient(one, full);
      expect(record.version).not.toEqual(OWN);
      expect(record.confirmed).toEqual(record.version);
      for (const engine of [one, two]) expect(await find(engine, { client: C1 })).toEqual([record]);
      await listener.until(() => listener.entries.length === 1);
      const [entry] = listener.entries;
      if (entry?.kind !== "client") throw new Error("is no entry of a client");
      expect(entry.id).toEqual(record.version);
      expect(entry.record.version).toEqual(record.version);
      expect(resolved(entry.record)).toEqual(record);
      expect(entry.placed ?? false).toBe(false);
    });

    test("by id, by secret and by user, until they are removed", async () => {
      const engine = await (await openLog(make))();
      const { listener } = await Listener.on(engine, "here");
      const one = await addClient(engine, newClient(C1, { secret: C3 }));
      const two = await addClient(engine, newClient(C2, { userId: "1" }));
      const ids = async (user: string) => (await find(engine, { user })).map(({ id }) => id).sort();
      expect(await find(engine, { client: C1 })).toEqual([one]);
      expect(await find(engine, { secret: C3 })).toEqual([one]);
      expect(await find(engine, { secret: C1 })).toEqual([]);
      expect(await find(engine, { client: C3 })).toEqual([]);
      expect(await find(engine, { secret: C2 })).toEqual([two]);
      expect(await ids("1")).toEqual([C1, C2]);
      expect(await ids("2")).toEqual([]);
      const removed = await changeClient(engine, { client: C1, record: undefined, expect: one.version });
      expect(await find(engine, { client: C1 })).toEqual([]);
      expect(await find(engine, { secret: C3 })).toEqual([]);
      expect(await ids("1")).toEqual([C2]);
      expect(listener.entries.at(-1)).toEqual({ kind: "removed", id: removed, client: C1 });
    });

    test("by the secret that they have now", async () => {
      const engine = await (await openLog(make))();
      const one = await addClient(engine, newClient(C1));
      const change = { client: C1, record: newClient(C1, { secret: C2 }), expect: one.version };
      const two = withVersion(change.record, await changeClient(engine, change));
      expect(await find(engine, { secret: C1 })).toEqual([]);
      expect(await find(engine, { secret: C2 })).toEqual([two]);
      await changeClient(engine, { client: C1, record: newClient(C1, { secret: C3 }), expect: two.version });
      expect(await find(engine, { secret: C2 })).toEqual([]);
      expect(await find(engine, { secret: C3 })).toHaveLength(1);
    });

    test("a change that expects another version is not made, and its answer is the client as it is", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { listener } = await Listener.on(one, "here");
      const first = await addClient(two, newClient(C1));
      const rooms = newClient(C1, { rooms: ["a"] });
      const second = withVersion(rooms, await changeClient(one, { client: C1, record: rooms, expect: first.version }));
      expect(compareIds(first.version, second.version)).toBeLessThan(0);
      const refused = [
        { client: C1, record: newClient(C1), expect: "absent" as const },
        { client: C1, record: newClient(C1), expect: first.version },
        { client: C1, record: undefined, expect: first.version },
      ];
      for (const engine of [one, two]) {
        for (const change of refused) {
          const { ids, conflict } = await engine.append(change);
          expect(ids).toEqual([]);
          expect(conflict?.current && resolved(conflict.current)).toEqual(second);
        }
        const unknown = await engine.append({ client: C2, record: newClient(C2), expect: first.version });
        expect(unknown.conflict).toBeDefined();
        expect(unknown.conflict?.current).toBeUndefined();
        expect(await find(engine, { client: C2 })).toEqual([]);
        expect(await find(engine, { client: C1 })).toEqual([second]);
      }
      expect(listener.entries).toHaveLength(2);
    });

    test("one that was removed can be made anew, and not be changed", async () => {
      const engine = await (await openLog(make))();
      const { version } = await addClient(engine, newClient(C1));
      await changeClient(engine, { client: C1, record: undefined, expect: version });
      const late = await engine.append({ client: C1, record: newClient(C1), expect: version });
      expect(late.conflict).toEqual({ current: undefined });
      expect(await find(engine, { client: C1 })).toEqual([]);
      const again = await addClient(engine, newClient(C1));
      expect(await find(engine, { client: C1 })).toEqual([again]);
    });

    test("of changes that two relays make at once, each is made once and none is lost", async () => {
      const open = await openLog(make);
      const engines = [await open(), await open()];
      const { listener } = await Listener.on(engines[0] ?? (await open()), "here");
      await addClient(await open(), newClient(C1, { rooms: [] }));
      const names = engines.map((_, writer) => Array.from({ length: 15 }, (_, index) => `${writer}.${index}`));
      await Promise.all(engines.map((engine, writer) => addRooms(engine, names[writer] ?? [])));
      const [{ rooms } = { rooms: [] }] = await find(await open(), { client: C1 });
      expect([...rooms].sort()).toEqual(names.flat().sort());
      for (const [writer, own] of names.entries()) {
        expect(rooms.filter((room) => room.startsWith(`${writer}.`))).toEqual(own);
      }
      await listener.until(() => listener.entries.length === 31);
      expect(listener.entries).toHaveLength(31);
    });

    test("of the same client made by both at once, one is made", async () => {
      const open = await openLog(make);
      const engines = [await open(), await open()];
      for (let round = 0; round < 10; round++) {
        const id = String(round).padStart(32, "0");
        const made = engines.map((engine, index) =>
          engine.append({ client: id, record: newClient(id, { userId: index }), expect: "absent" }),
        );
        const answers = await Promise.all(made);
        const winner = answers.findIndex(({ conflict }) => !conflict);
        expect(answers.filter(({ conflict }) => conflict)).toHaveLength(1);
        expect(answers[1 - winner]?.conflict?.current?.userId).toBe(winner);
        expect((await find(engines[0] ?? (await open()), { client: id }))[0]?.userId).toBe(winner);
      }
    });

    test("followers are told when it was chosen where a client goes on", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { listener } = await Listener.on(two, "there");
      const { version } = await addClient(one, newClient(C1));
      await changeClient(one, { client: C1, record: newClient(C1, { cursor: ZERO }), expect: version, placed: true });
      await listener.until(() => listener.entries.length === 2);
      expect(listener.entries.map((entry) => entry.kind === "client" && (entry.placed ?? false))).toEqual([
        false,
        true,
      ]);
    });

    if (powers.includes("cursors")) {
      test("how far they are is noted without an entry, and only of the version that it is said of", async () => {
        const open = await openLog(make);
        const [one, two] = [await open(), await open()];
        const cursors = present(one.cursors);
        const { listener } = await Listener.on(one, "here");
        const { version } = await addClient(one, newClient(C1));
        const event = onlyId(await one.append([draft("a")]));
        const received = [{ after: ZERO, through: event, earliest: LIVE, latest: { id: event, at: 1 } }];
        const progress = { cursor: event, confirmed: event, received, sent: [] };
        await cursors.move([
          { client: C2, version, ...progress },
          { client: C1, version, ...progress },
        ]);
        expect(await find(two, { client: C1 })).toMatchObject([{ ...progress, version }]);
        expect(await find(two, { client: C2 })).toEqual([]);
        // It has the same version still, so this is no conflict.
        const changed = newClient(C1, { rooms: ["a"], cursor: ZERO });
        const next = await changeClient(two, { client: C1, record: changed, expect: version, placed: true });
        await cursors.move([{ client: C1, version, ...progress }]);
        expect(await find(one, { client: C1 })).toEqual([withVersion(changed, next)]);
        expect(listener.entries).toHaveLength(3);
      });
    }
  });
}

/** Adds rooms to the client, one after the other, in turn with whoever else does. */
async function addRooms(engine: Engine, rooms: readonly string[]): Promise<void> {
  for (const room of rooms) {
    let [current] = await engine.find({ client: C1 });
    for (let done = false; !done;) {
      const { rooms: before, version } = current as ClientRecord;
      const record = newClient(C1, { rooms: [...before, room] });
      const { conflict, ids } = await engine.append({ client: C1, record, expect: version });
      done = conflict === undefined;
      if (done && compareIds(ids[0] as EventId, version) <= 0) throw new Error("versions do not increase");
      current = conflict?.current;
    }
  }
}
