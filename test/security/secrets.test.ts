import { readFileSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { expect, test } from "vitest";
import { temporaryDirectory } from "../support/directory.js";
import { ask, Bare, upgrade } from "../support/bare.js";
import { RelayProcess } from "../support/process.js";
import { bearer, type Registered, startRelay } from "../support/relay.js";
import { openSocket, refusal } from "../support/socket.js";
import { openStream } from "../support/stream.js";

const KEY = "the-secret-of-a-key-0123456789";
const OTHER = "the-secret-of-another-key-0123";
const JWT_SECRET = "the-secret-of-tokens-0123456789abcdef";

test("neither keys, tokens nor clients' ids are in logs, errors, metrics or the process's title", async () => {
  const file = `${temporaryDirectory()}/keys`;
  writeFileSync(file, `other:${OTHER}\n`);
  const flags = ["--listen", "127.0.0.1:0", "--log-level", "trace", "--api-keys", `a:${KEY}`, "--api-keys-file", file];
  const relay = new RelayProcess([...flags, "--jwt-secret", JWT_SECRET, "--frame-rate", "5"]);
  const http = await relay.address();
  const ws = http.replace("http", "ws");
  const made = await new RelayProcess(["token", "--user", "bob", "--expires", "1s"], { RELAY_JWT_SECRET: JWT_SECRET })
    .ended;
  const token = made.stdout.trim();
  const headers = { "content-type": "application/json", ...bearer(KEY) };
  const post = async (path: string, body: string): Promise<Response> =>
    fetch(http + path, { method: "POST", headers, body });
  const { id, url } = (await (await post("/register", '{"user_id":1}')).json()) as Registered;
  const dashed = id.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");

  // All that may have a client's id, a key or a token in it, and go wrong.
  const answers: string[] = [];
  for (const path of [
    `/${id}`,
    `/ws/${id}/x`,
    `/wss/${dashed}`,
    `/register/${id}x`,
    `/stream/${id}?since=${token}`,
    `/stream/${id}?format=${KEY}`,
    `/ws/${id}`,
    `/events/${id}`,
    `/events/${token}`,
    `/stream?token=${token}x`,
    `/${"x".repeat(20_000)}${id}`,
  ]) {
    const answer = await fetch(http + path, { headers: bearer(OTHER) });
    answers.push(`${JSON.stringify([...answer.headers])}${answer.status === 200 ? "" : await answer.text()}`);
    if (answer.status === 200) await answer.body?.cancel();
  }
  for (const secret of [`${KEY}x`, token])
    answers.push(await (await fetch(`${http}/metrics`, { headers: bearer(secret) })).text());
  answers.push(await ask(http, `GET /ws/${id} HTTP/9\r\nAuthorization: Bearer ${KEY}\r\n\r\n`));
  answers.push(
    await ask(http, `GET /ws/${id} HTTP/1.1\r\nHost: ${id}\r\nExpect: x\r\nAuthorization: Bearer ${KEY}\r\n\r\n`),
  );
  answers.push((await refusal(openSocket(`${ws}/ws/${id}`, [], { origin: "https://evil.example" }))).body);
  answers.push((await refusal(openSocket(`${ws}/ws?token=${token}&format=x`))).body);

  const client = await openSocket(url);
  const newer = await openSocket(url);
  await client.closed;
  for (let count = 0; count < 20; count++) newer.say({ id: "1", type: "request", action: id, payload: { id, token } });
  await newer.take(20);
  answers.push(...newer.all);
  const broken = await Bare.open(http);
  broken.write(`${upgrade(`/ws/${id}`)}\r\n\r\n\xff\xff\xff`);
  await broken.closed;
  const stream = await openStream(`${http}/stream?token=${token}`);
  await expect(stream.take(100)).rejects.toThrow("ended");
  writeFileSync(file, `broken:${OTHER}:nothing\n`);
  relay.child.kill("SIGHUP");
  while (!relay.stderr.includes("could not be read anew"))
    await once(relay.child.stderr as NodeJS.ReadableStream, "data");
  answers.push(await (await fetch(`${http}/metrics`, { headers: bearer(KEY) })).text());

  const secrets = [KEY, OTHER, JWT_SECRET, token, token.split(".")[2] ?? "", id, dashed, id.slice(0, 9)];
  const title = process.platform === "linux" ? readFileSync(`/proc/${relay.child.pid}/cmdline`, "latin1") : "";
  for (const secret of secrets) {
    expect(relay.stdout).not.toContain(secret);
    expect(relay.stderr).not.toContain(secret);
    expect(title).not.toContain(secret);
    for (const answer of answers) expect(answer).not.toContain(secret);
  }
  // The logs are not empty: they name the client as far as it may be named.
  expect(relay.stderr).toContain(`${id.slice(0, 8)}…`);
});

test.each([
  [["--api-keys", `a:${KEY}:nothing`], {}],
  [[], { RELAY_API_KEYS: `a:${KEY}:x:${KEY}` }],
  [["--api-keys", `a:${KEY},b:${KEY}`], {}],
  [["--jwt-secret", JWT_SECRET, "--jwks-url", "https://id.example"], {}],
] as [string[], Record<string, string>][])("%j %j stops the start, and is not repeated", async (args, env) => {
  const { code, stdout, stderr } = await new RelayProcess(["--listen", "127.0.0.1:0", ...args], env).ended;
  expect([code, stdout]).toEqual([1, ""]);
  for (const secret of [KEY, JWT_SECRET]) expect(stderr).not.toContain(secret);
});

test("weak secrets are said loudly, by the names of their keys", async () => {
  const relay = new RelayProcess(["--listen", "127.0.0.1:0", "--engine", "memory"], {
    RELAY_API_KEYS: "shop:short",
    RELAY_JWT_SECRET: "short too",
  });
  await relay.address();
  expect(relay.stderr).toContain('"keys":["shop"]');
  expect(relay.stderr).toContain("--jwt-secret has less than 32 bytes");
  expect(relay.stderr).not.toContain("short too");
});

test("unknown, expired and removed clients are told apart by nothing", async () => {
  const relay = await startRelay({}, undefined);
  const removed = await relay.register({ user_id: 1 });
  await relay.send("DELETE", `/register/${removed.id}`);
  const expired = await relay.register({ user_id: 1, ttl: 1 });
  await expect.poll(async () => (await relay.fetch(`/register/${expired.id}`)).status, { timeout: 5000 }).toBe(404);
  for (const path of ["/register/", "/stream/", "/ws/"]) {
    const answers = await Promise.all(
      [removed.id, expired.id, "0".repeat(32), "no-id-at-all"].map(async (id) => {
        const answer = await relay.fetch(path + id);
        const headers = [...answer.headers].filter(([name]) => name !== "date");
        return JSON.stringify([answer.status, headers, await answer.text()]);
      }),
    );
    expect(new Set(answers).size).toBe(1);
  }
});

test("answers with a client's URL are for their receiver alone", async () => {
  const relay = await startRelay();
  const answer = await relay.send("POST", "/register", { user_id: 1 });
  const { id } = (await answer.json()) as Registered;
  expect(answer.headers.get("cache-control")).toBe("no-store");
  for (const method of ["GET", "PATCH", "DELETE"]) {
    const { headers } = await relay.send(method, `/register/${id}`, method === "PATCH" ? { add: [] } : undefined);
    expect(headers.get("cache-control")).toBe("no-store");
  }
});
