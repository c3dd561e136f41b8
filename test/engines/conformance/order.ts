import { describe, expect, test } from "vitest";
import type { Bounds, Entry } from "../../../src/core/engine.js";
import { compareIds, type EventId, formatId } from "../../../src/core/id.js";
import {
  addClient,
  C1,
  changeClient,
  draft,
  find,
  hasGap,
  Listener,
  type MakeLog,
  newClient,
  onlyId,
  openLog,
  readAll,
} from "./support.js";

/** The one order of the log, and what followers are told. */
export function testOrder(make: MakeLog): void {
  describe("orders", () => {
    test("events and changes of clients: ids strictly increase, and all followers get all of it in that order", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { listener: here } = await Listener.on(one, "here");
      const { listener: there } = await Listener.on(two, "there");
      const first = await one.append([draft("a"), draft("b")]);
      const { version } = await addClient(two, newClient(C1));
      const second = await one.append([draft("a")]);
      const removed = await changeClient(one, { client: C1, record: undefined, expect: version });
      const ids = [...first.ids, version, ...second.ids, removed];
      for (const [index, id] of ids.slice(1).entries()) expect(compareIds(ids[index] as EventId, id)).toBeLessThan(0);
      for (const listener of [here, there]) {
        await listener.until(() => listener.entries.length === 5);
        expect(listener.ids).toEqual(ids);
        expect(listener.entries.map(({ kind }) => kind)).toEqual(["event", "event", "client", "event", "removed"]);
      }
    });

    test("ids of requests that overlap are all different, and those of one request are in order", async () => {
      const open = await openLog(make);
      const engines = [await open(), await open()];
      const { listener } = await Listener.on(engines[0] ?? (await open()), "here");
      const requests = Array.from({ length: 100 }, () =>
        engines.map((engine) => engine.append([draft("a"), draft("b")])),
      );
      const appended = await Promise.all(requests.flat());
      expect(new Set(appended.flatMap(({ ids }) => ids.map(formatId))).size).toBe(400);
      for (const { ids } of appended) expect(compareIds(ids[0] as EventId, ids[1] as EventId)).toBeLessThan(0);
      await listener.until(() => listener.entries.length === 400);
      const { ids } = listener;
      for (const [index, id] of ids.slice(1).entries()) expect(compareIds(ids[index] as EventId, id)).toBeLessThan(0);
    });

    test("a follower is told the bounds first and once, and then every entry after the head", async () => {
      const open = await openLog(make);
      const engine = await open();
      const last = onlyId(await engine.append([draft("before")]));
      const { listener } = await Listener.on(await open(), "here");
      const after = await engine.append([draft("a"), draft("b")]);
      await listener.until(() => listener.entries.length === 2);
      expect(listener.ids).toEqual(after.ids);
      expect(listener.calls[0]).toBe("begin");
      expect(listener.bounds).toHaveLength(1);
      const [{ origin, head, floor } = { origin: last, head: last, floor: last }] = listener.bounds;
      expect(compareIds(head, last)).toBeGreaterThanOrEqual(0);
      expect(compareIds(head, after.ids[0] as EventId)).toBeLessThan(0);
      expect(compareIds(origin, last)).toBeLessThan(0);
      expect(floor).toEqual(origin);
    });

    test("its own relay has followed an entry when `append` is answered, and what came before when `find` is", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { listener: here } = await Listener.on(one, "here");
      const { listener: there } = await Listener.on(two, "there");
      for (let round = 0; round < 20; round++) {
        const event = onlyId(await one.append([draft("a")]));
        expect(here.ids).toContainEqual(event);
        const id = String(round).padStart(32, "0");
        const { version } = await addClient(one, newClient(id));
        expect(here.ids).toContainEqual(version);
        expect(await find(two, { client: id })).toHaveLength(1);
        expect(there.ids).toContainEqual(version);
      }
    });

    test("an event can be read when a relay follows it, and when its append is answered", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const found: Promise<number>[] = [];
      class Reading extends Listener {
        override follow(entry: Entry): void {
          const { origin } = this.bounds[0] as Bounds;
          found.push(readAll(two, origin).then(({ length }) => length));
          super.follow(entry);
        }
      }
      const reading = new Reading("there");
      await two.follow(reading);
      const { bounds } = (await Listener.on(one, "here")).listener;
      await one.append([draft("a"), draft("a")]);
      expect(await readAll(one, bounds[0]?.origin as EventId)).toHaveLength(2);
      await reading.until(() => reading.entries.length === 2);
      const [first, second] = await Promise.all(found);
      expect(first).toBeGreaterThanOrEqual(1);
      expect(second).toBe(2);
    });

    test("a relay that has left does not follow any more", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { listener: gone, leave } = await Listener.on(one, "gone");
      await leave();
      const { listener } = await Listener.on(two, "here");
      await one.append([draft("a")]);
      await listener.until(() => listener.entries.length === 1);
      expect(gone.entries).toEqual([]);
    });

    test("to append no events orders nothing", async () => {
      const engine = await (await openLog(make))();
      const { listener } = await Listener.on(engine, "here");
      expect(await engine.append([])).toEqual({ ids: [] });
      await engine.append([draft("a")]);
      expect(listener.entries).toHaveLength(1);
    });

    test("what need not be safe has its place when it is answered", async () => {
      const engine = await (await openLog(make))();
      const { listener } = await Listener.on(engine, "here");
      const { ids } = await engine.append({ client: C1, record: newClient(C1), expect: "absent" }, { safe: false });
      expect(listener.ids).toEqual(ids);
      expect((await find(engine, { client: C1 })).map(({ version }) => version)).toEqual(ids);
    });

    test("by a clock that is near that of ids, and does not go back", async () => {
      const engine = await (await openLog(make))();
      let last = engine.now();
      expect(Math.abs(last - Date.now())).toBeLessThan(10_000);
      for (let round = 0; round < 20; round++) {
        const { ms } = onlyId(await engine.append([draft("a")]));
        expect(Math.abs(engine.now() - ms)).toBeLessThan(5000);
        expect(engine.now()).toBeGreaterThanOrEqual(last);
        last = engine.now();
      }
    });

    test("the floor, which followers are told as it moves, and readers with what they read", async () => {
      const open = await openLog(make, { count: 3 });
      const [one, two] = [await open(), await open()];
      const { listener } = await Listener.on(two, "there");
      const ids: EventId[] = [];
      for (let index = 0; index < 6; index++) ids.push(onlyId(await one.append([draft("a")])));
      const third = ids[2] as EventId;
      await listener.until(() => compareIds(listener.floors.at(-1) ?? third, third) >= 0 && listener.floors.length > 0);
      expect(listener.floors.at(-1)).toEqual(third);
      for (const [index, floor] of listener.floors.slice(1).entries()) {
        expect(compareIds(listener.floors[index] as EventId, floor)).toBeLessThan(0);
      }
      expect((await two.read({ after: third, topics: ["a"], user: "1", limit: 10 })).floor).toEqual(third);
      expect(await hasGap(two, ["a"], third)).toBe(false);
      const { listener: late } = await Listener.on(await open(), "late");
      expect(late.bounds[0]?.floor).toEqual(third);
    });
  });
}
