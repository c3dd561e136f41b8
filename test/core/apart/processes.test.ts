import { beforeAll, expect, onTestFinished, test } from "vitest";
import { MemoryEngine } from "../../../src/engines/memory.js";
import { compileRelay, ownProcesses } from "../../engines/two-relays/site.js";
import { scene } from "../../engines/two-relays/scene.js";

beforeAll(compileRelay);

test("of two connections of one client that come at once at two relays, one is told that it was replaced", async () => {
  const site = await ownProcesses(new MemoryEngine({ age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 }));
  onTestFinished(() => site.close());
  const [here, there] = await Promise.all([site.start(), site.start()]);
  const { register } = scene();
  const codes = new Map<number | string, number>();
  for (let round = 0; round < 60; round++) {
    const client = await register(here);
    const path = `${new URL(client.url).pathname}?format=json`;
    const both = await Promise.allSettled([here.connect(path), there.connect(path)]);
    const frames = both.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    const refused = both.length - frames.length;
    if (refused > 0) codes.set("refused", (codes.get("refused") ?? 0) + refused);
    const first = await Promise.race([
      ...frames.map(({ closed }) => closed.then(({ code }) => code)),
      new Promise<string>((resolve) => setTimeout(resolve, 1000, "none closed")),
    ]);
    codes.set(first, (codes.get(first) ?? 0) + 1);
    for (const socket of frames) void socket.close();
  }
  process.stdout.write(`${JSON.stringify([...codes])}\n`);
  expect([...codes.keys()]).toEqual([4409]);
});
