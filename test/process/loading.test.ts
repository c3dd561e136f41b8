import Fastify from "fastify";
import { expect, onTestFinished, test } from "vitest";
import { parseSettings } from "../../src/config.js";
import type { Appended, Engine, Follower } from "../../src/core/engine.js";
import type { Loading } from "../../src/core/loading.js";
import { RelayError } from "../../src/core/errors.js";
import { MemoryEngine } from "../../src/engines/memory.js";
import topicRelay from "../../src/index.js";
import { createServer } from "../../src/server.js";
import { ask, upgrade } from "../support/bare.js";
import { Listener } from "../support/engine.js";

/** An engine that takes its time until it is let go. */
class SlowEngine extends MemoryEngine {
  probes = 0;
  failing = false;
  go: () => void = () => undefined;
  private readonly started = new Promise<void>((resolve) => {
    this.go = resolve;
  });

  constructor() {
    super({ age: 3_600_000, count: 1000, bytes: 2 ** 20 });
  }

  override async follow(follower: Follower, loading?: Loading): Promise<() => Promise<void>> {
    loading?.progress({ step: "reading clients", done: 312_320, of: 1_000_000 });
    await Promise.race([
      this.started,
      new Promise((_, reject) => loading?.signal.addEventListener("abort", () => reject(new Error("given up")))),
    ]);
    return super.follow(follower, loading);
  }

  override async append(...[what, options]: Parameters<Engine["append"]>): Promise<Appended> {
    if (Array.isArray(what) && what.length === 0) this.probes++;
    if (this.failing) throw new RelayError("unavailable", "the disk is on fire");
    return super.append(what, options);
  }
}

async function start(settings = {}) {
  const engine = new SlowEngine();
  const { app, startup } = await createServer(parseSettings({ logLevel: "silent", ...settings }), { engine });
  onTestFinished(() => app.close());
  const http = await app.listen({ host: "127.0.0.1", port: 0 });
  return { engine, app, startup, http };
}

const ID = "625ac78b88e047a1bc7b3f8459702078";

test.each([{}, { apiKeys: "one:a-secret-that-is-long-enough-to-be-strong" }])(
  "while a relay loads, /health is 200 and everything else 503, never 404; settings %j",
  async (settings) => {
    const { engine, startup, http } = await start(settings);
    expect((await fetch(`${http}/health`)).status).toBe(200);
    const requests = ["GET /ready", `GET /register/${ID}`, "POST /register", "POST /publish", `GET /stream/${ID}`];
    requests.push(`DELETE /register/${ID}`, "GET /", "GET /metrics", "GET /nothing", "PUT /publish", "DELETE /users/1");
    for (const request of requests) {
      const [method, path] = request.split(" ");
      const response = await fetch(http + path, { method: method as string });
      expect([request, response.status, response.headers.get("retry-after")]).toEqual([request, 503, "1"]);
      expect(await response.json()).toMatchObject({
        code: "unavailable",
        detail: "the relay is not ready: loading: reading clients, 31 %",
      });
    }
    for (const path of [`/ws/${ID}`, "/ws", "/echo", "/nothing"]) {
      const answer = await ask(http, `${upgrade(path, "Sec-WebSocket-Protocol: relay.v1.json")}\r\n\r\n`);
      expect([path, answer.slice(0, 12), /retry-after: 1/i.test(answer)]).toEqual([path, "HTTP/1.1 503", true]);
    }
    engine.go();
    await startup.loaded;
    expect(await (await fetch(`${http}/ready`)).json()).toEqual({ status: "ready" });
    expect((await fetch(`${http}/ws/${ID}`)).status).toBe(404);
  },
);

test("a relay that is told to end while it loads ends at once", async () => {
  const { app, startup } = await start();
  await app.close();
  await expect(startup.loaded).rejects.toThrow("given up");
});

test("/ready goes through the engine, once a second whoever asks, and names the check that fails", async () => {
  const { engine, startup, http } = await start();
  engine.go();
  await startup.loaded;
  const listener = await Listener.on(engine);
  const answers = await Promise.all(Array.from({ length: 20 }, () => fetch(`${http}/ready`)));
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
  expect([engine.probes, listener.entries]).toEqual([1, []]);
  engine.failing = true;
  await expect.poll(async () => (await fetch(`${http}/ready`)).status, { timeout: 5000 }).toBe(503);
  const response = await fetch(`${http}/ready`);
  expect([response.status, response.headers.get("retry-after")]).toEqual([503, "1"]);
  expect(await response.json()).toMatchObject({ detail: "the relay is not ready: engine: the disk is on fire" });
  expect(engine.probes).toBe(2);
  expect((await fetch(`${http}/health`)).status).toBe(200);
});

test("a plugin that takes long to load does not keep its host from starting", { timeout: 15_000 }, async () => {
  const app = Fastify();
  onTestFinished(() => app.close());
  const engine = new SlowEngine();
  await app.register(topicRelay, { prefix: "/relay", engine });
  app.get("/mine", async () => "here");
  expect((await app.inject("/mine")).body).toBe("here");
  expect((await app.inject("/relay/ready")).statusCode).toBe(503);
  engine.go();
  await expect.poll(async () => (await app.inject("/relay/ready")).statusCode).toBe(200);
});
