import { beforeAll } from "vitest";
import { MemoryEngine } from "../../src/engines/memory.js";
import { testTwoRelays } from "./two-relays.js";
import { compileRelay, ownProcesses } from "./two-relays/site.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

beforeAll(compileRelay);

testTwoRelays("in two processes", async () => ownProcesses(new MemoryEngine(RETENTION)), { canKill: true });
