import Fastify from "fastify";
import { describe, expect, onTestFinished, test } from "vitest";
import { parseSettings, type SettingsInput } from "../../src/config.js";
import topicRelay from "../../src/index.js";
import { ask, upgrade } from "../support/bare.js";
import { type Registered, startRelay } from "../support/relay.js";
import { refusal } from "../support/socket.js";

const KEYS: SettingsInput = { apiKeys: "a:a-secret-that-nobody-guesses" };

/** What a proxy says of a client on this machine that asks for this machine. */
const OWN = ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: localhost:8080"];

async function statusOf(http: string, headers: readonly string[], path = "/health"): Promise<number> {
  const answer = await ask(http, ["GET " + path + " HTTP/1.1", "Host: localhost", ...headers, "\r\n"].join("\r\n"));
  return Number(answer.slice(9, 12));
}

describe("an open relay refuses what a proxy sends", () => {
  test.each([
    "Forwarded: for=192.0.2.1",
    "X-Forwarded-For: 127.0.0.1",
    "x-FORWARDED-for: 192.0.2.1",
    "X-Forwarded-For:",
    "X-Forwarded-Host: localhost",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Server: localhost",
    "X-Forwarded-Anything: 1",
    "X-Real-IP: ::1",
    "Via: 1.1 proxy",
  ])("%s", async (header) => {
    const relay = await startRelay();
    expect(await statusOf(relay.http, [header])).toBe(403);
    expect(await statusOf(relay.http, [header], "/nowhere")).toBe(403);
    for (const settings of [KEYS, { insecureOpen: true }]) {
      expect(await statusOf((await startRelay(settings)).http, [header])).toBe(200);
    }
  });

  test("the answer says which headers were seen, and the ways out", async () => {
    const relay = await startRelay();
    const answer = await relay.send("GET", "/health", undefined, { "x-forwarded-for": "192.0.2.1", via: "1.1 a" });
    const { detail } = (await answer.json()) as { detail: string };
    for (const part of ["via", "x-forwarded-for", "--api-keys", "--trust-proxy", "trustProxy", "--insecure-open"]) {
      expect(detail).toContain(part);
    }
  });

  test("WebSockets and streams too", async () => {
    for (const trustProxy of [false, true]) {
      const relay = await startRelay({ trustProxy });
      const { url, stream_url } = await relay.register({ user_id: 1 });
      const headers = { "x-forwarded-for": "192.0.2.1", "x-forwarded-host": "localhost" };
      for (const path of [url, "/ws", "/echo"]) {
        expect((await refusal(relay.connect(path, [], headers))).status).toBe(403);
      }
      for (const to of [stream_url, `${relay.http}/stream`]) expect((await fetch(to, { headers })).status).toBe(403);
    }
  });

  test("also when so many other headers come before that Node does not read them", async () => {
    const many = Array.from({ length: 1100 }, () => "a:");
    for (const trustProxy of [false, true]) {
      const relay = await startRelay({ trustProxy });
      expect(await statusOf(relay.http, [...many, "X-Forwarded-For: 192.0.2.1"])).toBe(431);
      expect(await statusOf(relay.http, many.slice(0, 900))).toBe(200);
    }
  });
});

describe("an open relay with --trust-proxy answers a proxy for clients on this machine that ask for localhost", () => {
  test.each([
    [],
    OWN,
    ["X-Forwarded-For: 127.0.0.1"],
    ["X-Real-IP: 127.0.0.1"],
    ["Forwarded: for=127.0.0.1;host=localhost"],
    ["X-Forwarded-For: ::1", "X-Forwarded-Host: [::1]:80"],
    ["X-Forwarded-For: 127.0.0.1:4711, [::1]:4711", "X-Forwarded-Host: LOCALHOST, app.localhost"],
    ["X-Forwarded-For: ::ffff:127.0.0.1", "X-Forwarded-For: 127.0.0.2", "X-Forwarded-Host: 127.0.0.1"],
    // As proxies in Java write ::1.
    ["X-Forwarded-For: 0:0:0:0:0:0:0:1"],
    ["X-Forwarded-For: [0:0:0:0:0:0:0:1]:4711", "X-Forwarded-Host: [0:0:0:0:0:0:0:1]:80"],
    ["X-Forwarded-For: ::ffff:7f00:1"],
    [...OWN, "X-Real-IP: 127.0.0.1", "Via: 1.1 proxy", "X-Forwarded-Proto: https", "X-Forwarded-Server: a.example"],
    [...OWN, 'Forwarded: for="[::1]:80";HOST=localhost;proto=http, For=127.0.0.1; by=_a'],
  ])("%j %j %j", async (...headers) => {
    const relay = await startRelay({ trustProxy: true });
    expect(await statusOf(relay.http, headers)).toBe(200);
    const answer = await ask(relay.http, `${upgrade("/ws", ...headers)}\r\n\r\n`);
    expect(answer).toMatch(/^HTTP\/1.1 101 /);
  });

  test.each([
    // Nobody names the client.
    ["X-Forwarded-Host: localhost"],
    ["X-Forwarded-Proto: http"],
    ["Via: 1.1 proxy"],
    ["Forwarded: host=localhost"],
    ['Forwarded: by="a for=x"'],
    ["X-Forwarded-For: ::ffff:8000:1"],
    ["X-Forwarded-For: ::7f00:1"],
    ["Forwarded:"],
    ["X-Real-IP: 192.0.2.1"],
    ["Forwarded: for=192.0.2.1"],
    // One of several from elsewhere, first or last, in one header or two.
    ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: 127.0.0.1, 192.0.2.1", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: 192.0.2.1, 127.0.0.1", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: 192.0.2.1", ...OWN],
    [...OWN, "X-FORWARDED-FOR: 192.0.2.1"],
    ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: evil.example, localhost"],
    ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: localhost, evil.example"],
    [...OWN, "X-Forwarded-Host: evil.example"],
    // No addresses and hosts.
    ["X-Forwarded-For:", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: 127.0.0.1,", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host:"],
    ["X-Forwarded-For: unknown", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: _hidden", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: localhost", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: 127.0.0.999", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: 127.0.0.1.evil.example", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: [::1", "X-Forwarded-Host: localhost"],
    ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: localhost.evil.example"],
    ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: evil.example:80@localhost"],
    ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: evil.example#.localhost"],
    // Others say something else.
    [...OWN, "X-Real-IP: 192.0.2.1"],
    [...OWN, "X-Real-IP:"],
    [...OWN, "Forwarded: for=192.0.2.1"],
    [...OWN, "Forwarded: for=127.0.0.1, FOR=192.0.2.1"],
    [...OWN, "Forwarded: for=127.0.0.1;host=evil.example"],
    [...OWN, "Forwarded: for=127.0.0.1", 'Forwarded: for="[2001:db8::1]:80"'],
    [...OWN, "Forwarded: for=_hidden"],
    [...OWN, "Forwarded: for=unknown"],
    [...OWN, 'Forwarded: for="127.0.0.1\\"'],
    [...OWN, 'Forwarded: by="a,b";for=127.0.0.1'],
    [...OWN, "Forwarded: for"],
  ])("and refuses: %j %j %j", async (...headers) => {
    const relay = await startRelay({ trustProxy: true });
    expect(await statusOf(relay.http, headers)).toBe(403);
  });
});

describe("an open relay as a plugin", () => {
  async function start(trustProxy: boolean | string): Promise<string> {
    const app = Fastify({ trustProxy });
    onTestFinished(() => app.close());
    await app.register(topicRelay, { engine: "memory" });
    return app.listen({ host: "127.0.0.1", port: 0 });
  }

  test("answers a proxy that the app trusts, for clients on this machine, and no other", async () => {
    const none = await start(false);
    expect([await statusOf(none, []), await statusOf(none, OWN)]).toEqual([200, 403]);
    for (const trusted of [true, "loopback"]) {
      const app = await start(trusted);
      expect(await statusOf(app, OWN)).toBe(200);
      expect(await statusOf(app, ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: localhost"])).toBe(403);
      expect(await statusOf(app, ["X-Forwarded-For: 192.0.2.1, 127.0.0.1", "X-Forwarded-Host: localhost"])).toBe(403);
    }
    expect(await statusOf(await start("192.0.2.0/24"), OWN)).toBe(403);
  });

  test("gives out URLs with the prefix of a proxy that the app trusts", async () => {
    for (const [trusted, prefix] of [
      ["loopback", "/relay"],
      [false, ""],
      ["192.0.2.0/24", ""],
    ] as const) {
      const app = Fastify({ trustProxy: trusted });
      onTestFinished(() => app.close());
      await app.register(topicRelay, { engine: "memory", insecureOpen: true, prefix: "/in" });
      const http = await app.listen({ host: "127.0.0.1", port: 0 });
      const headers = {
        "content-type": "application/json",
        "x-forwarded-for": "192.0.2.1",
        "x-forwarded-prefix": "/relay",
      };
      const answer = await fetch(`${http}/in/register`, { method: "POST", headers, body: '{"user_id":1}' });
      const { stream_url, id } = (await answer.json()) as Registered;
      expect(stream_url).toBe(`${http}${prefix}/in/stream/${id}`);
    }
  });
});

describe("X-Forwarded-Prefix", () => {
  const register = async (settings: SettingsInput, prefix: string): Promise<string | number> => {
    const relay = await startRelay({ insecureOpen: true, ...settings });
    const headers = { "x-forwarded-prefix": prefix };
    const answer = await relay.send("POST", "/register", { user_id: 1 }, headers);
    if (answer.status !== 200) return answer.status;
    const { url, stream_url, id } = (await answer.json()) as Registered;
    expect(stream_url).toBe(url.replace("ws", "http").replace(`/ws/${id}`, `/stream/${id}`));
    const looked = await relay.send("GET", `/register/${id}`, undefined, headers);
    expect(await looked.json()).toMatchObject({ url, stream_url });
    return url.replace(/^wss?:\/\/[^/]*/, "").replace(`/ws/${id}`, "");
  };

  test.each([
    ["/relay", "/relay"],
    ["/relay/", "/relay"],
    ["/a/b-c_d.e~f/%C3%A4", "/a/b-c_d.e~f/%C3%A4"],
    ["/", ""],
    // The last one is the trusted proxy's own.
    ["/evil?, /relay", "/relay"],
  ])("of a trusted proxy, %j, is the path of URLs: %j", async (header, prefix) => {
    expect(await register({ trustProxy: true }, header)).toBe(prefix);
  });

  test.each([
    "",
    "relay",
    "//evil.example",
    "/a//b",
    "/a/../b",
    "/..",
    "/.",
    "/a/%2e%2E/b",
    "/a?b",
    "/a#b",
    "/a\\b",
    "/a b",
    "/a\tb",
    "/ä",
    "/%zz",
    "/a, b",
    "/a,",
    "https://evil.example",
    "@evil.example",
    `/${"a".repeat(256)}`,
    `/${"a".repeat(9000)}!"`,
  ])("that is no path, %j, is 400", async (header) => {
    expect(await register({ trustProxy: true }, header)).toBe(400);
  });

  test("counts for nothing without --trust-proxy, or with --public-url", async () => {
    expect(await register({}, "/relay")).toBe("");
    expect(await register({}, "//")).toBe("");
    expect(await register({ trustProxy: true, publicUrl: "https://relay.example/x/" }, "/relay")).toBe("/x");
  });
});

describe("--public-url", () => {
  test.each([
    ["https://relay.example", "https://relay.example"],
    ["HTTPS://Relay.Example:443/", "https://relay.example"],
    ["http://[::1]:8000/a/b/", "http://[::1]:8000/a/b"],
  ])("%s is %s", (text, url) => expect(parseSettings({ publicUrl: text }).publicUrl).toBe(url));

  test.each([
    "wss://relay.example",
    "relay.example",
    "https://relay.example/?",
    "https://relay.example/?a=1",
    "https://relay.example/#",
    "https://user:password@relay.example",
    "ftp://relay.example",
    "",
  ])("%j is refused, and the error says what to write", (publicUrl) => {
    expect(() => parseSettings({ publicUrl })).toThrow(/must be an http or https URL.*for wss:\/\/ write https:\/\//);
  });
});
