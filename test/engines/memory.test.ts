import { MemoryEngine } from "../../src/engines/memory.js";
import { testEngine } from "./conformance.js";
import type { MakeLog } from "./conformance/support.js";

const make: MakeLog = async (retention) => {
  const engine = new MemoryEngine({ age: 3_600_000, count: 1_000_000, bytes: 2 ** 26, ...retention });
  return { open: async () => engine, close: () => engine.close() };
};

testEngine("memory", make, ["replies", "cursors", "peers"]);
