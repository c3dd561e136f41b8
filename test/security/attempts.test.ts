import { PassThrough } from "node:stream";
import { expect, onTestFinished, test } from "vitest";
import { parseSettings } from "../../src/config.js";
import { createServer } from "../../src/server.js";
import { secretKey, signToken } from "../../src/trust/tokens.js";
import { bearer, limited, startRelay, type TestRelay } from "../support/relay.js";
import { refusal } from "../support/socket.js";

const USED = "a-secret-that-was-used-before";
const FRESH = "a-secret-that-was-never-used";
const JWT_SECRET = "a-secret-of-tokens-with-32-bytes";
const apiKeys = `used:${USED},fresh:${FRESH}`;

async function ask(relay: TestRelay, secret: string, path = "/metrics", from?: string): Promise<Response> {
  return relay.send("GET", path, undefined, { ...bearer(secret), ...(from && { "x-forwarded-for": from }) });
}

/** Keeps one network at its limit of failures until the test ends. */
async function exhaust(relay: TestRelay, attempt: (number: number) => Promise<{ status: number }>): Promise<void> {
  const stop = new AbortController();
  let number = 0;
  const flood = async (): Promise<void> => {
    while (!stop.signal.aborted) await attempt(number++);
  };
  while ((await attempt(number++)).status !== 429);
  const flooding = Promise.all([flood(), flood()]).catch(() => undefined);
  onTestFinished(async () => {
    stop.abort();
    await flooding;
  });
}

test("where keys are tried, only those that were used there before still pass, and nobody learns of others", async () => {
  const relay = await startRelay({ apiKeys, trustProxy: true });
  const stranger = "192.0.2.1";
  expect((await ask(relay, USED, "/metrics", stranger)).status).toBe(200);
  await exhaust(relay, async (number) => ask(relay, `guess-${number}`, "/metrics", stranger));
  const answers = { [USED]: new Set<number>(), [FRESH]: new Set<number>(), wrong: new Set<number>() };
  for (let count = 0; count < 20; count++) {
    for (const [secret, statuses] of Object.entries(answers)) {
      const response = await ask(relay, secret, "/nowhere", stranger);
      statuses.add(response.status);
      if (response.status === 429) expect(response.headers.get("retry-after")).toBe("1");
    }
  }
  expect(answers[USED]).toEqual(new Set([404]));
  // Ten a second are checked, whoever comes first.
  for (const secret of [FRESH, "wrong"] as const) expect(answers[secret]).toContain(429);
  expect((await relay.send("GET", "/metrics", undefined, { "x-forwarded-for": stranger })).status).toBe(401);
  expect((await ask(relay, FRESH, "/metrics", "192.0.2.2")).status).toBe(200);
});

test("the limit holds in the long run, and is over when the failures are", async () => {
  const relay = await startRelay({ apiKeys });
  const began = performance.now();
  const tries = await Promise.all(Array.from({ length: 400 }, async () => (await ask(relay, "wrong")).status));
  const seconds = (performance.now() - began) / 1000;
  const checked = tries.filter((status) => status === 401).length;
  expect(checked).toBeGreaterThanOrEqual(100);
  expect(checked).toBeLessThanOrEqual(100 + Math.ceil(10 * seconds));
  await expect.poll(async () => (await ask(relay, FRESH)).status).toBe(200);
  const metrics = await (await ask(relay, FRESH)).text();
  expect(Number(/^relay_failed_auths_total (\d+)$/m.exec(metrics)?.[1])).toBe(checked);
  expect(await limited(relay, "failed_auths", FRESH)).toBeGreaterThanOrEqual(400 - checked);
});

test("whether a key is good does not show where none is needed either", async () => {
  const relay = await startRelay({ apiKeys, requestRate: 1 });
  for (let count = 0; count < 20; count++) await relay.fetch("/health");
  expect((await ask(relay, USED, "/health")).status).toBe(200);
  const tries = Array.from({ length: 150 }, async () => (await ask(relay, "wrong", "/health")).status);
  expect(await Promise.all(tries)).toContain(429);
  await exhaust(relay, async (number) => ask(relay, `guess-${number}`, "/health"));
  // Not checked, so it is a stranger's, who may ask once a second.
  const fresh = Array.from({ length: 20 }, async () => (await ask(relay, FRESH, "/health")).status);
  expect(await Promise.all(fresh)).toContain(429);
  expect((await ask(relay, USED, "/health")).status).toBe(200);
});

test("tokens are counted, and always checked: clients come with new ones wherever others fail", async () => {
  const relay = await startRelay({ apiKeys, jwtSecret: JWT_SECRET });
  const sign = async (sub: string, seconds = 60): Promise<string> => signToken(secretKey(JWT_SECRET), { sub }, seconds);
  const expired = await sign("1", -60);
  for (let count = 0; count < 150; count++) {
    expect((await relay.fetch(`/stream?token=${expired}`)).status).toBe(401);
    expect((await relay.fetch(`/stream?token=a.b.${count}`)).status).toBe(401);
  }
  const metrics = await (await ask(relay, USED)).text();
  expect(metrics).toMatch(/^relay_failed_auths_total 150$/m);
  await exhaust(relay, async (number) => ask(relay, `guess-${number}`));
  for (let user = 2; user < 12; user++) await (await relay.connect(`/ws?token=${await sign(`${user}`)}`)).close();
  expect((await refusal(relay.connect("/ws", [], bearer("a.b.c")))).status).toBe(401);
});

test("the log tells of failures, seldom, and never what was tried", async () => {
  const logTo = new PassThrough();
  let log = "";
  logTo.on("data", (chunk: Buffer) => (log += chunk.toString()));
  const settings = parseSettings({ engine: "memory", apiKeys, trustProxy: true });
  const { app } = await createServer(settings, { logTo });
  onTestFinished(() => app.close());
  const fail = async (from: string): Promise<number> => {
    const headers = { ...bearer("a-guess-that-is-wrong"), "x-forwarded-for": from };
    return (await app.inject({ url: "/metrics", headers })).statusCode;
  };
  const lines = (): { network?: string; failures?: number }[] =>
    log.split("\n").flatMap((line) => (line.includes("authentications failed") ? [JSON.parse(line) as object] : []));
  for (let count = 0; count < 50; count++) expect(await fail("192.0.2.1")).toBe(401);
  await expect.poll(lines).toMatchObject([{ network: "192.0.2.1", failures: 1, level: 40 }]);
  const began = performance.now();
  for (let network = 0; network < 200; network++) expect(await fail(`198.51.100.${network}`)).toBe(401);
  expect(lines().length).toBeLessThanOrEqual(6 + Math.ceil((2 * (performance.now() - began)) / 1000));
  expect(log).not.toContain("a-guess");
});
