import { expect, test } from "vitest";
import { Clock } from "../../src/core/clock.js";

const HOUR = 3_600_000;
const START = 1_000_000_000;

/** A clock, and the two clocks that it is made from: `pass` moves both, `set` only the one on the wall. */
class Machine {
  wall = START;
  steady = 5;
  readonly clock: Clock;

  constructor(reached = 0) {
    this.clock = new Clock(
      reached,
      () => this.wall,
      () => this.steady,
    );
  }

  pass(milliseconds: number): number {
    this.wall += milliseconds;
    this.steady += milliseconds;
    return this.clock.now();
  }

  set(by: number): void {
    this.wall += by;
  }
}

test("it is the wall clock as long as nobody sets that", () => {
  const machine = new Machine();
  expect(machine.clock.now()).toBe(START);
  expect(machine.pass(10 * HOUR)).toBe(START + 10 * HOUR);
});

test("it goes on when the wall clock is set back, once or twice, and each time as fast as before", () => {
  const machine = new Machine();
  machine.set(-HOUR);
  expect(machine.pass(100)).toBe(START + 100);
  machine.set(-HOUR);
  expect(machine.pass(100)).toBe(START + 200);
  expect(machine.pass(HOUR)).toBe(START + HOUR + 200);
  expect(machine.clock.wall).toBe(START - HOUR + 200);
});

test("it is the wall clock again when that is set right, and follows it no further back than that", () => {
  const machine = new Machine();
  machine.set(-HOUR);
  machine.pass(100);
  machine.set(HOUR / 2);
  expect(machine.pass(100)).toBe(START + 200);
  machine.set(HOUR / 2);
  expect(machine.pass(100)).toBe(START + 300);
  expect(machine.clock.wall).toBe(START + 300);
});

test("a wall clock that is set forward is followed: fully, when there is no offset", () => {
  const machine = new Machine();
  machine.set(HOUR);
  expect(machine.pass(100)).toBe(START + HOUR + 100);
  machine.set(-HOUR);
  expect(machine.pass(100)).toBe(START + HOUR + 200);
  machine.set(3 * HOUR);
  expect(machine.pass(100)).toBe(START + 3 * HOUR + 300);
});

test("small steps of the wall clock are followed, and never back", () => {
  const machine = new Machine();
  machine.set(900);
  expect(machine.pass(10)).toBe(START + 910);
  machine.set(-900);
  expect(machine.pass(10)).toBe(START + 910);
  expect(machine.pass(1000)).toBe(START + 1020);
});

test("it begins at the time that it had reached, when the wall clock is behind that", () => {
  expect(new Machine(START - 2000).clock.now()).toBe(START);
  const machine = new Machine(START + HOUR);
  expect(machine.clock.now()).toBe(START + HOUR);
  expect(machine.pass(100)).toBe(START + HOUR + 100);
  machine.set(2 * HOUR);
  expect(machine.pass(100)).toBe(START + 2 * HOUR + 200);
});
