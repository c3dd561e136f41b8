import { expect, test } from "vitest";
import type { Registered } from "../../support/relay.js";
import { answerOf, eventsUntil, messagesUntil, type Pair, scene } from "./scene.js";

/** Clients that one relay changes and another one holds; and what holds for the clients of both together. */
export function testClients(pair: () => Pair): void {
  test("topics changed here take effect there", async () => {
    const { here, there } = pair();
    const { topic, register, publish, connect } = scene();
    const client = await register(here);
    const frames = await connect(there, client);
    const path = `/register/${client.id}`;
    expect(await answerOf(here, "PATCH", path, { topics: ["b"] })).toMatchObject({ topics: ["b"] });
    expect(await publish(here, "not for it")).toMatchObject({ matched: 0 });
    expect(await answerOf(there, "GET", path)).toMatchObject({ topics: ["b"], connected: true });
    expect(await answerOf(here, "PATCH", path, { add: [topic], remove: ["b"] })).toMatchObject({ topics: [topic] });
    expect(await publish(there, "for it")).toMatchObject({ matched: 1 });
    expect(await messagesUntil(frames, "for it")).toEqual(["for it"]);
  });

  test("permissions narrowed here take effect there", async () => {
    const { here, there } = pair();
    const { topic, register, publish, connect } = scene();
    const client = await register(here, { allow: { subscribe: [">"], publish: [">"] } });
    const frames = await connect(there, client);
    const allow = { subscribe: ["other"], publish: ["other"] };
    await answerOf(here, "PATCH", `/register/${client.id}`, { allow });
    expect(await publish(here, "not for it")).toMatchObject({ matched: 0 });
    expect(await frames.request("publish", { topic, message: "1" })).toMatchObject({ code: "forbidden" });
    expect(await frames.request("subscribe", { topics: [topic] })).toMatchObject({ code: "forbidden" });
    expect(await frames.request("subscribe", { topics: ["other"] })).toEqual({ topics: ["other"] });
    await here.publish({ topic: "other", message: "end" });
    expect(await messagesUntil(frames, "end")).toEqual(["end"]);
  });

  test("a client removed here is gone there", async () => {
    const { here, there } = pair();
    const { register, publish, connect } = scene();
    const client = await register(there);
    const frames = await connect(there, client);
    expect(await answerOf(here, "DELETE", `/register/${client.id}`)).toEqual({ removed: true });
    expect((await frames.closed).code).toBe(4404);
    for (const relay of [here, there]) {
      expect((await relay.send("GET", `/register/${client.id}`)).status).toBe(404);
      expect(await answerOf(relay, "DELETE", `/register/${client.id}`)).toEqual({ removed: false });
      expect(await publish(relay, "1")).toMatchObject({ matched: 0 });
    }
  });

  test("all of a user's clients are removed, wherever they are", async () => {
    const { here, there } = pair();
    const { user, register, publish, connect } = scene();
    const open = [await connect(here, await register(here)), await connect(there, await register(there))];
    await register(there);
    expect(await answerOf(here, "DELETE", `/users/${user}`)).toEqual({ removed: 3 });
    expect(await Promise.all(open.map(async ({ closed }) => (await closed).code))).toEqual([4404, 4404]);
    expect(await publish(there, "1")).toMatchObject({ matched: 0 });
    expect(await answerOf(there, "DELETE", `/users/${user}`)).toEqual({ removed: 0 });
  });

  test("of changes of one client that both relays make at the same moment, none is lost", async () => {
    const { here, there } = pair();
    const { topic, register, publish, connect } = scene();
    const client = await register(here);
    const frames = await connect(there, client);
    const added = Array.from({ length: 20 }, (_, index) => `${topic}.${index}`);
    const changes = added.map((name, index) =>
      (index % 2 ? here : there).send("PATCH", `/register/${client.id}`, { add: [name] }),
    );
    expect(new Set((await Promise.all(changes)).map(({ status }) => status))).toEqual(new Set([200]));
    for (const relay of [here, there]) {
      const { topics } = await answerOf<Registered>(relay, "GET", `/register/${client.id}`);
      expect([...topics].sort()).toEqual([topic, ...added].sort());
    }
    for (const name of added) expect(await here.publish({ topic: name, message: name })).toMatchObject({ matched: 1 });
    await publish(there, "end");
    expect((await eventsUntil(frames, "end")).map((event) => event.topic)).toEqual([...added, topic]);
  });

  test("anonymous users have numbers that no other one has, on either relay", async () => {
    const { here, there } = pair();
    const users: string[] = [];
    const connect = async (relay: typeof here): Promise<void> => {
      const { data } = await (await relay.connect("/ws")).json<{ data: { user_id: string } }>();
      users.push(data.user_id);
    };
    for (const relay of [here, there, here]) await connect(relay);
    expect(users).toEqual(["$1", "$2", "$3"]);
    for (let round = 0; round < 2; round++) {
      await Promise.all(Array.from({ length: 20 }, (_, index) => connect(index % 2 ? here : there)));
    }
    expect(new Set(users).size).toBe(43);
    for (const user of users) expect(user).toMatch(/^\$\d+$/);
  });
}

/** @param start two relays with these settings, that nobody has used */
export function testLimits(start: (settings: object) => Promise<Pick<Pair, "here" | "there">>): void {
  test("the limits on clients hold for both together", async () => {
    const { here, there } = await start({ maxClients: 4, maxClientsPerUser: 2 });
    const statusOf = async (relay: typeof here, user: number) =>
      (await relay.send("POST", "/register", { user_id: user, topics: ["a"] })).status;
    const { id } = await here.register({ user_id: 1, topics: ["a"] });
    expect(await statusOf(there, 1)).toBe(200);
    for (const relay of [here, there]) expect(await statusOf(relay, 1)).toBe(429);
    expect(await statusOf(there, 2)).toBe(200);
    expect(await statusOf(here, 2)).toBe(200);
    for (const relay of [here, there]) expect(await statusOf(relay, 3)).toBe(429);
    expect(await answerOf(there, "DELETE", `/register/${id}`)).toEqual({ removed: true });
    expect(await statusOf(there, 3)).toBe(200);
    for (const relay of [here, there]) expect(await statusOf(relay, 1)).toBe(429);
  });
}
