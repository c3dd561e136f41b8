import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Wheel } from "../../src/core/wheel.js";

beforeEach(() => void vi.useFakeTimers({ now: 1_000_000 }));
afterEach(() => void vi.useRealTimers());

test("a thing is due at its time and at most one granularity later, once", async () => {
  const due: string[] = [];
  const wheel = new Wheel<string>(100, (thing) => due.push(`${thing}@${Date.now() - 1_000_000}`));
  wheel.add("b", 250);
  wheel.add("a", 120);
  await vi.advanceTimersByTimeAsync(1000);
  expect(due).toEqual(["a@200", "b@300"]);
});

test("adding again moves a thing, deleting takes it out, and an empty wheel has no timer", async () => {
  const due: string[] = [];
  const wheel = new Wheel<string>(100, (thing) => due.push(thing));
  wheel.add("a", 100);
  wheel.add("a", 500);
  wheel.add("b", 100);
  wheel.delete("b");
  await vi.advanceTimersByTimeAsync(300);
  expect([due, wheel.size]).toEqual([[], 1]);
  await vi.advanceTimersByTimeAsync(300);
  expect(due).toEqual(["a"]);
  expect(vi.getTimerCount()).toBe(0);
});

test("a thing may be added again while it is due", async () => {
  let times = 0;
  const wheel: Wheel<string> = new Wheel<string>(100, (thing) => {
    if (++times < 3) wheel.add(thing, 100);
  });
  wheel.add("a", 50);
  await vi.advanceTimersByTimeAsync(2000);
  expect(times).toBe(3);
});

test.each([9_000_000_000_000, 0])("the clock on the wall may be set to %i meanwhile", async (time) => {
  const due: string[] = [];
  const wheel = new Wheel<string>(10, (thing) => due.push(thing));
  wheel.add("a", 100);
  vi.setSystemTime(time);
  await vi.advanceTimersByTimeAsync(90);
  expect(due).toEqual([]);
  await vi.advanceTimersByTimeAsync(30);
  expect(due).toEqual(["a"]);
});
