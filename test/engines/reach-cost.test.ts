import { setTimeout as pause } from "node:timers/promises";
import { expect, onTestFinished, test } from "vitest";
import type { Engine } from "../../src/core/engine.js";
import { Relay } from "../../src/core/relay.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { commit } from "../support/engine.js";
import { relaySettings } from "../support/settings.js";
import { Stage } from "../support/stage.js";

interface Place {
  readonly relay: Relay;
  readonly engine: Engine;
  readonly id: string;
}

/** The longest that others had to wait for their turn, in milliseconds. */
async function longestTurn(work: () => Promise<unknown>): Promise<number> {
  let longest = 0;
  let last = performance.now();
  let isOver = false;
  const look = (): void => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
    if (!isOver) setImmediate(look);
  };
  look();
  await work();
  await new Promise(setImmediate);
  isOver = true;
  return longest;
}

/** A client with a history of 125 changes of a thousand patterns, all of it trimmed, and nothing of it missed: too much to be looked at. */
async function grow({ relay, engine, id }: Place): Promise<void> {
  const patterns = Array.from({ length: 990 }, (_, n) => `a${n}.*.b.*.c.*.d.*.e`);
  for (let n = 0; n < 125; n++) {
    await relay.publisher.publish([{ topic: "o", message: "1", ttl: 1 }]);
    await relay.clients.change(id, { set: ["o", ...patterns, `p${n}.*.x`] });
  }
  await pause(1100);
  for (let n = 0; n < 400; n++) await relay.publisher.publish([{ topic: `other.${n}`, message: "1" }]);
  await commit(engine);
}

const places = {
  memory: async (): Promise<Place> => {
    const engine = new MemoryEngine({ age: 3_600_000, count: 300, bytes: 2 ** 28 });
    const relay = await Relay.start(engine, relaySettings());
    onTestFinished(() => relay.stop());
    const { id } = await relay.clients.register({ userId: 1, topics: ["o"], ttl: 300 });
    return { relay, engine, id };
  },
  lmdb: async (): Promise<Place> => Stage.begin(["o"], { count: 300 }),
};

test.each(Object.entries(places))(
  "a request for a connection of a client with a long history leaves others their turns: %s",
  async (_, start) => {
    const place = await start();
    await grow(place);
    const { connections } = place.relay;
    expect(await longestTurn(() => connections.preview(place.id))).toBeLessThan(50);
    expect(await longestTurn(() => connections.preview(place.id, "start"))).toBeLessThan(50);
  },
  60_000,
);
