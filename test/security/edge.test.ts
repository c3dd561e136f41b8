import { expect, onTestFinished, test } from "vitest";
import Fastify from "fastify";
import topicRelay from "../../src/index.js";
import { ask, Bare, upgrade } from "../support/bare.js";
import { bearer, limited, startRelay } from "../support/relay.js";

const SECRET = "a-secret-that-nobody-guesses";
const PAGE = "https://app.example.com";
const FOREIGN = "https://evil.example";

/** Requests for what no route answers, and how each is answered when nothing stands against it. */
const requests: [string, string, number][] = [
  ["a path where there is nothing", "GET /nowhere HTTP/1.1", 404],
  ["another method", "PUT /health HTTP/1.1", 405],
  ["a path that is not percent-encoded", "GET /%zz HTTP/1.1", 400],
  ["a parameter that is too long", `GET /ws/${"x".repeat(2000)} HTTP/1.1`, 414],
  ["an absolute target", "GET http://localhost/nowhere HTTP/1.1", 404],
  ["HEAD", "HEAD /nowhere HTTP/1.1", 404],
  ["OPTIONS", "OPTIONS /nowhere HTTP/1.1", 404],
  ["an upgrade", upgrade("/nowhere").replace("\r\nHost: localhost", ""), 404],
  ["an upgrade of a path that is not percent-encoded", upgrade("/%zz").replace("\r\nHost: localhost", ""), 400],
];

const statusOf = (answer: string): number => Number(answer.slice(9, 12));

test.each(requests)("%s passes what every request passes: source, limit, loading, key", async (_name, head, status) => {
  const own = await startRelay();
  const from = async (host: string, ...headers: string[]): Promise<string> =>
    ask(own.http, `${[head, `Host: ${host}`, ...headers].join("\r\n")}\r\n\r\n`);
  expect(statusOf(await from("localhost"))).toBe(status);
  expect(statusOf(await from("evil.example"))).toBe(403);
  expect(statusOf(await from("localhost", `Origin: ${FOREIGN}`))).toBe(403);

  const relay = await startRelay({ apiKeys: `a:${SECRET}:publish`, requestRate: 1, allowedOrigins: PAGE });
  const request = async (...headers: string[]): Promise<string> =>
    ask(relay.http, `${[head, "Host: localhost", ...headers].join("\r\n")}\r\n\r\n`);
  const key = `Authorization: Bearer ${SECRET}`;
  const isKnown = status === 405;
  expect(statusOf(await request(key))).toBe(status);
  const stranger = await request();
  // Where no key is needed, strangers are told as much as others.
  expect(statusOf(stranger)).toBe(isKnown ? status : 401);
  for (let count = 0; count < 15; count++) await request();
  const refused = await request(`Origin: ${PAGE}`);
  expect(statusOf(refused)).toBe(429);
  expect(refused.toLowerCase()).toMatch(/retry-after: \d/);
  expect(refused).toContain(`access-control-allow-origin: ${PAGE}`);
  expect(statusOf(await request(key))).toBe(status);
});

test("preflights are limited as other requests are, and answered for any path", async () => {
  const relay = await startRelay({ apiKeys: `a:${SECRET}`, requestRate: 1, allowedOrigins: PAGE });
  const preflight = async (path: string): Promise<number> => {
    const headers = { origin: PAGE, "access-control-request-method": "POST" };
    return (await relay.fetch(path, { method: "OPTIONS", headers })).status;
  };
  for (const path of ["/publish", "/nowhere", "/%zz", "/"]) expect(await preflight(path)).toBe(204);
  for (let count = 0; count < 6; count++) expect(await preflight("/publish")).toBe(204);
  expect(await preflight("/publish")).toBe(429);
  expect((await relay.fetch("/health")).status).toBe(429);
  expect(await limited(relay, "requests", SECRET)).toBe(2);
});

test("pages of foreign origins are refused, and limited as all others", async () => {
  const relay = await startRelay({ apiKeys: `a:${SECRET}`, requestRate: 1 });
  const statuses = new Set<number>();
  for (let count = 0; count < 15; count++) {
    statuses.add((await relay.fetch("/publish", { method: "OPTIONS", headers: { origin: FOREIGN } })).status);
  }
  expect(statuses).toEqual(new Set([403, 429]));
});

test("pipelined requests for what is not there are counted one by one", async () => {
  const relay = await startRelay({ apiKeys: `a:${SECRET}`, requestRate: 1 });
  const bare = await Bare.open(relay.http);
  const request = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";
  bare.write(`${request.repeat(14)}${request.replace("localhost", "localhost\r\nConnection: close")}`);
  const answers = (await bare.closed).match(/HTTP\/1\.1 \d+/g)?.map((line) => Number(line.slice(9)));
  expect(answers).toEqual([...Array.from({ length: 10 }, () => 401), ...Array.from({ length: 5 }, () => 429)]);
});

test("under a prefix the plugin answers for its own paths, and its host for all others", async () => {
  const app = Fastify();
  onTestFinished(() => app.close());
  await app.register(topicRelay, { prefix: "/relay", engine: "memory", apiKeys: `a:${SECRET}`, requestRate: 1 });
  await app.register(topicRelay, { engine: "memory", allowedOrigins: PAGE });
  const http = await app.listen({ host: "127.0.0.1", port: 0 });
  const get = async (path: string, headers = {}): Promise<[number, string | null]> => {
    const response = await fetch(http + path, { headers });
    return [response.status, response.headers.get("content-type")?.split(";")[0] ?? null];
  };
  const problem = "application/problem+json";
  expect(await get("/relay/nowhere", bearer(SECRET))).toEqual([404, problem]);
  for (let count = 0; count < 10; count++) expect(await get("/relay/nowhere")).toEqual([401, problem]);
  expect(await get("/relay/nowhere")).toEqual([429, problem]);
  // The host's: no limit, no origin of ours.
  for (const path of ["/nowhere", "/relayed"]) {
    expect(await get(path, { origin: FOREIGN })).toEqual([404, "application/json"]);
  }
});
