import Fastify from "fastify";
import { expect, onTestFinished, test } from "vitest";
import topicRelay from "../../src/index.js";
import type { Registered } from "../support/relay.js";
import { temporaryDirectory } from "../support/directory.js";
import { openSocket } from "../support/socket.js";

test("the relay is a plugin: under a prefix, beside routes of its host, with its own errors", async () => {
  const app = Fastify();
  onTestFinished(() => app.close());
  app.post("/mine", async (request) => request.body);
  const dataDir = temporaryDirectory();
  await app.register(topicRelay, { prefix: "/relay", dataDir, defaultTopics: ["news"], clientTtl: 60_000 });
  const address = await app.listen({ host: "127.0.0.1", port: 0 });
  const post = (path: string, body: string) =>
    fetch(address + path, { method: "POST", headers: { "content-type": "application/json" }, body });
  const client = (await (await post("/relay/register", '{"user_id":1}')).json()) as Registered;
  expect(client).toMatchObject({
    url: `${address.replace("http", "ws")}/relay/ws/${client.id}`,
    stream_url: `${address}/relay/stream/${client.id}`,
    topics: ["news"],
    expires_in: 60,
  });
  const socket = await openSocket(client.url);
  await post("/relay/publish", '{"topic":"news","message":"hello"}');
  expect(await socket.next()).toBe("hello");
  expect(await (await post("/mine", '{"a":1}')).json()).toEqual({ a: 1 });
  expect((await post("/relay/health", "{}")).status).toBe(405);
  expect((await post("/register", "{}")).status).toBe(404);
});

test("an option that can not be stops the registration, by name", async () => {
  const app = Fastify();
  onTestFinished(() => app.close());
  await expect(async () => app.register(topicRelay, { pingInterval: "never" })).rejects.toThrow(
    /pingInterval: "never"/,
  );
});
