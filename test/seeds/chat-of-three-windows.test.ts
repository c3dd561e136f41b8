// The chat of three browser windows of the first two documents.
import { Writable } from "node:stream";
import Fastify from "fastify";
import { expect, onTestFinished, test } from "vitest";
import topicRelay from "../../src/index.js";
import { openSocket } from "../support/socket.js";

test("three windows: each text reaches all three, each has its own number, and it is logged", async () => {
  const log: Record<string, unknown>[] = [];
  const stream = new Writable({
    write: (line, _encoding, done) => {
      log.push(JSON.parse(String(line)) as Record<string, unknown>);
      done();
    },
  });
  const app = Fastify({ logger: { level: "info", stream } });
  onTestFinished(() => app.close());
  await app.register(topicRelay, { engine: "memory" });
  const address = (await app.listen({ host: "127.0.0.1", port: 0 })).replace("http", "ws");
  const windows = [];
  for (let number = 1; number <= 3; number++) {
    const opened = await openSocket(`${address}/ws?format=raw`);
    await opened.settled();
    windows.push(opened);
  }
  for (const [index, text] of ["11111", "222", "333"].entries()) {
    windows[index]?.say(text);
    for (const each of windows) expect(await each.next()).toBe(text);
  }
  const logged = (msg: string) => log.filter((line) => line["msg"] === msg).map((line) => line["user_id"]);
  expect(logged("connected")).toEqual(["$1", "$2", "$3"]);
  // Each window said `ping` once, to begin with.
  expect(logged("message")).toEqual(["$1", "$2", "$3", "$1", "$2", "$3"]);
});
