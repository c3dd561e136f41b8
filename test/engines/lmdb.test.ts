import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { testEngine } from "./conformance.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

testEngine("lmdb", {
  make: async () => {
    const directory = mkdtempSync(join(tmpdir(), "topic-relay-"));
    const engine = await openLmdbEngine({ directory, retention: RETENTION });
    const close = async (): Promise<void> => {
      await engine.close();
      rmSync(directory, { recursive: true });
    };
    return { engine, another: async () => engine, close };
  },
});
