import { expect, test } from "vitest";
import { Relay } from "../../src/core/relay.js";
import { allInTurns, inTurns, takeTurns, Turns } from "../../src/core/turns.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import { relaySettings } from "../support/settings.js";

/** Keeps the event loop for a turn and more. */
function work(): void {
  for (const start = performance.now(); performance.now() - start < 10;);
}

test("work that fits in one turn is done at once, and longer work lets others run in between", async () => {
  const done: number[] = [];
  expect(inTurns([1, 2, 3], (item) => void done.push(item))).toBeUndefined();
  expect(done).toEqual([1, 2, 3]);
  let others = 0;
  const count = (): void => {
    others++;
    if (done.length < 23) setImmediate(count);
  };
  setImmediate(count);
  const items = Array.from({ length: 20 }, (_, index) => index);
  const longer = inTurns(items, (item) => {
    done.push(item);
    work();
  });
  expect(done.length).toBeLessThan(10);
  await longer;
  expect(done.slice(3)).toEqual(items);
  expect(others).toBeGreaterThanOrEqual(4);
});

test("work that nobody wants any more ends at its next rest, and an error in it ends it", async () => {
  const end = new AbortController();
  function* pieces() {
    for (let piece = 0; ; piece++) {
      if (piece === 3) end.abort();
      if (piece > 8) throw new Error("went on");
      work();
      yield;
    }
  }
  await expect(takeTurns(pieces(), new Turns(end.signal))).rejects.toThrow(/abort/i);
  const failing = async (): Promise<void> => {
    await inTurns([1, 2, 3, 4, 5, 6], (item) => {
      work();
      if (item === 6) throw new Error("sixth");
    });
  };
  await expect(failing()).rejects.toThrow("sixth");
});

test("what fails while the rest is still being started is told in the end, and is not left unhandled", async () => {
  const started: number[] = [];
  const all = allInTurns([1, 2, 3, 4, 5, 6], async (item) => {
    started.push(item);
    work();
    if (item === 2) throw new Error("second");
    return item;
  });
  await expect(all).rejects.toThrow("second");
  expect(started).toEqual([1, 2, 3, 4, 5, 6]);
});

test("a relay that ends in the middle of a batch still knows whom all of it matched", async () => {
  const relay = await Relay.start(
    new MemoryEngine({ age: 3_600_000, count: 1_000_000, bytes: 2 ** 30 }),
    relaySettings(),
  );
  await relay.clients.register({ userId: 1, topics: ["a"], ttl: 60 });
  const drafts = Array.from({ length: 50_000 }, (_, n) => ({ topic: "a", message: String(n) }));
  const publishing = relay.publisher.publish(drafts);
  await relay.stop();
  const replies = await publishing;
  expect(replies).toHaveLength(drafts.length);
  expect(replies.filter(({ matched }) => matched !== 1)).toEqual([]);
});
