import { describe, expect, test } from "vitest";
import type { ClientRecord } from "../../../src/core/client.js";
import type { Delivery, Once } from "../../../src/core/engine.js";
import {
  addClient,
  C1,
  C2,
  C3,
  changeClient,
  draft,
  Listener,
  type MakeLog,
  newClient,
  openLog,
  type Power,
  present,
  readAll,
  resolved,
} from "./support.js";

/** What relays on one log have of each other: clients of those that are gone, idempotency keys, and answers. */
export function testRelays(make: MakeLog, powers: readonly Power[]): void {
  describe("hands on the clients of a relay that is gone", () => {
    test("to another one, as they are; and no clients of relays that are there", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { leave } = await Listener.on(one, "gone");
      const first = await addClient(one, newClient(C1, { node: "gone", expiresAt: one.now() + 60_000 }));
      const second = await addClient(one, newClient(C2, { node: "gone" }));
      const { listener } = await Listener.on(two, "there");
      await addClient(two, newClient(C3, { node: "there" }));
      await leave();
      await listener.until(() => listener.inherited.length === 2);
      expect(inherited(listener)).toEqual([first, second]);
      // No entry has said so, and so they have the version that they had.
      expect(listener.entries).toHaveLength(1);
      await changeClient(two, { client: C1, record: undefined, expect: first.version });
    });

    test("each to one relay only, of all that are there", async () => {
      const open = await openLog(make);
      const one = await open();
      const { leave } = await Listener.on(one, "gone");
      const { listener: two } = await Listener.on(await open(), "two");
      const { listener: three } = await Listener.on(await open(), "three");
      const ids = Array.from({ length: 20 }, (_, index) => String(index).padStart(32, "0"));
      for (const id of ids) await addClient(one, newClient(id, { node: "gone" }));
      await leave();
      const all = (): ClientRecord[] => [...two.inherited, ...three.inherited];
      await Promise.race([two, three].map((listener) => listener.until(() => all().length >= ids.length)));
      await one.append([draft("a")]);
      const isLast = (listener: Listener) => listener.entries.at(-1)?.kind === "event";
      await Promise.all([two, three].map((listener) => listener.until(() => isLast(listener))));
      expect(
        all()
          .map(({ id }) => id)
          .sort(),
      ).toEqual(ids);
    });

    test("and tells every relay that it is gone, also when it had none", async () => {
      const open = await openLog(make);
      const { leave } = await Listener.on(await open(), "gone");
      const { listener: two } = await Listener.on(await open(), "two");
      const { listener: three } = await Listener.on(await open(), "three");
      for (const { calls } of [two, three]) calls.length = 0;
      await leave();
      for (const listener of [two, three]) await listener.until(() => listener.calls.includes("inherit"));
      expect([...two.inherited, ...three.inherited]).toEqual([]);
    });

    test("to the next relay that comes, when no other one was there", async () => {
      const open = await openLog(make);
      const one = await open();
      const { leave } = await Listener.on(one, "gone");
      const record = await addClient(one, newClient(C1, { node: "gone" }));
      await leave();
      const { listener } = await Listener.on(await open(), "there");
      expect(inherited(listener)).toEqual([record]);
      expect(listener.calls.indexOf("begin")).toBeLessThan(listener.calls.indexOf("inherit"));
      const { listener: late } = await Listener.on(await open(), "late");
      expect(late.inherited).toEqual([]);
    });

    test("each to one relay only, of two that come at the same time", async () => {
      const open = await openLog(make);
      const one = await open();
      const { leave } = await Listener.on(one, "gone");
      const ids = Array.from({ length: 20 }, (_, index) => String(index).padStart(32, "0"));
      for (const id of ids) await addClient(one, newClient(id, { node: "gone" }));
      await leave();
      const engines = [await open(), await open()];
      const came = await Promise.all(engines.map((engine, index) => Listener.on(engine, `new ${index}`)));
      const all = came.flatMap(({ listener }) => listener.inherited.map(({ id }) => id));
      expect(all.sort()).toEqual(ids);
    });

    test("as they were changed since, and not those that were removed or have moved to another relay", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { leave } = await Listener.on(one, "gone");
      const { leave: leaveTwo } = await Listener.on(two, "two");
      const versions = new Map<string, ClientRecord["version"]>();
      for (const id of [C1, C2, C3]) versions.set(id, (await addClient(one, newClient(id, { node: "gone" }))).version);
      const change = (client: string, record: ClientRecord | undefined) =>
        changeClient(two, { client, record, expect: versions.get(client) ?? "absent" });
      const version = await change(C1, newClient(C1, { node: "gone", rooms: ["a"] }));
      await change(C2, newClient(C2, { node: "two" }));
      await change(C3, undefined);
      const { listener } = await Listener.on(await open(), "three");
      await leave();
      await leaveTwo();
      await listener.until(() => listener.inherited.length === 2);
      const [first, second, ...more] = inherited(listener);
      expect(first).toMatchObject({ id: C1, rooms: ["a"], version });
      expect(second).toMatchObject({ id: C2, node: "two" });
      expect(more).toEqual([]);
    });

    test("on and on: also those that it had from another one and has changed", async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { leave: leaveOne } = await Listener.on(one, "one");
      const first = await addClient(one, newClient(C1, { node: "one" }));
      const second = await addClient(one, newClient(C2, { node: "one" }));
      const { listener: heir, leave: leaveTwo } = await Listener.on(two, "two");
      await leaveOne();
      await heir.until(() => heir.inherited.length === 2);
      const changed = newClient(C1, { node: "one", rooms: ["a"] });
      const version = await changeClient(two, { client: C1, record: changed, expect: first.version });
      const { listener: late } = await Listener.on(await open(), "late");
      expect(late.inherited).toEqual([]);
      await leaveTwo();
      await late.until(() => late.inherited.length === 2);
      expect(inherited(late)).toMatchObject([{ id: C1, rooms: ["a"], version }, second]);
    });
  });

  describe("appends once under an idempotency key", () => {
    const once: Once = { owner: "o", key: "k1", fingerprint: "f", until: Date.now() + 60_000 };
    const reply = [{ matched: 3, sent: 2, waiting: 1 }];
    const setUp = async () => {
      const open = await openLog(make);
      const [one, two] = [await open(), await open()];
      const { listener } = await Listener.on(one, "here");
      await Listener.on(two, "there");
      const kept = async () => (await readAll(two, listener.bounds[0]?.origin ?? { ms: 0, seq: 0 })).length;
      return { one, two, kept };
    };

    test("one after the other, on any relay", async () => {
      const { one, two, kept } = await setUp();
      const { ids } = await one.append([draft("a"), draft("b")], { once });
      for (const engine of [one, two]) {
        expect(await engine.append([draft("a"), draft("b")], { once })).toEqual({ ids, duplicate: {} });
      }
      const other = { ...once, owner: "p" };
      expect((await two.append([draft("a")], { once: other })).duplicate).toBeUndefined();
      expect(await kept()).toBe(3);
    });

    if (powers.includes("replies")) {
      test("with the first reply, when there is one", async () => {
        const { one, two } = await setUp();
        const replies = present(one.replies);
        const { ids } = await one.append([draft("a")], { once });
        await replies.settle(once, ids, reply);
        expect(await two.append([draft("a")], { once })).toEqual({ ids, duplicate: { reply } });
      });
    }

    test("all at once, on two relays", async () => {
      const { one, two, kept } = await setUp();
      const requests = Array.from({ length: 20 }, (_, index) => (index % 2 ? one : two).append([draft("a")], { once }));
      const answers = await Promise.all(requests);
      expect(answers.filter(({ duplicate }) => duplicate === undefined)).toHaveLength(1);
      for (const { ids } of answers) expect(ids).toEqual(answers[0]?.ids);
      expect(await kept()).toBe(1);
    });

    test("not with another request, and again when the time is up", async () => {
      const { one, two, kept } = await setUp();
      await one.append([draft("a")], { once });
      const other = two.append([draft("b")], { once: { ...once, fingerprint: "g" } });
      await expect(other).rejects.toMatchObject({ code: "idempotency_key_reused" });
      const past = { ...once, key: "k2", until: one.now() - 1 };
      await one.append([draft("a")], { once: past });
      expect((await two.append([draft("a")], { once: past })).duplicate).toBeUndefined();
      expect(await kept()).toBe(3);
    });
  });

  if (powers.includes("peers")) {
    describe("asks the other relays", () => {
      test("each that is there, and not the one that asks", async () => {
        const open = await openLog(make);
        const [one, two] = [await open(), await open()];
        const { listener } = await Listener.on(one, "one", { clients: 1 });
        const peers = present(one.peers);
        const question = { ask: "counts", user: "1" } as const;
        expect(await peers.ask("one", question)).toEqual([]);
        const delivery: Delivery = { client: C1, userId: 1, state: "sent" };
        const second = { connections: 3, clients: 2, ofUser: 1, anonymous: 4, deliveries: [[delivery]] };
        const { listener: there, leave } = await Listener.on(two, "two", second);
        expect(await peers.ask("one", question)).toEqual([expect.objectContaining(second)]);
        expect(there.questions).toEqual([question]);
        await Listener.on(await open(), "three", { clients: 3 });
        const answers = await peers.ask("one", { ask: "deliveries", events: [{ ms: 1, seq: 2 }] });
        expect(answers?.map(({ clients }) => clients).sort()).toEqual([2, 3]);
        expect(there.questions.at(-1)).toEqual({ ask: "deliveries", events: [{ ms: 1, seq: 2 }] });
        await leave();
        expect((await peers.ask("one", question))?.map(({ clients }) => clients)).toEqual([3]);
        expect(listener.questions).toEqual([]);
      });
    });
  }
}

/** The clients in the order of their ids. */
function inherited({ inherited }: Listener): ClientRecord[] {
  return inherited.map(resolved).sort((a, b) => (a.id < b.id ? -1 : 1));
}
