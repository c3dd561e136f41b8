import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Confirmation } from "../../src/core/confirmation.js";
import { type EventId, formatId, parseId } from "../../src/core/id.js";
import type { Reader } from "../../src/core/reader.js";

const SECOND = 1000;
const INTERVAL = 30 * SECOND;

const idOf = (number: number): EventId => parseId(`${number}-0`) as EventId;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

function heap(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}

function confirmationOf(manual = false): Confirmation {
  const reader = { cursor: idOf(0) } as Reader;
  return new Confirmation(reader, (payload) => Buffer.from(payload), manual);
}

interface Turn {
  /** Whether the connection is live. */
  readonly live?: boolean;
  readonly bytes?: number;
  readonly now?: number;
}

/** Writes events in one turn of the event loop. @returns the payloads of the pings among them */
function write(
  confirmation: Confirmation,
  from: number,
  count: number,
  { live = false, bytes = 10, now = 0 }: Turn = {},
): string[] {
  const pings: string[] = [];
  for (let number = from; number < from + count; number++) {
    confirmation.wrote(idOf(number), bytes);
    const queued = number - from + 1 + pings.length;
    if (confirmation.isStepDone(live, queued)) pings.push(String(confirmation.ask(now)));
  }
  if (confirmation.dueIn(now, live) === 0) pings.push(String(confirmation.ask(now)));
  return pings;
}

describe("when pings are sent", () => {
  test("while catching up: after 128 events, or 64 KiB of them", () => {
    expect(write(confirmationOf(), 1, 400)).toEqual(["128-0", "256-0", "384-0"]);
    expect(write(confirmationOf(), 1, 70, { bytes: 2000 })).toEqual(["33-0", "66-0"]);
    expect(write(confirmationOf(), 1, 2, { bytes: 100_000 })).toEqual(["1-0", "2-0"]);
  });

  test("while live: when the time has come, after 128 events at once, and as above when one is unanswered", () => {
    const confirmation = confirmationOf();
    expect(write(confirmation, 1, 1, { live: true })).toEqual(["1-0"]);
    confirmation.answered("1-0", 0);
    expect(write(confirmation, 2, 100, { live: true, bytes: 10_000 })).toEqual([]);
    expect(write(confirmation, 102, 100, { live: true, bytes: 10_000 })).toEqual([]);
    expect(write(confirmation, 202, 140, { live: true })).toEqual(["329-0"]);
    expect(write(confirmation, 342, 7, { live: true, bytes: 10_000 })).toEqual(["348-0"]);
    expect(write(confirmation, 349, 100, { live: true })).toEqual([]);
    expect(write(confirmation, 449, 50, { live: true })).toEqual(["498-0"]);
    confirmation.answered("498-0", 0);
    expect(write(confirmation, 499, 1, { live: true, now: 3 * SECOND })).toEqual(["499-0"]);
  });

  test("while one is unanswered: never more than 256 events after the one before, whatever a turn brings", () => {
    const turn = fc.record({ count: fc.integer({ min: 0, max: 600 }), live: fc.boolean() });
    fc.assert(
      fc.property(fc.array(turn, { maxLength: 20 }), (turns) => {
        const confirmation = confirmationOf();
        confirmation.ask(0);
        let [written, asked] = [0, 0];
        for (const { count, live } of turns) {
          for (const payload of write(confirmation, written + 1, count, { live })) {
            const number = Number.parseInt(payload);
            expect(number - asked).toBeLessThanOrEqual(256);
            asked = number;
          }
          written += count;
          expect(written - asked).toBeLessThan(128);
        }
      }),
    );
  });

  test("where there are none, none", () => {
    const confirmation = new Confirmation({ cursor: idOf(0) } as Reader, undefined, false);
    expect(write(confirmation, 1, 1000)).toEqual([]);
    expect(confirmation.ask(0)).toBe(undefined);
    expect(confirmation.isSilent(1e9, INTERVAL)).toBe(false);
  });
});

describe("who is silent", () => {
  test("whoever leaves a ping unanswered for the interval, and 10 s for each event before it", () => {
    const confirmation = confirmationOf();
    confirmation.ask(0);
    expect(confirmation.isSilent(INTERVAL - 1, INTERVAL)).toBe(false);
    expect(confirmation.isSilent(INTERVAL, INTERVAL)).toBe(true);
    confirmation.answered("", 0);
    expect(confirmation.isSilent(INTERVAL, INTERVAL)).toBe(false);
    write(confirmation, 1, 3);
    confirmation.ask(0);
    expect(confirmation.isSilent(INTERVAL + 30 * SECOND - 1, INTERVAL)).toBe(false);
    expect(confirmation.isSilent(INTERVAL + 30 * SECOND, INTERVAL)).toBe(true);
    // However much more is written to it.
    for (let number = 4; number < 1000; number++) write(confirmation, number, 1, { live: true, now: number });
    expect(confirmation.isSilent(INTERVAL + 30 * SECOND, INTERVAL)).toBe(true);
  });

  test("the time for events that were answered counts on, as a library may have read ahead; 256 events' at most", () => {
    const confirmation = confirmationOf();
    write(confirmation, 1, 100);
    confirmation.ask(0);
    confirmation.answered("100-0", 0);
    confirmation.ask(INTERVAL);
    expect(confirmation.isSilent(INTERVAL + 1000 * SECOND - 1, INTERVAL)).toBe(false);
    expect(confirmation.isSilent(INTERVAL + 1000 * SECOND, INTERVAL)).toBe(true);
    confirmation.answered("100-0", INTERVAL);
    for (let number = 101; number < 1100; number += 10) {
      write(confirmation, number, 10, { now: 2 * INTERVAL });
      confirmation.ask(2 * INTERVAL);
      if (number < 1000) confirmation.answered(`${number + 9}-0`, 2 * INTERVAL);
    }
    expect(confirmation.isSilent(3 * INTERVAL + 2560 * SECOND - 1, INTERVAL)).toBe(false);
    expect(confirmation.isSilent(3 * INTERVAL + 2560 * SECOND, INTERVAL)).toBe(true);
  });

  test("that time ends: who got an event a minute is found as soon as after one", () => {
    const confirmation = confirmationOf();
    for (let number = 1; number <= 100; number++) {
      for (const payload of write(confirmation, number, 1, { live: true, now: number * 60 * SECOND })) {
        if (number < 100) confirmation.answered(payload, number * 60 * SECOND);
      }
    }
    expect(confirmation.isSilent(6000 * SECOND + INTERVAL + 10 * SECOND, INTERVAL)).toBe(true);
  });

  test("a pong for a ping that another one follows allows for the events that were sent, and for no more", () => {
    const confirmation = confirmationOf();
    expect(write(confirmation, 1, 1, { live: true, now: 10 * SECOND })).toEqual(["1-0"]);
    expect(write(confirmation, 2, 1, { live: true, now: 14 * SECOND })).toEqual(["2-0"]);
    // The network was slow for a moment.
    confirmation.answered("1-0", 15 * SECOND);
    confirmation.answered("2-0", 16 * SECOND);
    // Then it is gone. Two events are 20 seconds.
    confirmation.ask(60 * SECOND);
    expect(confirmation.isSilent(60 * SECOND + INTERVAL + 20 * SECOND, INTERVAL)).toBe(true);
  });

  test("not who is heard; a ping that repeats another, and a pong for no ping, change nothing", () => {
    const confirmation = confirmationOf();
    confirmation.ask(0);
    confirmation.ask(INTERVAL - 1);
    expect(confirmation.isSilent(INTERVAL, INTERVAL)).toBe(true);
    confirmation.hear(1);
    expect(confirmation.isSilent(INTERVAL, INTERVAL)).toBe(false);
    expect(confirmation.isSilent(INTERVAL + 1, INTERVAL)).toBe(true);
    for (const payload of ["9-0", "x", "1".repeat(125)]) expect(confirmation.answered(payload, 1)).toBe(undefined);
    expect(confirmation.isSilent(INTERVAL + 1, INTERVAL)).toBe(true);
  });

  test("one pong answers all pings before it; with manual acks it confirms nothing, and shows life", () => {
    const confirmation = confirmationOf(true);
    expect(write(confirmation, 1, 1000).at(-1)).toBe("896-0");
    expect(confirmation.answered("896-0", 0)).toBe(undefined);
    expect(confirmation.isSilent(1e9, INTERVAL)).toBe(false);
    const other = confirmationOf();
    write(other, 1, 1024);
    expect(formatId(other.answered("768-0", 0) as EventId)).toBe("768-0");
    expect(other.isSilent(INTERVAL + 2560 * SECOND, INTERVAL)).toBe(true);
    other.answered("1024-0", 0);
    expect(other.isSilent(1e9, INTERVAL)).toBe(false);
  });

  test("never one that handles its events in order and takes 10 s at most for each; and it confirms them all", () => {
    const step = fc.record({
      /** Milliseconds before the next events are written. */
      pause: fc.oneof(fc.integer({ min: 0, max: 1000 }), fc.integer({ min: 0, max: 4 * INTERVAL })),
      // Few enough between two timed pings, or many at once.
      count: fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 128, max: 600 })),
      live: fc.boolean(),
      /** Milliseconds that the client takes for each of them. */
      each: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 10 * SECOND })),
      bytes: fc.constantFrom(10, 1000, 70_000),
    });
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 6 }),
        fc.constantFrom(2 * SECOND, INTERVAL),
        fc.constantFrom(0, 100),
        (steps, interval, ahead) => {
          const client = new SequentialClient(interval, ahead);
          for (const { pause, count, each, ...turn } of steps) {
            client.passTo(client.now + pause);
            client.write(count, each, turn);
          }
          client.passTo(Math.max(client.now, client.busyUntil) + 2 * interval);
          expect(client.confirmed).toBe(client.written);
        },
      ),
      { numRuns: 100 },
    );
  });
});

test("pings that are never answered cost no memory each", () => {
  const confirmation = confirmationOf();
  const before = heap();
  for (let number = 1; number <= 100_000; number++) {
    write(confirmation, number, 1, { live: true, bytes: 70_000, now: number });
    // A client that answers no ping, and says something from time to time, is kept.
    confirmation.hear(number);
  }
  expect(heap() - before).toBeLessThan(1024 * 1024);
  expect(confirmation.isSilent(100_000, INTERVAL)).toBe(false);
});

/** A client, and the relay's beats, on a clock of their own. */
class SequentialClient {
  readonly confirmation = confirmationOf();
  now = 0;
  /** When the client has handled all that was written. */
  busyUntil = 0;
  written = 0;
  confirmed = 0;
  private readonly pongs: { at: number; payload: string }[] = [];
  private nextBeat: number;

  /** @param ahead how many events the client reads, and answers for, before it handles them */
  constructor(
    private readonly interval: number,
    private readonly ahead: number,
  ) {
    this.nextBeat = interval;
  }

  write(count: number, each: number, turn: Turn): void {
    const first = this.written + 1;
    const begin = Math.max(this.now, this.busyUntil);
    for (const payload of write(this.confirmation, first, count, { ...turn, now: this.now })) {
      const before = Math.max(0, Number.parseInt(payload) - first + 1 - this.ahead);
      this.pongs.push({ at: Math.max(this.pongs.at(-1)?.at ?? 0, begin + before * each), payload });
    }
    this.written += count;
    this.busyUntil = begin + count * each;
  }

  /** @throws when the client counts as silent meanwhile */
  passTo(time: number): void {
    for (;;) {
      const pong = this.pongs[0]?.at ?? Infinity;
      const at = Math.min(pong, this.nextBeat);
      if (at > time) break;
      this.now = at;
      if (pong <= this.nextBeat) this.pong();
      else this.beat();
    }
    this.now = time;
  }

  private pong(): void {
    const { payload } = this.pongs.shift() as { payload: string };
    this.confirmation.hear(this.now);
    this.confirmed = this.confirmation.answered(payload, this.now)?.ms ?? this.confirmed;
  }

  private beat(): void {
    if (this.confirmation.isSilent(this.now, this.interval)) throw new Error(`silent at ${this.now}`);
    this.pongs.push({ at: Math.max(this.now, this.busyUntil), payload: String(this.confirmation.ask(this.now)) });
    this.nextBeat += this.interval;
  }
}
