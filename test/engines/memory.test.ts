import { MemoryEngine } from "../../src/engines/memory.js";
import { testEngine } from "./conformance.js";

testEngine("memory", {
  make: async (retention) => {
    const engine = new MemoryEngine({ age: 3_600_000, count: 1_000_000, bytes: 2 ** 26, ...retention });
    return { engine, another: async () => engine, close: async () => undefined };
  },
});
