import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import type { Connection } from "../../src/core/connection.js";
import type { OpenOptions } from "../../src/core/connections.js";
import { parseId } from "../../src/core/id.js";

import { Relay } from "../../src/core/relay.js";
import { Replacements } from "../../src/core/replacements.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { relaySettings, strictObserver } from "../support/settings.js";
import { lineEncoders, MemorySink, turns } from "../support/sink.js";

beforeEach(() => void vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] }));
afterEach(() => void vi.useRealTimers());

interface Report {
  id: string;
  userId: unknown;
  replacements: number;
}

class Reader {
  readonly sink = new MemorySink();
  connection: Connection | undefined;
  error: unknown;
  isWaiting = true;
}

/** A relay with one client, and readers of it that come and go. */
class Stage {
  readonly reports: Report[] = [];
  readonly limits: string[] = [];
  relay!: Relay;
  id = "";

  static async begin({ ttl = 300, retained = 1_000_000 } = {}): Promise<Stage> {
    const stage = new Stage();
    const settings = relaySettings();
    settings.observer.on("limit.reached", ({ limit }) => void stage.limits.push(limit));
    settings.observer.on("client.contested", ({ client: id, ...more }) => void stage.reports.push({ id, ...more }));
    const retention = { age: 3_600_000, count: retained, bytes: 1_000_000_000 };
    stage.relay = await Relay.start(new MemoryEngine(retention), settings);
    onTestFinished(() => stage.relay.stop());
    stage.id = (await stage.relay.clients.register({ userId: 7, topics: ["a"], ttl })).id;
    return stage;
  }

  /** A reader connects. It may have to wait. */
  async arrive(options?: OpenOptions, encoder = lineEncoders.json): Promise<Reader> {
    const reader = new Reader();
    void this.relay.connections
      .open(this.id, reader.sink, encoder, options)
      .then(
        (connection) => (reader.connection = connection),
        (error: unknown) => (reader.error = error),
      )
      .finally(() => (reader.isWaiting = false));
    await turns(20);
    return reader;
  }

  /** Takes over three times. @returns the present reader */
  async contest(): Promise<Reader> {
    for (let count = 0; count < 3; count++) await this.arrive();
    return this.arrive();
  }

  /** A reader's transport ends. */
  async lose({ sink, connection }: Reader): Promise<void> {
    sink.open = false;
    if (connection) await this.relay.connections.closed(connection);
    await turns(20);
  }

  async publish(message: string): Promise<void> {
    await this.relay.publisher.publish([{ topic: "a", message: JSON.stringify(message) }]);
    await turns(20);
  }
}

async function pass(milliseconds: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(milliseconds);
  await turns(20);
}

function received({ sink }: Reader): unknown[] {
  return sink.events.map(({ message }) => message);
}

function closeOf({ sink }: Reader): number | undefined {
  return sink.closed?.code;
}

function confirm({ sink, connection }: Reader): void {
  const last = parseId(sink.events.at(-1)?.id ?? "");
  if (last) connection?.ack(last);
}

describe("a newcomer to a contested client", () => {
  test("waits for 5 seconds, in which the present connection goes on, and then takes over", async () => {
    const stage = await Stage.begin();
    const present = await stage.contest();
    expect([present.isWaiting, stage.limits]).toEqual([false, []]);
    const newcomer = await stage.arrive();
    await pass(4500);
    await stage.publish("meanwhile");
    expect([closeOf(present), newcomer.isWaiting, newcomer.sink.lines]).toEqual([undefined, true, []]);
    await pass(500);
    expect([closeOf(present), newcomer.isWaiting, received(present)]).toEqual([4409, false, ["meanwhile"]]);
    await stage.publish("then");
    expect([received(present), received(newcomer)]).toEqual([["meanwhile"], ["meanwhile", "then"]]);
    expect(stage.limits).toEqual(["replacements"]);
  });

  test("gives way to a later one, which waits only for the rest of the time", async () => {
    const stage = await Stage.begin();
    const present = await stage.contest();
    const first = await stage.arrive();
    await pass(2500);
    const second = await stage.arrive();
    await pass(2000);
    const third = await stage.arrive();
    // None that is closed could come back now and take that place once more.
    expect([first, second, third].map((reader) => [reader.isWaiting, closeOf(reader)])).toEqual(
      Array.from({ length: 3 }, () => [true, undefined]),
    );
    await pass(500);
    expect([present, first, second, third].map(closeOf)).toEqual([4409, 4409, 4409, undefined]);
    expect([first.connection, second.connection]).toEqual([undefined, undefined]);
    expect(third.connection?.open).toBe(true);
    expect(first.sink.frames).toEqual([
      { type: "notification", data: expect.objectContaining({ event: "disconnected", code: 4409 }) },
    ]);
  });

  test("does not take over when it has gone away meanwhile", async () => {
    const stage = await Stage.begin();
    const present = await stage.contest();
    await stage.lose(await stage.arrive());
    await pass(20_000);
    expect([closeOf(present), present.connection?.open]).toEqual([undefined, true]);
    await stage.publish("still here");
    expect(received(present)).toEqual(["still here"]);
  });

  test("takes over when only a later one has gone away", async () => {
    const stage = await Stage.begin();
    const present = await stage.contest();
    const stays = await stage.arrive();
    await stage.lose(await stage.arrive());
    await pass(5000);
    expect([closeOf(present), stays.connection?.open]).toEqual([4409, true]);
  });

  test.each([0, 300])("is let in at once when the present connection ends (ttl %i)", async (ttl) => {
    const stage = await Stage.begin({ ttl });
    const present = await stage.contest();
    const newcomer = await stage.arrive();
    await stage.lose(present);
    expect(newcomer.connection?.open).toBe(true);
    expect((await stage.relay.clients.get(stage.id)).expiresAt).toBeUndefined();
    await pass(20_000);
    await stage.publish("later");
    expect(received(newcomer)).toEqual(["later"]);
  });

  test("is let in, and the client's clock starts, also when it goes away in that moment", async () => {
    const stage = await Stage.begin();
    const present = await stage.contest();
    const newcomer = await stage.arrive();
    const lost = stage.lose(present);
    newcomer.sink.open = false;
    await lost;
    await stage.lose(newcomer);
    expect((await stage.relay.clients.get(stage.id)).expiresAt).toBeGreaterThan(0);
  });

  test("gives way to one that comes when the present connection is ending, and does not wait", async () => {
    const stage = await Stage.begin();
    const present = await stage.contest();
    const early = await stage.arrive();
    present.connection?.close({ reason: "silent" });
    const late = await stage.arrive();
    expect([late.connection?.open, closeOf(early)]).toEqual([true, 4409]);
    await pass(20_000);
    expect(closeOf(late)).toBeUndefined();
  });

  test("is closed at once with 4404 when the client is removed", async () => {
    const stage = await Stage.begin();
    const present = await stage.contest();
    const newcomer = await stage.arrive();
    await stage.relay.clients.remove(stage.id);
    await turns();
    expect([closeOf(present), closeOf(newcomer), newcomer.isWaiting]).toEqual([4404, 4404, false]);
  });

  test("is closed at once with 4401 when the key that its client came with is removed", async () => {
    const stage = await Stage.begin();
    stage.id = (await stage.relay.clients.register({ userId: 7, topics: ["a"], ttl: 300, key: "k" })).id;
    const present = await stage.contest();
    const newcomer = await stage.arrive();
    await stage.relay.lifetimes.retainKeys(new Set());
    await turns(20);
    expect([present, newcomer].map(closeOf)).toEqual([4401, 4401]);
  });

  test("is closed with 1012 when the relay stops", async () => {
    const stage = await Stage.begin();
    const present = await stage.contest();
    const newcomer = await stage.arrive();
    await stage.relay.stop();
    await turns();
    expect([present, newcomer].map(closeOf)).toEqual([1012, 1012]);
    expect(newcomer.sink.frames[0]?.data).toMatchObject({ code: 1012, retry_after_ms: expect.any(Number) as number });
  });
});

test("a newcomer is closed with 1012 that comes while the relay stops and another one is being let in", async () => {
  const stage = await Stage.begin();
  await stage.lose(await stage.contest());
  const arriving = stage.arrive();
  const stopping = stage.relay.stop();
  const late = await stage.arrive();
  await stopping;
  expect([await arriving, late].map(closeOf)).toEqual([1012, 1012]);
});

test("a newcomer that is gone before it could take over leaves the present connection as it is", async () => {
  const stage = await Stage.begin();
  const present = await stage.arrive();
  const arriving = stage.arrive();
  const gone = new Reader();
  gone.sink.open = false;
  expect(await stage.relay.connections.open(stage.id, gone.sink, lineEncoders.json)).toBeUndefined();
  const next = await arriving;
  expect([closeOf(present), closeOf(next), next.connection?.open]).toEqual([4409, undefined, true]);
});

test("a replacement that was under way does not prolong the time of a newcomer", async () => {
  const replacements = new Replacements({ observer: strictObserver() });
  for (let count = 0; count < 3; count++) replacements.note("a", 1);
  const waiting = replacements.wait("a", new MemorySink(), lineEncoders.raw);
  let isDecided = false;
  void waiting.finally(() => (isDecided = true));
  await pass(1000);
  replacements.note("a", 1);
  await pass(4000);
  expect([isDecided, await waiting]).toEqual([true, true]);
});

describe("where a newcomer goes on is looked up when it takes over", () => {
  test("after what was confirmed while it waited", async () => {
    const stage = await Stage.begin();
    const present = await stage.contest();
    await stage.publish("before");
    const newcomer = await stage.arrive();
    await stage.publish("meanwhile");
    confirm(present);
    await stage.publish("not confirmed");
    await pass(5000);
    expect(received(newcomer)).toEqual(["not confirmed"]);
  });

  test.each([
    ["json", undefined],
    ["raw", 1013],
  ] as const)("and %s is told of a gap that came meanwhile", async (format, closed) => {
    const stage = await Stage.begin({ retained: 5 });
    const present = await stage.contest();
    // Does not read: what is published waits in the log.
    present.sink.stalled = true;
    const { gap } = await stage.relay.connections.preview(stage.id);
    const newcomer = await stage.arrive({ gapSaid: gap }, lineEncoders[format]);
    for (let count = 0; count < 20; count++) await stage.publish(`${count}`);
    await pass(5000);
    expect([gap, closeOf(newcomer)]).toEqual([false, closed]);
    if (format === "json") expect(newcomer.sink.frames[0]?.data).toMatchObject({ event: "connected", gap: true });
  });
});

describe("what does not make a client contested", () => {
  test("reconnects after lost connections, however many", async () => {
    const stage = await Stage.begin();
    for (let count = 0; count < 50; count++) {
      const reader = await stage.arrive();
      expect(reader.connection?.open).toBe(true);
      // Sometimes the relay learns of the end only after the next one has come.
      reader.sink.open = false;
      if (count % 2 === 0) await stage.lose(reader);
    }
    expect(stage.reports).toEqual([]);
  });

  test("replacements that are rare", async () => {
    const stage = await Stage.begin();
    for (let count = 0; count < 20; count++) {
      expect((await stage.arrive()).isWaiting).toBe(false);
      await pass(5100);
    }
    expect(stage.reports).toEqual([]);
  });

  test("a contest that was over 10 seconds ago", async () => {
    const stage = await Stage.begin();
    await stage.contest();
    expect(stage.relay.connections.isContested(stage.id)).toBe(true);
    await pass(10_000);
    expect(stage.relay.connections.isContested(stage.id)).toBe(false);
    expect((await stage.arrive()).isWaiting).toBe(false);
  });
});

test("a contest is reported once a minute, with the replacements since the last report", async () => {
  const stage = await Stage.begin();
  const { id } = stage;
  await stage.contest();
  for (let count = 0; count < 16; count++) {
    await stage.arrive();
    await pass(5000);
  }
  const report = { id, userId: 7 };
  expect(stage.reports[0]).toEqual({ ...report, replacements: 3 });
  expect(stage.reports).toHaveLength(2);
  expect(stage.reports[1]?.replacements).toBeGreaterThanOrEqual(12);
  expect(stage.reports[1]?.replacements).toBeLessThanOrEqual(13);
  // Also of one that begins again within the minute.
  await pass(15_000);
  await stage.contest();
  expect(stage.reports).toHaveLength(2);
});

test("clients are forgotten in time: nothing is left of them, not even a timer", async () => {
  const reports: string[] = [];
  const observer = strictObserver();
  observer.on("client.contested", ({ client }) => void reports.push(client));
  const replacements = new Replacements({ observer });
  for (let client = 0; client < 1000; client++) {
    replacements.note(`once ${client}`, 1);
    for (let count = 0; count < 3; count++) replacements.note(`often ${client}`, 1);
    void replacements.wait(`often ${client}`, new MemorySink(), lineEncoders.raw);
  }
  await turns(1);
  expect([reports.length, replacements.size, vi.getTimerCount()]).toEqual([1000, 2000, 1]);
  await pass(11_000);
  expect(replacements.size).toBe(1000);
  await pass(59_000);
  expect([replacements.size, vi.getTimerCount()]).toEqual([0, 0]);
});
