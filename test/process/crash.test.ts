import { expect, test } from "vitest";
import { crash } from "../support/crash.js";
import { temporaryDirectory } from "../support/directory.js";

/** How often the relay is killed. More of it: `CRASHES=200 npx vitest run test/process/crash.test.ts` */
const CRASHES = Number(process.env["CRASHES"] ?? 6);

test(
  "kill -9 at any moment: nothing acknowledged is lost, nothing out of order, nothing twice that was confirmed",
  { timeout: 60_000 + CRASHES * 3000 },
  async () => {
    const figures = await crash({ directory: temporaryDirectory(), crashes: CRASHES, clients: 50 });
    process.stdout.write(`${JSON.stringify(figures)}\n`);
    expect(figures.acknowledged).toBeGreaterThan(0);
    expect(figures.connections).toBeGreaterThan(50);
    expect(figures.confirming).toBeGreaterThan(0);
  },
);
