import { rmSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { describe, expect, onTestFinished, test } from "vitest";
import { parseSettings } from "../../src/config.js";
import { createServer } from "../../src/server.js";
import { ApiKeys, newKey, parseKey } from "../../src/trust/keys.js";
import { Bare } from "../support/bare.js";
import { temporaryDirectory } from "../support/directory.js";
import { RelayProcess } from "../support/process.js";
import { bearer, type Registered, startRelay } from "../support/relay.js";
import { openSocket, refusal } from "../support/socket.js";

const KEYS = { reg: "registers-and-nothing-else", pub: "publishes-and-nothing-else", all: "does-whatever-there-is" };
const apiKeys = `reg:${KEYS.reg}:register,pub:${KEYS.pub}:publish,ops:opsopsopsopsopsopsopsops:admin,all:${KEYS.all}`;

const requests = [
  ["POST", "/register", { user_id: 1 }, "register"],
  ["GET", `/register/${"0".repeat(32)}`, undefined, "register"],
  ["PATCH", `/register/${"0".repeat(32)}`, { add: ["a"] }, "register"],
  ["DELETE", `/register/${"0".repeat(32)}`, undefined, "register"],
  ["POST", "/publish", { topic: "a", message: 1 }, "publish"],
  ["GET", "/events/1-0", undefined, "publish"],
  ["DELETE", "/users/1", undefined, "admin"],
  ["GET", "/metrics", undefined, "admin"],
] as const;

describe.each(requests)("%s %s", (method, path, body, scope) => {
  test(`takes a key with the scope ${scope}`, async () => {
    const relay = await startRelay({ apiKeys });
    const none = await relay.send(method, path, body);
    expect([none.status, none.headers.get("www-authenticate")]).toEqual([401, 'Bearer realm="topic-relay"']);
    expect(await none.json()).toMatchObject({ code: "unauthorized" });
    const wrong = await relay.send(method, path, body, bearer("wrong"));
    expect([wrong.status, wrong.headers.get("www-authenticate")]).toEqual([
      401,
      expect.stringContaining("invalid_token"),
    ]);
    const other = await relay.send(method, path, body, bearer(scope === "publish" ? KEYS.reg : KEYS.pub));
    expect([other.status, other.headers.get("www-authenticate")]).toEqual([
      403,
      expect.stringContaining(`scope="${scope}"`),
    ]);
    expect(await other.json()).toMatchObject({ code: "forbidden", detail: expect.stringContaining(scope) as string });
    expect([200, 404]).toContain((await relay.send(method, path, body, bearer(KEYS.all))).status);
  });
});

test.each(["bearer SECRET", "BEARER  SECRET", "Bearer SECRET "])("the header may be written as %j", async (header) => {
  const relay = await startRelay({ apiKeys });
  const authorization = header.replace("SECRET", KEYS.all);
  expect((await relay.send("GET", "/metrics", undefined, { authorization })).status).toBe(200);
});

test.each(["", "Bearer", "Bearer ", "Basic SECRET", "SECRET", "Bearer SECRET SECRET", "Bearer SECRE"])(
  "%j is no key",
  async (header) => {
    const relay = await startRelay({ apiKeys });
    const authorization = header.replaceAll("SECRET", KEYS.all);
    expect((await relay.send("GET", "/metrics", undefined, { authorization })).status).toBe(401);
  },
);

test("a key in the query or a cookie is none: it would be in logs, and go along from other sites", async () => {
  const relay = await startRelay({ apiKeys });
  for (const query of ["token", "key", "access_token"]) {
    expect((await relay.fetch(`/metrics?${query}=${KEYS.all}`)).status).toBe(401);
  }
  expect((await relay.fetch("/metrics", { headers: { cookie: `key=${KEYS.all}` } })).status).toBe(401);
});

test("a method that a path does not have is told only to those who may use the path", async () => {
  const relay = await startRelay({ apiKeys });
  expect((await relay.send("PUT", "/publish")).status).toBe(401);
  expect((await relay.send("PUT", "/publish", undefined, bearer(KEYS.reg))).status).toBe(403);
  expect((await relay.send("PUT", "/publish", undefined, bearer(KEYS.pub))).status).toBe(405);
  expect((await relay.send("GET", "/nothing", undefined, bearer(KEYS.pub))).status).toBe(404);
});

test("a key that is removed while the body comes in is good no more", async () => {
  const file = `${temporaryDirectory()}/keys`;
  writeFileSync(file, `one:${KEYS.reg}\ntwo:${KEYS.pub}\n`);
  const keys = await ApiKeys.load([], file);
  const settings = parseSettings({ engine: "memory", logLevel: "silent", apiKeysFile: file });
  const { app, startup } = await createServer(settings, { keys });
  onTestFinished(() => app.close());
  await startup.loaded;
  const http = await app.listen({ host: "127.0.0.1", port: 0 });
  const bare = await Bare.open(http);
  const body = '{"topic":"a","message":1}';
  bare.write(`POST /publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${KEYS.pub}\r\n`);
  bare.write(`Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 10)}`);
  await expect.poll(async () => (await fetch(`${http}/health`)).status).toBe(200);
  writeFileSync(file, `one:${KEYS.reg}\n`);
  await keys.reload();
  bare.write(body.slice(10));
  expect(await bare.until("\r\n\r\n")).toMatch(/^HTTP\/1.1 401 /);
});

test("OPTIONS, when it asks nothing for a page, is a method as others are", async () => {
  const relay = await startRelay({ apiKeys });
  const answer = async (path: string, headers = {}): Promise<unknown> => {
    const { status, headers: got } = await relay.fetch(path, { method: "OPTIONS", headers });
    return [status, got.get("allow")];
  };
  expect(await answer("/health")).toEqual([405, "GET, HEAD"]);
  expect(await answer("/publish")).toEqual([401, null]);
  expect(await answer("/publish", bearer(KEYS.pub))).toEqual([405, "POST"]);
});

test("of readings of the file that overlap, the last one counts", async () => {
  const file = `${temporaryDirectory()}/keys`;
  const write = (names: string[]): void => {
    writeFileSync(file, names.map((name) => `${name}:${KEYS.reg}${name}\n`).join(""));
  };
  write(["a"]);
  const keys = await ApiKeys.load([], file);
  const reloads: Promise<void>[] = [];
  for (let round = 0; round < 20; round++) {
    write(round % 2 ? ["b"] : Array.from({ length: 5000 }, (_, index) => `k${index}`));
    reloads.push(keys.reload());
  }
  await Promise.all(reloads);
  expect([...keys.names]).toEqual(["b"]);
});

test("idempotency keys of one key mean nothing to another", async () => {
  const relay = await startRelay({ apiKeys });
  const publish = async (secret: string): Promise<object> => {
    const headers = { ...bearer(secret), "idempotency-key": "once" };
    return (await relay.send("POST", "/publish", { topic: "a", message: 1 }, headers)).json() as Promise<object>;
  };
  const first = await publish(KEYS.pub);
  expect(await publish(KEYS.pub)).toEqual({ ...first, duplicate: true });
  expect(await publish(KEYS.all)).not.toHaveProperty("duplicate");
});

test("receipts show whole client ids only to those who may register", async () => {
  const relay = await startRelay({ apiKeys }, KEYS.all);
  const { id } = await relay.register({ user_id: 1 });
  const receipt = await relay.publish({ topic: "cats", message: 1 });
  const clients = async (secret: string): Promise<unknown> => {
    const answer = await relay.send("GET", `/events/${receipt.id}`, undefined, bearer(secret));
    return ((await answer.json()) as { clients: unknown }).clients;
  };
  expect(await clients(KEYS.all)).toEqual([{ id, user_id: 1, state: "waiting" }]);
  expect(await clients(KEYS.pub)).toEqual([{ id: `${id.slice(0, 8)}…`, user_id: 1, state: "waiting" }]);
});

describe("what is written as a key", () => {
  test.each([
    ["a:b", "a", ["register", "publish", "admin"]],
    ["a.b-c@d:s3cr3t:publish", "a.b-c@d", ["publish"]],
    ["a:b:publish+register", "a", ["publish", "register"]],
    ["__proto__:b", "__proto__", ["register", "publish", "admin"]],
  ])("%s", (text, name, scopes) => {
    const key = parseKey(text);
    expect([key.name, [...key.scopes]]).toEqual([name, scopes]);
  });

  test.each([
    "",
    "a",
    "a:",
    ":b",
    "a b:c",
    "a:b:",
    "only-the-secret",
    "secret:publish+register",
    "a:b:root",
    "a:b:publish:more",
    "a:s e",
    "a:gehéim",
    `${"n".repeat(65)}:b`,
  ])("%j stops the start, and is not repeated", (text) => {
    expect(() => parseSettings({ apiKeys: [text] })).toThrow(/^apiKeys: the value \(which is secret\)/);
  });

  test("one secret twice, or no key at all, stops the start", async () => {
    await expect(ApiKeys.load([parseKey("a:same"), parseKey("b:same")])).rejects.toThrow("b has the secret of another");
    expect(() => parseSettings({ apiKeys: "" })).toThrow(/apiKeys/);
    const file = `${temporaryDirectory()}/keys`;
    writeFileSync(file, "# none yet\n");
    await expect(startRelay({ apiKeysFile: file })).rejects.toThrow("there are no keys");
    await expect(startRelay({ apiKeysFile: `${file}.not` })).rejects.toThrow("ENOENT");
  });

  test("keys new makes one that is good, and never the same", async () => {
    const made = await new RelayProcess(["keys", "new", "shop", "--scopes", "publish"]).ended;
    const key = parseKey(made.stdout.trim());
    expect([key.name, [...key.scopes], key.strong]).toEqual(["shop", ["publish"], true]);
    expect(newKey("shop", ["publish"])).not.toBe(newKey("shop", ["publish"]));
    for (const args of [["keys"], ["keys", "new", "a b"], ["keys", "new", "a", "--scopes", "root"], ["keys", "old"]]) {
      const { code, stdout, stderr } = await new RelayProcess(args).ended;
      expect([code, stdout, stderr]).toEqual([1, "", expect.not.stringMatching(/ {4}at /)]);
    }
  });
});

test("comparing takes as long for a secret that is nearly right as for one that is not", () => {
  const secret = "s".repeat(40);
  const keys = Array.from({ length: 50 }, (_, index) => parseKey(`k${index}:${secret}${index}`));
  return ApiKeys.load(keys).then((all) => {
    const time = (text: string): number => {
      const start = process.hrtime.bigint();
      for (let round = 0; round < 200; round++) all.find(text);
      return Number(process.hrtime.bigint() - start);
    };
    const candidates = [`${secret}0`, `${secret}49`, `${secret}x`, "x".repeat(41)];
    const best = candidates.map(() => Infinity);
    // The least of many is what the machine's noise leaves alone.
    for (let round = 0; round < 60; round++) {
      candidates.forEach((text, index) => (best[index] = Math.min(best[index] ?? Infinity, time(text))));
    }
    expect(Math.max(...best) / Math.min(...best)).toBeLessThan(1.5);
  });
});

describe("a file of keys", () => {
  async function started(lines: string): Promise<{ file: string; process: RelayProcess; http: string; ws: string }> {
    const file = `${temporaryDirectory()}/keys`;
    writeFileSync(file, lines);
    const relay = new RelayProcess(["--listen", "127.0.0.1:0", "--engine", "memory", "--api-keys-file", file]);
    const http = await relay.address();
    return { file, process: relay, http, ws: http.replace("http", "ws") };
  }

  async function hup(relay: RelayProcess, said: string): Promise<void> {
    relay.child.kill("SIGHUP");
    while (!relay.stderr.includes(said)) await once(relay.child.stderr as NodeJS.ReadableStream, "data");
  }

  async function register(http: string, secret: string): Promise<Registered> {
    const headers = { "content-type": "application/json", ...bearer(secret) };
    const answer = await fetch(`${http}/register`, { method: "POST", headers, body: '{"user_id":1}' });
    if (answer.status !== 200) throw new Error(String(answer.status));
    return (await answer.json()) as Registered;
  }

  test("SIGHUP reads it again: new keys are good, removed ones are not, and their clients and connections end", async () => {
    const { file, process: relay, http, ws } = await started(`# backends\none:${KEYS.reg}\n\ntwo:${KEYS.pub}\r\n`);
    const [kept, gone] = [await register(http, KEYS.reg), await register(http, KEYS.pub)];
    const stays = await openSocket(kept.url);
    const ends = [
      await openSocket(gone.url),
      await openSocket(`${ws}/ws`, [], bearer(KEYS.pub)),
      await openSocket(`${ws}/echo`, [], bearer(KEYS.pub)),
    ];
    writeFileSync(file, `one:${KEYS.reg}\nthree:${KEYS.all}\n`);
    const since = performance.now();
    await hup(relay, "read anew");
    expect((await Promise.all(ends.map(({ closed }) => closed))).map(({ code }) => code)).toEqual([4401, 4401, 4401]);
    expect(performance.now() - since).toBeLessThan(1000);
    expect((await refusal(openSocket(gone.url))).status).toBe(404);
    await expect(register(http, KEYS.pub)).rejects.toThrow("401");
    await register(http, KEYS.all);
    expect(await stays.settled()).toEqual([]);
  });

  test("a key that gets another secret keeps its clients: so secrets can be changed without loss", async () => {
    const { file, process: relay, http } = await started(`one:${KEYS.reg}\n`);
    const client = await openSocket((await register(http, KEYS.reg)).url);
    writeFileSync(file, `one:${KEYS.all}\n`);
    await hup(relay, "read anew");
    await expect(register(http, KEYS.reg)).rejects.toThrow("401");
    await register(http, KEYS.all);
    expect(await client.settled()).toEqual([]);
  });

  test.each([
    ["with a bad line", `one:${KEYS.reg}\nsomething else\n`, "line 2"],
    ["without a key", "# to be filled\n", "there are no keys"],
    ["that is no file", undefined, "ENOENT"],
  ])("%s changes nothing, and is said", async (_, lines, said) => {
    const { file, process: relay, http } = await started(`one:${KEYS.reg}\n`);
    const client = await openSocket((await register(http, KEYS.reg)).url);
    if (lines === undefined) rmSync(file);
    else writeFileSync(file, lines);
    await hup(relay, said);
    await register(http, KEYS.reg);
    expect(await client.settled()).toEqual([]);
  });

  test("a key that is removed while the relay is down takes its clients with it too", async () => {
    const file = `${temporaryDirectory()}/keys`;
    const dataDir = temporaryDirectory();
    writeFileSync(file, `one:${KEYS.reg}\ntwo:${KEYS.pub}\n`);
    const options = { engine: "lmdb", dataDir, apiKeysFile: file } as const;
    const before = await startRelay(options);
    const [kept, gone] = [await register(before.http, KEYS.reg), await register(before.http, KEYS.pub)];
    await before.close();
    writeFileSync(file, `one:${KEYS.reg}\n`);
    const after = await startRelay(options);
    await after.connect(`/ws/${kept.id}`);
    expect((await refusal(after.connect(`/ws/${gone.id}`))).status).toBe(404);
  });
});
