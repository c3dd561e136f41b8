import { expect, test } from "vitest";
import { compareIds, parseId } from "../../../src/core/id.js";
import type { Receipt } from "../../support/relay.js";
import { answerOf, areAway, type EventFrame, eventsUntil, messagesUntil, type Pair, scene, settled } from "./scene.js";

/** What clients receive, and what publishers are told. */
export function testDelivery(pair: () => Pair): void {
  test("register here, connect there, publish anywhere", async () => {
    const { here, there } = pair();
    const { register, publish, connect } = scene();
    const client = await register(here);
    expect(await publish(there, "1")).toMatchObject({ matched: 1, sent: 0, waiting: 1 });
    expect(await publish(here, "2")).toMatchObject({ matched: 1, sent: 0, waiting: 1 });
    const frames = await connect(there, client);
    expect(await messagesUntil(frames, "2")).toEqual(["1", "2"]);
    expect(await publish(here, "3")).toMatchObject({ matched: 1, sent: 1, waiting: 0 });
    expect(await publish(there, "4")).toMatchObject({ matched: 1, sent: 1, waiting: 0 });
    expect(await messagesUntil(frames, "4")).toEqual(["3", "4"]);
  });

  test("a client that connects elsewhere loses its connection here, and goes on where it was", async () => {
    const { site, here, there } = pair();
    const { user, register, publish, connect } = scene();
    const client = await register(here);
    const first = await connect(here, client, "&ack=manual");
    const { id } = await publish(here, "1");
    await publish(there, "2");
    await messagesUntil(first, "2");
    await first.request("ack", { id });
    // What a client confirms may reach the log a second later.
    await settled(async () => compareIds((await site.clientsOf(user))[0]?.cursor ?? ZERO, parseId(id) ?? ZERO) >= 0);
    const second = await connect(there, client, "&ack=manual");
    expect((await first.closed).code).toBe(4409);
    await publish(here, "3");
    await publish(there, "end");
    expect(await messagesUntil(second, "end")).toEqual(["2", "3", "end"]);
    expect(first.rest.filter((frame) => frame.includes('"event"') && frame.includes('"topic"'))).toEqual([]);
  });

  test("a client that has confirmed and comes back elsewhere gets nothing twice", async () => {
    const { site, here, there } = pair();
    const { user, register, publish, connect } = scene();
    const client = await register(there);
    let [relay, other] = [here, there];
    for (let round = 0; round < 2; round++) {
      const frames = await connect(relay, client);
      const wanted = round === 0 ? ["live 0"] : [`away ${round - 1}`, `live ${round}`];
      expect(await publish(other, `live ${round}`, "?wait=10")).toMatchObject({ confirmed: 1 });
      expect(await messagesUntil(frames, `live ${round}`)).toEqual(wanted);
      await frames.close();
      await areAway(site, user);
      await publish(relay, `away ${round}`);
      [relay, other] = [other, relay];
    }
  });

  test("a client that moves while events are published loses none, and gets those on a connection in their order", async () => {
    const { here, there } = pair();
    const { register, publish, connect } = scene();
    const client = await register(here);
    const messages = Array.from({ length: 60 }, (_, index) => String(index));
    const connections = [await connect(here, client)];
    for (const [index, message] of messages.entries()) {
      await publish(index % 2 ? here : there, message);
      if (index % 25 === 24) connections.push(await connect(index === 24 ? there : here, client));
    }
    await publish(there, "end");
    const last = connections.pop();
    if (!last) throw new Error("there is no connection");
    const received = [await eventsUntil(last, "end")];
    for (const frames of connections) {
      expect((await frames.closed).code).toBe(4409);
      const rest = frames.rest.map((frame) => JSON.parse(frame) as EventFrame & { type: string });
      received.push(rest.filter(({ type }) => type === "event"));
    }
    for (const events of received) expect(inOrder(events)).toBe(true);
    const all = new Set(received.flat().map(({ message }) => message));
    expect([...messages, "end"].filter((message) => !all.has(message))).toEqual([]);
  });

  test("a client sees what is published at both relays in the one order of ids, as every client does", async () => {
    const { here, there } = pair();
    const { register, publish, connect } = scene();
    const one = await connect(here, await register(here));
    const two = await connect(there, await register(here));
    const publishing = Array.from({ length: 60 }, (_, index) => publish(index % 2 ? here : there, String(index)));
    const receipts = await Promise.all(publishing);
    await publish(here, "end");
    const [events, others] = [await eventsUntil(one, "end"), await eventsUntil(two, "end")];
    expect(inOrder(events)).toBe(true);
    expect(others.map(({ id }) => id)).toEqual(events.map(({ id }) => id));
    const seen = events.slice(0, -1).map(({ id, message }) => `${id} ${message}`);
    expect(seen.sort()).toEqual(receipts.map(({ id }, index) => `${id} ${index}`).sort());
  });

  test("receipts and confirmations count the clients of both", async () => {
    const { here, there } = pair();
    const { register, publish, connect } = scene();
    await connect(here, await register(here));
    await connect(there, await register(there));
    await register(there);
    const receipt = await publish(here, "1", "?wait=10");
    expect(receipt).toMatchObject({ matched: 3, sent: 2, waiting: 1, confirmed: 2 });
    for (const relay of [here, there]) {
      const found = await answerOf<Receipt & { clients: { state: string }[] }>(relay, "GET", `/events/${receipt.id}`);
      expect(found).toMatchObject({ matched: 3, sent: 0, waiting: 1, confirmed: 2, expired: 0 });
      expect(found.clients.map(({ state }) => state).sort()).toEqual(["confirmed", "confirmed", "waiting"]);
    }
  });

  test("connections are counted on both", async () => {
    const { here, there } = pair();
    const { register, connect } = scene();
    const one = await connect(here, await register(here));
    await connect(there, await register(here));
    // Those of the tests before may just be ending.
    await settled(async () => (await one.request<{ connections: number }>("get_connections")).connections === 2);
  });

  test("an idempotency key is known to both: the event is published once", async () => {
    const { here, there } = pair();
    const { register, publish, connect } = scene();
    const frames = await connect(there, await register(here));
    const send = (relay: typeof here) => publish(relay, "once", "", { "idempotency-key": "key of two relays" });
    const all = await Promise.all(Array.from({ length: 10 }, (_, index) => send(index % 2 ? here : there)));
    all.push(await send(here), await send(there));
    expect(new Set(all.map(({ id }) => id)).size).toBe(1);
    expect(all.filter(({ duplicate }) => duplicate !== true)).toHaveLength(1);
    const other = { "idempotency-key": "key of two relays" };
    expect((await there.send("POST", "/publish", { topic: "x", message: "" }, other)).status).toBe(422);
    await publish(there, "end");
    expect(await messagesUntil(frames, "end")).toEqual(["once", "end"]);
  });
}

const ZERO = { ms: 0, seq: 0 };

/** Whether the ids strictly increase. */
function inOrder(events: readonly EventFrame[]): boolean {
  const ids = events.map(({ id }) => parseId(id) ?? ZERO);
  return ids.every((id, index) => index === 0 || compareIds(ids[index - 1] ?? ZERO, id) < 0);
}
