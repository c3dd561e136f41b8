import { describe, expect, test } from "vitest";
import type { Receipt } from "../../support/relay.js";
import { answerOf, messagesUntil, type Pair, scene, settled } from "./scene.js";
import type { SharedRelay, Site } from "./site.js";

/** How a relay ends, and the code with which it closes its connections. */
interface End {
  readonly how: string;
  readonly code: number;
  readonly end: (relay: SharedRelay) => Promise<void> | undefined;
}

const IN_ORDER: End = { how: "ends in order", code: 1012, end: (relay) => relay.end() };
const KILLED: End = { how: "is killed", code: 1006, end: (relay) => relay.kill?.() };

/** The other relays take over the clients of one that ends. */
export function testEnds(pair: () => Pair, canKill: boolean): void {
  describe.each(canKill ? [IN_ORDER, KILLED] : [IN_ORDER])("when a relay $how", ({ end, code }) => {
    /** Events that three clients of the relay were to get when it ended. */
    let events: readonly string[] = [];

    test("its clients, connected and waiting, are the others', and nothing that was acknowledged is lost", async () => {
      const { site, here, there } = pair();
      const { topic, user, register, publish, connect } = scene();
      const third = await site.start();
      const clients = [await register(third), await register(here), await register(third)] as const;
      const [connected, moved] = clients;
      const open = [await connect(third, connected, "&ack=manual"), await connect(third, moved, "&ack=manual")];
      const receipts = [await publish(third, "1"), await publish(here, "2")] as const;
      for (const receipt of receipts) expect(receipt).toMatchObject({ matched: 3, sent: 2, waiting: 1 });
      events = receipts.map(({ id }) => id);
      for (const frames of open) {
        await messagesUntil(frames, "2");
        await frames.request("ack", { id: events[0] });
      }
      await settled(async () => (await confirmed(site, user, events[0] ?? "")) === 2);

      const acknowledged = await publishedWhile(
        (message) => publish(third, message),
        () => end(third),
      );
      for (const { closed } of open) expect((await closed).code).toBe(code);
      await settled(async () => (await site.held(user)) === 3);
      expect(await publish(here, "3")).toMatchObject({ matched: 3, sent: 0, waiting: 3 });
      for (const [index, client] of clients.entries()) {
        const relay = index === 0 ? here : there;
        expect(await answerOf(relay, "GET", `/register/${client.id}`)).toMatchObject({ topics: [topic] });
        const received = await messagesUntil(await connect(relay, client), "3");
        const racing = received.filter(isRacing);
        expect(received.filter((message) => !isRacing(message))).toEqual(index < 2 ? ["2", "3"] : ["1", "2", "3"]);
        expect(new Set(racing).size).toBe(racing.length);
        expect(acknowledged.filter((message) => !racing.includes(message))).toEqual([]);
      }
      expect(await publish(here, "4", "?wait=10")).toMatchObject({ matched: 3, sent: 3, confirmed: 3 });
    });

    test("nothing wrong is said of the events that its clients were to get: what is not known is not said", async () => {
      const { here, there } = pair();
      expect(events).toHaveLength(2);
      for (const id of events) {
        for (const relay of [here, there]) {
          const { matched } = await answerOf<Partial<Receipt>>(relay, "GET", `/events/${id}`);
          expect([3, undefined]).toContain(matched);
        }
      }
    });
  });
}

/** How many clients of the user have confirmed up to this event, as far as the log knows. */
async function confirmed(site: Site, user: string, event: string): Promise<number> {
  const clients = await site.clientsOf(user);
  return clients.filter(({ cursor: { ms, seq } }) => `${ms}-${seq}` === event).length;
}

/** Publishes until a relay ends. @returns the messages that were acknowledged */
async function publishedWhile(
  publish: (message: string) => Promise<unknown>,
  end: () => Promise<void> | undefined,
): Promise<string[]> {
  const messages = Array.from({ length: 50 }, (_, index) => `racing ${index}`);
  const publishing = messages.map((message) => publish(message));
  const results = Promise.allSettled(publishing);
  await publishing[0];
  await end();
  const all = await results;
  return messages.filter((_, index) => all[index]?.status === "fulfilled");
}

function isRacing(message: string): boolean {
  return message.startsWith("racing");
}
