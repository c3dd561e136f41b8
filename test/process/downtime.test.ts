import { setTimeout as pause } from "node:timers/promises";
import { expect, test } from "vitest";
import { Machine } from "../support/machine.js";
import { systemProgram } from "../support/system.js";

/** Longer than any client here is kept without a connection. */
const LONG = 3_600_000;

async function started(): Promise<Machine> {
  const machine = new Machine();
  await machine.start();
  return machine;
}

/** The relay ends, and is started again after a long time. */
async function restart(machine: Machine, signal: NodeJS.Signals): Promise<void> {
  await machine.stop(signal);
  machine.set(LONG);
  await machine.start();
}

async function untilForgotten(machine: Machine, client: string): Promise<number> {
  const start = performance.now();
  while (await machine.client(client)) await pause(20);
  return performance.now() - start;
}

test("a client whose relay is killed just when it has connected can come back, however long the relay is down", async () => {
  const machine = await started();
  for (let time = 0; time < 5; time++) {
    const client = await machine.register(10);
    await machine.connect(client);
    await restart(machine, "SIGKILL");
    expect(await (await machine.connect(client)).json()).toMatchObject({ data: { event: "connected", gap: false } });
  }
});

test("that holds for the restarts after that one, too", async () => {
  const machine = await started();
  const client = await machine.register(10);
  await machine.connect(client);
  await restart(machine, "SIGKILL");
  await restart(machine, "SIGTERM");
  await restart(machine, "SIGTERM");
  expect(await machine.client(client)).toBeDefined();
});

test("a client that is away has as much time left after a restart as before, and is forgotten then", async () => {
  const machine = await started();
  const client = await machine.register(2);
  await restart(machine, "SIGTERM");
  const left = await untilForgotten(machine, client);
  expect(left).toBeGreaterThan(500);
  expect(left).toBeLessThan(4500);
});

test("several restarts neither shorten nor lengthen the time of a client that is away", async () => {
  const machine = await started();
  const client = await machine.register(300);
  await pause(3000);
  for (let time = 0; time < 3; time++) await restart(machine, "SIGTERM");
  const left = (await machine.client(client))?.expires_in;
  expect(left).toBeLessThanOrEqual(297);
  expect(left).toBeGreaterThan(250);
});

test("a client that is away when its relay is killed has its whole time again, and is forgotten then", async () => {
  const machine = await started();
  const client = await machine.register(4);
  await pause(2500);
  await restart(machine, "SIGKILL");
  const left = await untilForgotten(machine, client);
  expect(left).toBeGreaterThan(2500);
  expect(left).toBeLessThan(6500);
});

const prlimit = systemProgram("prlimit");

test.skipIf(prlimit === undefined)(
  "a client that was connected all the time while the disk was full can come back after kill -9, and gets what it is owed",
  async () => {
    const machine = await started();
    const client = await machine.register(10);
    const owed = await machine.publish("owed");
    await machine.fillDisk(prlimit ?? "");
    const socket = await machine.connect(client, "ack=manual");
    expect(await socket.json()).toMatchObject({ data: { event: "connected" } });
    expect(await socket.json()).toMatchObject({ id: owed });
    // The time that the client would have had without a connection passes.
    machine.set(LONG);
    await socket.settled();
    await machine.stop("SIGKILL");
    await machine.start();
    const again = await machine.connect(client);
    expect(await again.json()).toMatchObject({ data: { event: "connected", gap: false } });
    expect(await again.json()).toMatchObject({ id: owed });
  },
);
