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

/** Writes events of 10 bytes, and the pings that are due after them. @returns the payloads of these */
function write(
  confirmation: Confirmation,
  from: number,
  count: number,
  { live = false, bytes = 10, now = 0 } = {},
): string[] {
  const pings: string[] = [];
  for (let number = from; number < from + count; number++) {
    confirmation.wrote(idOf(number), bytes);
    if (confirmation.isStepDone(live)) pings.push(String(confirmation.ask(now)));
  }
  return pings;
}

describe("when pings are sent", () => {
  test("while catching up: after 256 events, or 64 KiB of them", () => {
    expect(write(confirmationOf(), 1, 1000)).toEqual(["256-0", "512-0", "768-0"]);
    expect(write(confirmationOf(), 1, 100, { bytes: 2000 })).toEqual(["33-0", "66-0", "99-0"]);
    expect(write(confirmationOf(), 1, 2, { bytes: 100_000 })).toEqual(["1-0", "2-0"]);
  });

  test("while live: as often only when one is unanswered", () => {
    const confirmation = confirmationOf();
    expect(write(confirmation, 1, 1000, { live: true })).toEqual([]);
    confirmation.ask(0);
    expect(write(confirmation, 1001, 300, { live: true })).toEqual(["1256-0"]);
    confirmation.answered("1256-0");
    expect(write(confirmation, 1301, 1000, { live: true })).toEqual([]);
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
    confirmation.answered("");
    expect(confirmation.isSilent(INTERVAL, INTERVAL)).toBe(false);
    write(confirmation, 1, 3);
    confirmation.ask(0);
    expect(confirmation.isSilent(INTERVAL + 30 * SECOND - 1, INTERVAL)).toBe(false);
    expect(confirmation.isSilent(INTERVAL + 30 * SECOND, INTERVAL)).toBe(true);
  });

  test("no event counts twice, and no more than 256 count", () => {
    const confirmation = confirmationOf();
    write(confirmation, 1, 3);
    confirmation.ask(0);
    confirmation.answered("3-0");
    write(confirmation, 4, 1);
    confirmation.ask(0);
    expect(confirmation.isSilent(INTERVAL + 10 * SECOND, INTERVAL)).toBe(true);
    confirmation.answered("4-0");
    write(confirmation, 5, 10_000, { live: true });
    confirmation.ask(0);
    expect(confirmation.isSilent(INTERVAL + 2560 * SECOND - 1, INTERVAL)).toBe(false);
    expect(confirmation.isSilent(INTERVAL + 2560 * SECOND, INTERVAL)).toBe(true);
  });

  test("not who is heard, or repeats a ping's payload late; and a ping that repeats another changes nothing", () => {
    const confirmation = confirmationOf();
    confirmation.ask(0);
    confirmation.ask(INTERVAL - 1);
    expect(confirmation.isSilent(INTERVAL, INTERVAL)).toBe(true);
    confirmation.hear(1);
    expect(confirmation.isSilent(INTERVAL, INTERVAL)).toBe(false);
    expect(confirmation.isSilent(INTERVAL + 1, INTERVAL)).toBe(true);
    confirmation.answered("9-0");
    expect(confirmation.isSilent(INTERVAL + 1, INTERVAL)).toBe(true);
  });

  test("one pong answers all pings before it; with manual acks it confirms nothing, and shows life", () => {
    const confirmation = confirmationOf(true);
    const pings = write(confirmation, 1, 1024);
    expect(confirmation.answered(pings.at(-1) ?? "")).toBe(undefined);
    expect(confirmation.isSilent(1e9, INTERVAL)).toBe(false);
    const other = confirmationOf();
    write(other, 1, 1024);
    expect(formatId(other.answered("768-0") as EventId)).toBe("768-0");
    expect(other.isSilent(INTERVAL + 2560 * SECOND, INTERVAL)).toBe(true);
    other.answered("1024-0");
    expect(other.isSilent(1e9, INTERVAL)).toBe(false);
  });

  test("never one that handles its events in order and takes 10 s at most for each; and it confirms them all", () => {
    const step = fc.record({
      /** Milliseconds before the next events are written. */
      pause: fc.integer({ min: 0, max: 4 * INTERVAL }),
      count: fc.integer({ min: 0, max: 600 }),
      /** Milliseconds that the client takes for each of them. */
      each: fc.integer({ min: 0, max: 10 * SECOND }),
      bytes: fc.constantFrom(10, 1000, 70_000),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 6 }), fc.constantFrom(2 * SECOND, INTERVAL), (steps, interval) => {
        const client = new SequentialClient(interval);
        for (const { pause, count, each, bytes } of steps) {
          client.passTo(client.now + pause);
          client.write(count, each, bytes);
        }
        client.passTo(Math.max(client.now, client.busyUntil) + 2 * interval);
        expect(client.confirmed).toBe(client.written);
      }),
      { numRuns: 100 },
    );
  });
});

test("a burst for a live client that answered just before leaves it 10 s for each event, too", () => {
  const confirmation = confirmationOf();
  write(confirmation, 1, 1, { live: true });
  confirmation.ask(0);
  confirmation.answered("1-0");
  confirmation.hear(0);
  const count = 3000;
  const each = SECOND;
  const pings = write(confirmation, 2, count, { live: true, now: 0 });
  // One ping in 1 to 3 s: all of them may be due before it.
  const due = confirmation.dueIn(0) ?? 0;
  pings.push(String(confirmation.ask(due)));
  // The client gets to the first ping when it has handled all before it.
  const answer = (Number.parseInt(pings[0] ?? "") - 1) * each;
  expect(confirmation.isSilent(Math.max(due, answer), INTERVAL)).toBe(false);
});

test("pings that are never answered cost no memory each", () => {
  const confirmation = confirmationOf();
  const before = heap();
  for (let number = 1; number <= 100_000; number++) {
    confirmation.wrote(idOf(number), 70_000);
    if (confirmation.isStepDone(true)) confirmation.ask(number);
    // A client that answers no ping, and says something from time to time, is kept.
    confirmation.hear(number);
    if (number === 1) confirmation.ask(number);
  }
  expect(heap() - before).toBeLessThan(1024 * 1024);
  expect(confirmation.isSilent(100_000, INTERVAL)).toBe(false);
});

/** A client that catches up, and the relay's beats, on a clock of their own. */
class SequentialClient {
  readonly confirmation = confirmationOf();
  now = 0;
  /** When the client has handled all that was written. */
  busyUntil = 0;
  written = 0;
  confirmed = 0;
  private readonly pongs: { at: number; payload: string }[] = [];
  private nextBeat: number;

  constructor(private readonly interval: number) {
    this.nextBeat = interval;
  }

  write(count: number, each: number, bytes: number): void {
    for (let left = count; left > 0; left--) {
      this.confirmation.wrote(idOf(++this.written), bytes);
      this.busyUntil = Math.max(this.now, this.busyUntil) + each;
      if (this.confirmation.isStepDone(false)) this.ask();
    }
    if (this.confirmation.dueIn(this.now) === 0) this.ask();
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

  private ask(): void {
    const payload = String(this.confirmation.ask(this.now));
    this.pongs.push({ at: Math.max(this.now, this.busyUntil), payload });
  }

  private pong(): void {
    const { payload } = this.pongs.shift() as { payload: string };
    this.confirmation.hear(this.now);
    this.confirmed = this.confirmation.answered(payload)?.ms ?? this.confirmed;
  }

  private beat(): void {
    if (this.confirmation.isSilent(this.now, this.interval)) throw new Error(`silent at ${this.now}`);
    this.ask();
    this.nextBeat += this.interval;
  }
}
