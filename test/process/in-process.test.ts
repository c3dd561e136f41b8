import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Fastify, { type FastifyInstance, type FastifyServerOptions } from "fastify";
import { describe, expect, onTestFinished, test } from "vitest";
import topicRelay, { InvalidInput, MemoryEngine, RelayError, type TopicRelayOptions } from "../../src/index.js";
import { temporaryDirectory } from "../support/directory.js";
import { heard, next } from "../support/happenings.js";
import { RelayProcess } from "../support/process.js";
import { openSocket } from "../support/socket.js";

const LOCAL = { host: "127.0.0.1", port: 0 };

async function hostOf(options: TopicRelayOptions = {}, of: FastifyServerOptions = {}): Promise<FastifyInstance> {
  const app: FastifyInstance = Fastify(of);
  onTestFinished(() => app.close());
  await app.register(topicRelay, { engine: "memory", prefix: "/relay", ...options });
  return app;
}

/** How a call is refused. */
async function refusal(call: Promise<unknown>): Promise<RelayError> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(RelayError);
  return error as RelayError;
}

function post(address: string, path: string, body: unknown): Promise<Response> {
  const headers = { "content-type": "application/json" };
  return fetch(`${address}/relay${path}`, { method: "POST", headers, body: JSON.stringify(body) });
}

test("a host registers, publishes, waits, looks up and removes without HTTP", async () => {
  const app = await hostOf();
  const address = await app.listen(LOCAL);
  const client = await app.relay.register({ user_id: 1, topics: ["a"], ttl: 60 });
  expect(client).toEqual({
    url: `${address.replace("http", "ws")}/relay/ws/${client.id}`,
    stream_url: `${address}/relay/stream/${client.id}`,
    id: client.id,
    user_id: 1,
    topics: ["a"],
    expires_in: 60,
  });
  const socket = await openSocket(client.url);
  const event = { topic: "a", message: { n: 1, at: new Date(0) }, user_id: 1 };
  const receipt = await app.relay.publish(event, { wait: 5 });
  expect(receipt).toEqual({ id: receipt.id, matched: 1, sent: 1, waiting: 0, confirmed: 1 });
  expect(await socket.json()).toEqual({ n: 1, at: "1970-01-01T00:00:00.000Z" });
  const record = await app.relay.receipt(receipt.id);
  expect(record).toMatchObject({ user_id: 1, confirmed: 1, clients: [{ id: client.id, state: "confirmed" }] });
  expect(await (await fetch(`${address}/relay/events/${receipt.id}`)).json()).toEqual(record);
  expect(await app.relay.remove(client.id)).toEqual({ removed: true });
  expect((await socket.closed).code).toBe(4404);
  expect(await app.relay.remove(client.id)).toEqual({ removed: false });
  await app.relay.register({ user_id: "u" });
  expect(await app.relay.removeUser("u")).toEqual({ removed: 1 });
});

test("of many events each is published or refused by itself, and a repeated idempotency key publishes nothing", async () => {
  const app = await hostOf();
  const events = [
    { topic: "a", message: 1 },
    { topic: "a.*", message: 2 },
    { topic: "b", message: "three" },
  ];
  const replies = await app.relay.publish(events, { idempotencyKey: "k" });
  expect(replies).toMatchObject([{ matched: 0 }, { status: 400, code: "bad_request" }, { matched: 0 }]);
  const again = await app.relay.publish(events, { idempotencyKey: "k" });
  expect(again[0]).toEqual({ ...replies[0], duplicate: true });
  const { code } = await refusal(app.relay.publish(events.slice(0, 1), { idempotencyKey: "k" }));
  expect(code).toBe("idempotency_key_reused");
  expect(await app.relay.publish([])).toEqual([]);
});

test("a signal ends the wait for confirmations", async () => {
  const app = await hostOf();
  await app.listen(LOCAL);
  const { url } = await app.relay.register({ user_id: 1, topics: ["a"] });
  await (await openSocket(`${url}?ack=manual`)).settled();
  const abort = new AbortController();
  const delivered = next(app.relay, "event.delivered");
  const reply = app.relay.publish({ topic: "a", message: 1 }, { wait: 30, signal: abort.signal });
  await delivered;
  abort.abort();
  expect(await reply).toMatchObject({ sent: 1, confirmed: 0 });
});

describe("what HTTP refuses is refused in the same words", () => {
  const circle: { self?: unknown } = {};
  circle.self = circle;
  let deep: unknown = 1;
  for (let depth = 0; depth < 100; depth++) deep = [deep];

  const events: [string, object][] = [
    ["no topic", { message: 1 }],
    ["no message", { topic: "a" }],
    ["a pattern", { topic: "a.>", message: 1 }],
    ["an unknown field", { topic: "a", message: 1, mesage: 2 }],
    ["both kinds of users", { topic: "a", message: 1, user_id: 1, user_ids: [2] }],
    ["too large a message", { topic: "a", message: "x".repeat(70_000) }],
    ["too deep a message", { topic: "a", message: deep }],
  ];
  test.each(events)("an event with %s", async (_, event) => {
    const app = await hostOf();
    const address = await app.listen(LOCAL);
    const limits = heard(app.relay);
    const answer = await post(address, "/publish", event);
    const inHttp = (await answer.json()) as { code: string; detail: string; errors?: unknown };
    const error = await refusal(app.relay.publish(event as never));
    const errors = error instanceof InvalidInput ? error.errors : undefined;
    expect({ code: error.code, detail: error.message, errors }).toEqual({
      code: inHttp.code,
      detail: inHttp.detail,
      errors: inHttp.errors,
    });
    // Limits count alike.
    const reached = limits.filter(([name]) => name === "limit.reached");
    expect(reached.length).toBe(error.limit === undefined ? 0 : 2);
  });

  const registrations: [string, object][] = [
    ["no user", {}],
    ["a user of the relay's own", { user_id: "$1" }],
    ["too long a ttl", { user_id: 1, ttl: 10_000_000 }],
    ["a topic that is none", { user_id: 1, topics: ["a", ""] }],
  ];
  test.each(registrations)("a registration with %s", async (_, body) => {
    const app = await hostOf();
    const inHttp = (await (await post(await app.listen(LOCAL), "/register", body)).json()) as object;
    const { code, message, ...error } = await refusal(app.relay.register(body as never));
    expect(inHttp).toMatchObject({ code, detail: message, errors: (error as Partial<InvalidInput>).errors });
  });

  test.each([
    ["a circle", circle],
    ["a function", () => 1],
    ["a BigInt", 1n],
  ])("and what JSON has no words for: %s", async (_, message) => {
    const app = await hostOf();
    const error = await refusal(app.relay.publish({ topic: "a", message }));
    expect(error).toMatchObject({ code: "bad_request", errors: [{ path: "message" }] });
    expect(error.message).toMatch(/^message: must be a JSON value/);
  });

  test.each([{ wait: 31 }, { wait: -1 }, { idempotencyKey: "" }, { idempotencyKey: "x".repeat(256) }])(
    "and options that can not be: %j",
    async (options) => {
      const app = await hostOf();
      const error = await refusal(app.relay.publish({ topic: "a", message: 1 }, options));
      expect(error).toMatchObject({ code: "bad_request", errors: [{ path: Object.keys(options)[0] }] });
    },
  );
});

describe("the URL of a client", () => {
  test("is not known before the app listens, and the error names the setting", async () => {
    const app = await hostOf();
    const error = await refusal(app.relay.register({ user_id: 1 }));
    expect([error.code, error.message]).toEqual(["unavailable", expect.stringContaining("publicUrl")]);
    await app.listen(LOCAL);
    expect((await app.relay.register({ user_id: 1 })).url).toMatch(/^ws:\/\/127\.0\.0\.1:\d+\/relay\/ws\//);
  });

  test("is the public one where that is set, listening or not", async () => {
    const app = await hostOf({ publicUrl: "https://example.com/base" });
    const { url, id } = await app.relay.register({ user_id: 1 });
    expect(url).toBe(`wss://example.com/base/relay/ws/${id}`);
  });

  test("has localhost where the app listens on all addresses", async () => {
    const app = await hostOf();
    await app.listen({ host: "0.0.0.0", port: 0 });
    const { url } = await app.relay.register({ user_id: 1 });
    expect(url).toMatch(/^ws:\/\/localhost:\d+\/relay\/ws\//);
    await openSocket(url);
  });
});

test("a relay that loads refuses with unavailable, and says how far it is", async () => {
  let load = (): void => undefined;
  const mayLoad = new Promise<void>((resolve) => (load = resolve));
  class SlowEngine extends MemoryEngine {
    override async follow(...given: Parameters<MemoryEngine["follow"]>): ReturnType<MemoryEngine["follow"]> {
      await mayLoad;
      return super.follow(...given);
    }
  }
  const app: FastifyInstance = Fastify();
  onTestFinished(() => app.close());
  const engine = new SlowEngine({ age: 60_000, count: 1000, bytes: 1_000_000 });
  const registered = app.register(topicRelay, { engine }).after();
  await expect.poll(() => app.hasDecorator("relay")).toBe(true);
  const error = await refusal(app.relay.publish({ topic: "a", message: 1 }));
  expect([error.code, error.message]).toEqual(["unavailable", expect.stringContaining("loading")]);
  load();
  await registered;
  expect(await app.relay.publish({ topic: "a", message: 1 })).toMatchObject({ matched: 0 });
});

test("a relay that ends refuses with unavailable", async () => {
  const app = await hostOf();
  const { relay } = app;
  await app.close();
  for (const call of [
    relay.publish({ topic: "a", message: 1 }),
    relay.register({ user_id: 1 }),
    relay.receipt("1-0"),
  ]) {
    expect((await refusal(call)).code).toBe("unavailable");
  }
});

test("happenings of HTTP are heard too; a listener that throws is logged and harms nobody", async () => {
  const lines: Record<string, unknown>[] = [];
  const stream = { write: (line: string) => void lines.push(JSON.parse(line) as Record<string, unknown>) };
  const app = await hostOf(
    { apiKeys: "k:0123456789abcdef0123456789abcdef", insecureOpen: true },
    { logger: { stream } },
  );
  const address = await app.listen(LOCAL);
  app.relay.on("auth.failed", () => {
    throw new Error("mine");
  });
  const told = heard(app.relay);
  const answer = await fetch(`${address}/relay/health/x`, { headers: { authorization: "Bearer wrong" } });
  expect(answer.status).toBe(401);
  expect(told).toMatchObject([["auth.failed", { credential: "key", network: "127.0.0.1" }]]);
  const failed = lines.find(({ msg }) => msg === "a listener failed");
  expect(failed).toMatchObject({ level: 50, happening: "auth.failed", err: { message: "mine" } });
  expect(lines.find(({ msg }) => msg === "authentications failed")).toMatchObject({ failures: 1, reqId: "req-1" });
});

test("the log has the request of a connection with its beginning and its end", async () => {
  const lines: Record<string, unknown>[] = [];
  const stream = { write: (line: string) => void lines.push(JSON.parse(line) as Record<string, unknown>) };
  const app = await hostOf({}, { logger: { stream } });
  await app.listen(LOCAL);
  const { url, id } = await app.relay.register({ user_id: 7 });
  const socket = await openSocket(url);
  await socket.settled();
  const ended = next(app.relay, "client.disconnected");
  await app.relay.remove(id);
  expect(await ended).toMatchObject({ client: id, userId: 7, contested: false });
  const ofConnection = lines.filter(({ user_id }) => user_id === 7);
  expect(ofConnection).toMatchObject([
    { msg: "connected", reqId: "req-1", client: `${id.slice(0, 8)}…` },
    { msg: "disconnected", reqId: "req-1", code: 4404 },
  ]);
});

test("several relays in one app: the first is app.relay, and one in a scope of its own is the scope's", async () => {
  const app = await hostOf();
  const first = app.relay;
  await app.register(topicRelay, { engine: "memory", prefix: "/second" });
  expect(app.relay).toBe(first);
  let third: FastifyInstance["relay"] | undefined;
  await app.register(async (scope) => {
    expect(scope.relay).toBe(first);
    await scope.register(topicRelay, { engine: "memory", prefix: "/third" });
    third = scope.relay;
  });
  expect(app.relay).toBe(first);
  const address = await app.listen(LOCAL);
  const { url } = (await third?.register({ user_id: 1, topics: ["a"] })) ?? { url: "" };
  expect(url).toContain("/third/ws/");
  const socket = await openSocket(url);
  await first.publish({ topic: "a", message: "not here" });
  await third?.publish({ topic: "a", message: "here" });
  expect(await socket.next()).toBe("here");
  for (const prefix of ["/relay", "/second", "/third"]) {
    expect((await fetch(`${address}${prefix}/health`)).status).toBe(200);
    expect((await fetch(`${address}${prefix}/nothing`)).headers.get("content-type")).toContain("problem");
  }
});

test("what the host has under that name itself is not replaced", async () => {
  const app = Fastify();
  onTestFinished(() => app.close());
  app.decorate("relay", "mine" as never);
  await expect(async () => app.register(topicRelay, { engine: "memory" })).rejects.toThrow(/'relay' has already/);
});

describe("the example in README.md", () => {
  const checkout = fileURLToPath(new URL("../..", import.meta.url));
  const section = readFileSync(join(checkout, "README.md"), "utf8").split("## Inside your Fastify app")[1] ?? "";
  const example = /```js\n([\s\S]*?)```/.exec(section)?.[1] ?? "";

  /** A package that has installed the relay. */
  function project(): string {
    const directory = temporaryDirectory();
    mkdirSync(join(directory, "node_modules"));
    symlinkSync(checkout, join(directory, "node_modules", "topic-relay"));
    for (const name of ["fastify", "@types"]) {
      symlinkSync(join(checkout, "node_modules", name), join(directory, "node_modules", name));
    }
    writeFileSync(join(directory, "package.json"), '{"type":"module"}');
    return directory;
  }

  test("runs against the built package", async () => {
    const file = join(project(), "example.js");
    writeFileSync(file, example.replace("port: 3000", "port: 0"));
    const run = new RelayProcess([], {}, [process.execPath, file]);
    const until = async (pattern: RegExp): Promise<string> => {
      await expect.poll(() => run.stdout + run.stderr, { timeout: 10_000 }).toMatch(pattern);
      return pattern.exec(run.stdout)?.[1] ?? "";
    };
    const url = await until(/^connect to (ws:\S+)$/m);
    await until(/matched: 1,[\s\S]*state: 'waiting'/);
    const socket = await openSocket(url);
    expect(await socket.json()).toEqual({ number: 42 });
    await until(/^1 is here$/m);
  });

  test("passes the type checker, which refuses what the relay would", { timeout: 60_000 }, async () => {
    const directory = project();
    const wrong = example.replace('topic: "orders.new", ', "").replace('"client.connected"', '"client.conected"');
    writeFileSync(join(directory, "right.ts"), example);
    writeFileSync(join(directory, "wrong.ts"), wrong);
    const options = ["--module", "nodenext", "--target", "es2023", "--strict", "--skipLibCheck", "--noEmit"];
    const tsc = join(checkout, "node_modules/typescript/bin/tsc");
    const output = await new Promise<string>((resolve) => {
      const args = [tsc, ...options, "--types", "node", "right.ts", "wrong.ts"];
      execFile(process.execPath, args, { cwd: directory }, (_error, stdout, stderr) => resolve(stdout + stderr));
    });
    expect(output).not.toContain("right.ts");
    expect(output).toMatch(/wrong\.ts\(\d+,\d+\): error TS2345: Argument of type '"client\.conected"'/);
    expect(output).toMatch(/wrong\.ts[\s\S]*Property 'topic' is missing/);
  });
});
