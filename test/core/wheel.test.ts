import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Wheel } from "../../src/core/wheel.js";

beforeEach(() => void vi.useFakeTimers({ now: 1_000_000 }));
afterEach(() => void vi.useRealTimers());

test("a thing is due at its time and at most one granularity later, once", () => {
  const due: string[] = [];
  const wheel = new Wheel<string>(100, (thing) => due.push(`${thing}@${Date.now() - 1_000_000}`));
  wheel.add("b", 1_000_250);
  wheel.add("a", 1_000_120);
  vi.advanceTimersByTime(1000);
  expect(due).toEqual(["a@200", "b@300"]);
});

test("adding again moves a thing, deleting takes it out, and an empty wheel has no timer", () => {
  const due: string[] = [];
  const wheel = new Wheel<string>(100, (thing) => due.push(thing));
  wheel.add("a", 1_000_100);
  wheel.add("a", 1_000_500);
  wheel.add("b", 1_000_100);
  wheel.delete("b");
  vi.advanceTimersByTime(300);
  expect([due, wheel.size]).toEqual([[], 1]);
  vi.advanceTimersByTime(300);
  expect(due).toEqual(["a"]);
  expect(vi.getTimerCount()).toBe(0);
});

test("a thing may be added again while it is due", () => {
  let times = 0;
  const wheel: Wheel<string> = new Wheel<string>(100, (thing) => {
    if (++times < 3) wheel.add(thing, Date.now() + 100);
  });
  wheel.add("a", 1_000_050);
  vi.advanceTimersByTime(2000);
  expect(times).toBe(3);
});

test("a clock that jumps far ahead costs nothing", () => {
  const due: string[] = [];
  const wheel = new Wheel<string>(1, (thing) => due.push(thing));
  wheel.add("a", 1_000_010);
  vi.setSystemTime(9_000_000_000_000);
  vi.advanceTimersByTime(1);
  expect(due).toEqual(["a"]);
});
