import fc from "fast-check";
import { expect } from "vitest";
import { compareIds, parseId, type EventId } from "../../src/core/id.js";
import type { Relay } from "../../src/core/relay.js";
import { matchesTopic } from "../../src/core/topics.js";
import { open, type Opened, turns } from "./sink.js";

type Step =
  | { do: "publish"; topic: string; user: number | undefined; count: number }
  | { do: "connect" | "drop" | "stall" | "resume" | "pong" | "wait" }
  | { do: "restart" }
  | { do: "topics"; topics: string[] };

const steps: fc.WeightedArbitrary<Step>[] = [
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("publish" as const),
      topic: fc.constantFrom("a", "b", "a.x"),
      user: fc.constantFrom(undefined, 1, 2),
      // Seldom enough for more than one batch of reading.
      count: fc.oneof(
        { weight: 9, arbitrary: fc.integer({ min: 1, max: 5 }) },
        { weight: 1, arbitrary: fc.constant(300) },
      ),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constantFrom("connect", "drop", "stall", "resume", "pong", "wait" as const) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("topics" as const),
      topics: fc.uniqueArray(fc.constantFrom("a", "b", "a.*", ">")),
    }),
  },
];

/** What may happen to a client, and to the relay if it can be restarted. */
export function anySteps(restarts: boolean): fc.Arbitrary<Step[]> {
  const restart = { weight: restarts ? 1 : 0, arbitrary: fc.constant({ do: "restart" as const }) };
  return fc.array(fc.oneof(...steps, restart), { maxLength: 40 });
}

/** A relay that may be another one after a restart. */
export interface Home {
  readonly relay: Relay;
  readonly restart: () => Promise<void>;
}

export function idOf(text: unknown): EventId {
  return parseId(String(text)) as EventId;
}

/** One client of user 1, and what it must get by the definition: what matched when it was published. */
export class Model {
  topics = ["a"];
  readonly matching: string[] = [];
  private current: Opened | undefined;
  /** The highest id that the client has ever answered a ping for, and the highest that it has seen. */
  private ponged: EventId;
  private seen: EventId;
  /** What it had answered for when it connected last. */
  private known: EventId;

  constructor(
    private readonly home: Home,
    private readonly id: string,
    start: EventId,
  ) {
    this.ponged = start;
    this.seen = start;
    this.known = start;
  }

  async perform(action: Step): Promise<void> {
    switch (action.do) {
      case "publish":
        return this.publish(action.topic, action.user, action.count);
      case "topics":
        await this.home.relay.clients.change(this.id, { set: action.topics });
        this.topics = action.topics;
        return undefined;
      case "restart":
        this.drop();
        await this.home.restart();
        // Graceful: what was confirmed is known.
        this.known = this.ponged;
        return undefined;
      case "connect":
        this.drop();
        this.current = await open(this.home.relay, this.id);
        this.known = this.ponged;
        return undefined;
      case "drop":
        return this.drop();
      case "stall":
        if (this.current) this.current.sink.stalled = true;
        return undefined;
      case "resume":
        this.current?.sink.resume();
        return undefined;
      case "pong":
        return this.pong();
      case "wait":
        return turns();
    }
  }

  /** Comes back and reads to the end: then nothing is missing. */
  async finish(): Promise<void> {
    await this.perform({ do: "connect" });
    const expected = this.matching.at(-1);
    const before = this.current?.sink.events.length;
    for (let turn = 0; turn < 200 && this.current?.sink.events.at(-1)?.id !== expected; turn++) await turns(1);
    expect(before).toBeTypeOf("number");
    this.check(true);
  }

  private async publish(topic: string, user: number | undefined, count: number): Promise<void> {
    const users = user === undefined ? undefined : [user];
    const drafts = Array.from({ length: count }, (_, index) => ({
      topic,
      message: String(index),
      ...(users && { users }),
    }));
    const matches = user !== 2 && this.topics.some((name) => matchesTopic(name, topic));
    const replies = await this.home.relay.publisher.publish(drafts);
    for (const { id, matched, sent, waiting } of replies) {
      expect(matched).toBe(matches ? 1 : 0);
      expect((sent ?? 0) + (waiting ?? 0)).toBe(matched);
      if (matches) this.matching.push(id);
    }
  }

  private pong(): void {
    const payload = this.current?.sink.pings.at(-1);
    if (!payload || !this.current) return;
    this.current.connection.ponged(payload);
    if (compareIds(idOf(payload), this.ponged) > 0) this.ponged = idOf(payload);
  }

  private drop(): void {
    if (!this.current) return;
    this.check(false);
    const last = this.current.sink.events.at(-1);
    if (last && compareIds(idOf(last.id), this.seen) > 0) this.seen = idOf(last.id);
    void this.home.relay.connections.closed(this.current.connection);
    this.current = undefined;
  }

  /** What one connection got is a stretch of what it must get, from its cursor on, in order, each once. */
  private check(toTheEnd: boolean): void {
    const [connected] = this.current?.sink.frames ?? [];
    if (!connected) return;
    const cursor = idOf(connected.data?.["cursor"]);
    expect(connected.data?.["gap"]).toBe(false);
    expect(compareIds(cursor, this.known)).toBeGreaterThanOrEqual(0);
    // Never ahead: whatever it matched and has not seen comes after the cursor.
    const unseen = this.matching.find((id) => compareIds(idOf(id), this.seen) > 0);
    if (unseen) expect(compareIds(cursor, idOf(unseen))).toBeLessThan(0);
    const due = this.matching.filter((id) => compareIds(idOf(id), cursor) > 0);
    const got = this.current?.sink.events.map(({ id }) => id) ?? [];
    expect(got).toEqual(toTheEnd ? due : due.slice(0, got.length));
  }
}
