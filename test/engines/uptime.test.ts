import { expect, test } from "vitest";
import { Clock } from "../../src/core/clock.js";
import type { EventId } from "../../src/core/id.js";
import { Uptime, type UptimeState } from "../../src/engines/lmdb/uptime.js";

const HOUR = 3_600_000;

function at(ms: number): EventId {
  return { ms, seq: 0 };
}

/** A relay that starts at some time, with what the one before has written. */
function start(now: number, kept?: UptimeState): { uptime: Uptime; end: (after: number, clean?: true) => UptimeState } {
  let [wall, steady] = [now, 0];
  const clock = new Clock(
    0,
    () => wall,
    () => steady,
  );
  const uptime = new Uptime(clock, kept);
  uptime.begin(at(now));
  const end = (after: number, clean?: true): UptimeState => {
    wall += after;
    steady += after;
    return uptime.state(clean);
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
  const { uptime } = start(5 * HOUR, {});
  expect(uptime.restored(6 * HOUR, 1)).toBe(6 * HOUR);
  expect(uptime.restored(HOUR, 10)).toBe(5 * HOUR + 10_000);
  expect(uptime.crashed(at(0))).toEqual(at(5 * HOUR));
});

test("the head at the last start after a crash is known until the log has nothing from before it", () => {
  const first = start(HOUR);
  expect(first.uptime.crashed(at(0))).toBeUndefined();
  const clean = start(2 * HOUR, first.end(0, true));
  expect(clean.uptime.crashed(at(0))).toBeUndefined();
  const crashed = start(3 * HOUR, clean.end(0));
  const later = start(4 * HOUR, crashed.end(0, true));
  for (const { uptime } of [crashed, later]) {
    expect(uptime.crashed(at(3 * HOUR - 1))).toEqual(at(3 * HOUR));
    expect(uptime.crashed(at(3 * HOUR))).toBeUndefined();
  }
  const again = start(5 * HOUR, later.end(0));
  expect(again.uptime.crashed(at(3 * HOUR))).toEqual(at(5 * HOUR));
});
