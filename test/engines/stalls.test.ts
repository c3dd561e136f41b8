import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { EventDraft } from "../../src/core/event.js";
import { Relay } from "../../src/core/relay.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import type { LocalEngine } from "../../src/engines/local/local-engine.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { relaySettings } from "../support/settings.js";
import { open } from "../support/sink.js";
import { longestTurn, until } from "../support/turns.js";

const ROOMY = { age: 3_600_000, count: 1_000_000, bytes: 1_000_000_000 };
const TOPICS = 100_000;

/** Units of work that one turn may take: about 50 ms on a fast machine. */
const BOUND = 12;

const THOUSAND = Array.from({ length: 1000 }, (_, index) => index);

/** Different in the second segment, so that each of many patterns could match all of them. */
const wide = (index: number): string => `w.${index}.${index % 2000}`;

const deep = Array.from({ length: 127 }, () => "a").join(".");

const lists = {
  "patterns that match half of the topics": THOUSAND.map((index) => `w.*.${index}`),
  "patterns that match nothing": THOUSAND.map((index) => `w.*.x${index}`),
  "patterns that begin in many ways": THOUSAND.map((index) => `w.${index * 50}.*`),
  "exact topics": THOUSAND.map((index) => wide(index * 50)),
  // As many as there may be.
  "patterns as deep as they can be": THOUSAND.slice(0, 78).map((index) => {
    const bits = index.toString(2).padStart(10, "0").replaceAll("0", "a.").replaceAll("1", "*.");
    return `${bits}${deep.slice(bits.length)}`;
  }),
};

const engines = {
  memory: () => new MemoryEngine(ROOMY),
  lmdb: (directory: string) =>
    openLmdbEngine({ directory, retention: ROOMY, window: { count: 50_000, bytes: 2 ** 26 } }),
};

for (const [name, make] of Object.entries(engines)) {
  describe(`one client with a thousand subscriptions does not stall the others, ${name}`, () => {
    const directory = mkdtempSync(join(tmpdir(), "topic-relay-"));
    let engine: LocalEngine;
    let relay: Relay;

    beforeAll(async () => {
      engine = await make(directory);
      relay = await Relay.start(engine, relaySettings());
      await publish(Array.from({ length: TOPICS }, (_, index) => ({ topic: wide(index), message: "1" })));
      await publish(Array.from({ length: 1000 }, () => ({ topic: `${deep}.b`, message: "1" })));
      const users = THOUSAND.flatMap((user) => THOUSAND.slice(0, 10).map((more) => `${user}.${more}`));
      await publish(Array.from({ length: 100 }, () => ({ topic: "crowd", users, message: "1" })));
    }, 60_000);

    afterAll(async () => {
      await relay.stop();
      await engine.close();
      rmSync(directory, { recursive: true, force: true });
    });

    /** In parts, as a journal can take them. */
    async function publish(drafts: readonly EventDraft[]): Promise<void> {
      for (let from = 0; from < drafts.length; from += 5000) await engine.append(drafts.slice(from, from + 5000));
    }

    async function register(topics: readonly string[]): Promise<string> {
      return (await relay.clients.register({ userId: 1, topics, ttl: 300 })).id;
    }

    async function connect(id: string, since: "start" | undefined): Promise<void> {
      const { connection } = await open(relay, id, { since });
      await until(() => connection.live || connection.closed);
      expect(connection.live).toBe(true);
      await relay.connections.closed(connection);
    }

    for (const [what, topics] of Object.entries(lists)) {
      test(`reading the log from its start with ${what}`, { timeout: 120_000 }, async () => {
        expect(await longestTurn(async () => connect(await register(topics), "start"))).toBeLessThan(BOUND);
      });

      test(`connecting at the head with ${what}`, { timeout: 120_000 }, async () => {
        expect(await longestTurn(async () => connect(await register(topics), undefined))).toBeLessThan(BOUND);
      });

      test(`catching up and changing topics with ${what}`, { timeout: 120_000 }, async () => {
        const away = await Promise.all([1, 2, 3].map(() => register(topics)));
        for (const id of away) await relay.clients.change(id, { set: topics.slice(1) });
        await publish(Array.from({ length: 20_000 }, (_, index) => ({ topic: `w.${index}.y`, message: "1" })));
        const changing = await longestTurn(async () => {
          const [id = ""] = away;
          const tooMany = THOUSAND.map((index) => `too.many.${index}`);
          await expect(relay.clients.change(id, { add: tooMany })).rejects.toThrow("at most 1000 topics");
          await relay.clients.change(id, { set: [...topics].reverse() });
        });
        expect(changing).toBeLessThan(BOUND);
        expect(await longestTurn(async () => connect(away.pop() ?? "", undefined))).toBeLessThan(BOUND);
      });
    }
  });
}
