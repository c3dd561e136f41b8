import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { describe, expect, test } from "vitest";
import { python } from "../support/python.js";
import { startRelay } from "../support/relay.js";
import { openStream } from "../support/stream.js";

const libraries = python();

describe.skipIf(!libraries)("with httpx-sse", () => {
  test("each event is one event: retry, comments and the end of a replaced stream are none", async () => {
    const relay = await startRelay({ pingInterval: "1s" });
    const [replaced, restarted] = [await relay.register({ user_id: 1 }), await relay.register({ user_id: 2 })];
    const lines = [replaced, restarted].map(({ stream_url }) => {
      const { stdout } = libraries?.run("events.py", stream_url) ?? {};
      return createInterface(stdout as Readable)[Symbol.asyncIterator]();
    });
    const next = async () =>
      Promise.all(lines.map(async (each) => JSON.parse((await each.next()).value as string) as object));
    const { id } = await relay.publish({ topic: "cats", message: "one" });
    const one = { id, event: "message", data: "one", retry: 2000 };
    expect(await next()).toEqual([one, one]);
    // Until all of them have had a comment.
    await (await openStream((await relay.register({ user_id: 3 })).stream_url)).take(2);
    const { id: later } = await relay.publish({ topic: "cats", message: "two" });
    const two = { id: later, event: "message", data: "two", retry: null };
    expect(await next()).toEqual([two, two]);
    await relay.connect(replaced.url);
    expect((await lines[0]?.next())?.done).toBe(true);
    await relay.close();
    const last = JSON.parse((await lines[1]?.next())?.value as string) as object;
    expect(last).toMatchObject({
      id: later,
      event: "restarting",
      data: expect.stringContaining("retry_after_ms") as string,
    });
    expect((await lines[1]?.next())?.done).toBe(true);
  });
});
