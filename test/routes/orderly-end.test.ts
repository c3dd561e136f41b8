import { once } from "node:events";
import { expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { temporaryDirectory } from "../support/directory.js";
import { startRelay } from "../support/relay.js";

const ends = [
  ["answers the relay's close frame has received what went before", true, "later"],
  ["is lost without an answer gets it again", false, "before"],
] as const;

test.each(ends)("a client that answers no pings and %s", async (_, answers, first) => {
  const settings = { engine: "lmdb", dataDir: temporaryDirectory() } as const;
  const relay = await startRelay(settings);
  const { id, url } = await relay.register({ user_id: 1 });
  const socket = new WebSocket(url, { autoPong: false });
  onTestFinished(() => socket.terminate());
  await once(socket, "open");
  const received = once(socket, "message");
  await relay.publish({ topic: "cats", message: "before" });
  expect(String((await received)[0])).toBe("before");
  if (!answers) socket.terminate();
  await relay.close();
  const next = await startRelay(settings);
  await next.publish({ topic: "cats", message: "later" });
  expect(await (await next.connect(`/ws/${id}`)).next()).toBe(first);
});
