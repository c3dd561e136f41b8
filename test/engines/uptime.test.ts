import { describe, expect, test } from "vitest";
import { type ClientRecord, NOBODY } from "../../src/core/client.js";
import { Clock } from "../../src/core/clock.js";
import type { EventId } from "../../src/core/id.js";
import { LIVE, NEVER } from "../../src/core/moment.js";
import { Uptime, type UptimeState } from "../../src/engines/lmdb/uptime.js";
import { clientRecord } from "../support/engine.js";

const HOUR = 3_600_000;

function at(ms: number): EventId {
  return { ms, seq: 0 };
}

type Kept = UptimeState & { readonly head: EventId; readonly floor: EventId };

/** A relay that starts at some time, with what the one before has written. */
function start(now: number, kept?: Kept): { uptime: Uptime; end: (after: number, clean?: true) => Kept } {
  let [wall, steady] = [now, 0];
  const clock = new Clock(
    0,
    () => wall,
    () => steady,
  );
  const uptime = new Uptime(clock, kept);
  const end = (after: number, clean?: true): Kept => {
    wall += after;
    steady += after;
    return { head: at(now), floor: at(0), ...uptime.state(clean) };
  };
  return { uptime, end };
}

test("a deadline moves by the time that no relay runs, over several restarts", () => {
  const first = start(HOUR);
  const stored = first.uptime.stored(2 * HOUR);
  const second = start(5 * HOUR, first.end(1000, true));
  expect(second.uptime.restored(stored, 1)).toBe(6 * HOUR - 1000);
  const third = start(9 * HOUR, second.end(2000, true));
  expect(third.uptime.restored(stored, 1)).toBe(10 * HOUR - 3000);
  expect(third.uptime.stored(third.uptime.restored(stored, 1))).toBe(stored);
});

test("loading is time that no relay runs: a deadline is later by as much, also on disk", () => {
  const first = start(HOUR);
  const stored = first.uptime.stored(HOUR + 10);
  const second = start(2 * HOUR, first.end(0, true));
  const restored = second.uptime.restored(stored, 1);
  second.end(8000);
  expect(second.uptime.begin()).toBe(8000);
  expect(restored + 8000).toBe(2 * HOUR + 8010);
  expect(second.uptime.stored(restored + 8000)).toBe(stored);
  expect(second.uptime.begin()).toBe(0);
});

test("a machine's clock that was set back does not move deadlines", () => {
  const first = start(9 * HOUR);
  const second = start(HOUR, first.end(0, true));
  expect(second.uptime.restored(first.uptime.stored(10 * HOUR), 1)).toBe(10 * HOUR);
});

test("after a crash no deadline is sooner than the whole ttl, and later ones stay", () => {
  const first = start(HOUR);
  const [soon, late] = [first.uptime.stored(HOUR + 1), first.uptime.stored(3 * HOUR)];
  const crashed = start(5 * HOUR, first.end(0));
  expect(crashed.uptime.restored(soon, 300)).toBe(5 * HOUR + 300_000);
  expect(crashed.uptime.restored(soon, 0)).toBe(5 * HOUR + 60_000);
  expect(crashed.uptime.restored(late, 300)).toBe(7 * HOUR);
  // As rows are not written again, that holds for later starts.
  const third = start(9 * HOUR, crashed.end(1000, true));
  expect(third.uptime.restored(soon, 300)).toBe(9 * HOUR - 1000 + 300_000);
});

test("what an earlier version wrote counts as a crash, and its deadlines are as they were", () => {
  const { uptime } = start(5 * HOUR, { head: at(HOUR), floor: at(0) });
  expect(uptime.restored(6 * HOUR, 1)).toBe(6 * HOUR);
  expect(uptime.restored(HOUR, 10)).toBe(5 * HOUR + 10_000);
});

describe("what a client may have confirmed before a crash, and the disk does not have", () => {
  const unsure = ({ uptime }: { uptime: Uptime }, expiresAt?: number): ClientRecord["received"] =>
    uptime.unsure(clientRecord({ node: NOBODY, expiresAt }, at(9))).received;

  test("is what was on its way to it: of a client that was away, only what was dropped after the last commit", () => {
    const first = start(HOUR);
    expect(unsure(first)).toEqual([]);
    expect(unsure(start(2 * HOUR, first.end(500, true)))).toEqual([]);
    const crashed = start(2 * HOUR, start(HOUR).end(500));
    expect(unsure(crashed)).toEqual([{ after: at(9), through: at(HOUR), earliest: LIVE, latest: NEVER }]);
    const [away] = unsure(crashed, 5 * HOUR);
    expect(away?.latest).toEqual(NEVER);
    expect(away?.earliest).toEqual({ id: at(HOUR), at: HOUR + 500 });
  });

  test("is remembered over later starts, from the first crash on, until the log has nothing from before it", () => {
    const crashed = start(2 * HOUR, start(HOUR).end(500));
    const clean = start(3 * HOUR, crashed.end(0, true));
    expect(unsure(clean)).toEqual(unsure(crashed));
    const again = start(4 * HOUR, clean.end(0));
    expect(unsure(again, 9 * HOUR)).toMatchObject([{ through: at(3 * HOUR), earliest: { at: HOUR + 500 } }]);
    const trimmed = start(4 * HOUR, { ...clean.end(0), floor: at(HOUR) });
    expect(unsure(trimmed, 9 * HOUR)).toMatchObject([{ earliest: { at: 3 * HOUR } }]);
  });
});
