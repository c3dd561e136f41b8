import { beforeEach, describe, expect, test } from "vitest";
import type { SettingsInput } from "../../src/config.js";
import { documented, replaceAll, startHaproxy, startNginx } from "../support/proxy.js";
import { bearer, type Registered, startRelay, type TestRelay } from "../support/relay.js";
import { openSocket, refusal } from "../support/socket.js";
import { openStream } from "../support/stream.js";
import { systemProgram } from "../support/system.js";

const SECRET = "a-secret-that-nobody-guesses";

const nginx = systemProgram("nginx");
const haproxy = systemProgram("haproxy");

/** Starts a proxy before a relay, as docs/proxies.md says or with a change of that. */
type Start = (relay: string, change?: (config: string) => string) => Promise<string>;

const same = (config: string): string => config;

const proxies: [string, string | undefined, Start][] = [
  ["nginx", nginx, async (relay, change = same) => startNginx(nginx as string, change(documented("nginx")), relay)],
  [
    "haproxy",
    haproxy,
    async (relay, change = same) => startHaproxy(haproxy as string, change(documented("haproxy")), relay),
  ],
];

async function register(proxy: string, body: object): Promise<Registered> {
  const headers = { "content-type": "application/json", ...bearer(SECRET) };
  const answer = await fetch(`${proxy}/relay/register`, { method: "POST", headers, body: JSON.stringify(body) });
  if (answer.status !== 200) throw new Error(await answer.text());
  return (await answer.json()) as Registered;
}

async function healthOf(proxy: string, headers: Record<string, string> = {}): Promise<number> {
  return (await fetch(`${proxy}/relay/health`, { headers })).status;
}

describe.each(proxies)("behind %s, configured as docs/proxies.md says", (_name, program, start) => {
  describe.skipIf(program === undefined)("with --trust-proxy and keys", () => {
    let relay: TestRelay;
    let proxy: string;

    beforeEach(async () => {
      const settings: SettingsInput = {
        trustProxy: true,
        apiKeys: `a:${SECRET}`,
        pingInterval: "1s",
        retentionCount: 2,
      };
      relay = await startRelay(settings, SECRET);
      proxy = await start(relay.http);
    });

    test("the URLs that are given out lead through the proxy, whatever the caller says of others", async () => {
      const { url, stream_url, id } = await register(proxy, { user_id: 1 });
      expect([url, stream_url]).toEqual([
        `${proxy.replace("http", "ws")}/relay/ws/${id}`,
        `${proxy}/relay/stream/${id}`,
      ]);
      const forged = {
        "x-forwarded-host": "evil.example",
        "x-forwarded-prefix": "/evil",
        "x-forwarded-proto": "https",
      };
      const looked = await fetch(`${proxy}/relay/register/${id}`, { headers: { ...bearer(SECRET), ...forged } });
      expect(await looked.json()).toMatchObject({ url, stream_url });
    });

    test("at the root of a host, with / for /relay/ and /relay", async () => {
      const root = await start(relay.http, (config) => config.replaceAll(/\/relay\b\/?/g, "/"));
      const { url } = await register(proxy, { user_id: 1 });
      const looked = await fetch(`${root}/register/${url.slice(-32)}`, { headers: bearer(SECRET) });
      const rooted = (await looked.json()) as Registered;
      expect(rooted.url).toBe(`${root.replace("http", "ws")}/ws/${rooted.id}`);
      await (await openSocket(rooted.url)).settled();
    });

    test("WebSockets: events both ways, and pongs that confirm them", async () => {
      const { url } = await register(proxy, { user_id: 1, topics: ["cats"], allow: { publish: ["cats"] } });
      const client = await openSocket(`${url}?format=json`);
      expect(await client.json()).toMatchObject({ type: "notification" });
      const receipt = await relay.publish({ topic: "cats", message: "to the client" }, "?wait=5");
      expect(receipt).toMatchObject({ sent: 1, confirmed: 1 });
      expect(await client.json()).toMatchObject({ message: "to the client" });
      expect(await client.request("publish", { topic: "cats", message: "from the client" })).toMatchObject({ sent: 1 });
      let pings = 0;
      await new Promise<void>((resolve) => client.socket.on("ping", () => ++pings === 2 && resolve()));
      await client.settled();
      expect(client.all.filter((frame) => frame.includes('"message":"from the client"'))).toHaveLength(1);
    });

    test("streams: each event arrives when it is published, and the connection stays open without one", async () => {
      const { stream_url } = await register(proxy, { user_id: 1, topics: ["cats"] });
      const stream = await openStream(stream_url);
      for (const message of ["one", "two"]) {
        await relay.publish({ topic: "cats", message });
        // The next event is published only when this one has come.
        while (!(await stream.next()).includes(`data: ${message}`));
      }
      while (!(await stream.next()).startsWith(":"));
    });

    test("streams: who ends one and opens the next does not wait, however often", async () => {
      // With the usual time between two comments: the proxy notices only when it writes that the other end is gone.
      const idle = await startRelay({ trustProxy: true, apiKeys: `a:${SECRET}` }, SECRET);
      const { stream_url } = await register(await start(idle.http), { user_id: 1, topics: ["cats"] });
      for (let n = 0; n < 5; n++) (await openStream(stream_url)).close();
      const stream = await openStream(stream_url);
      await idle.publish({ topic: "cats", message: "hi" });
      const began = performance.now();
      while (!(await stream.next()).includes("data: hi"));
      expect(performance.now() - began).toBeLessThan(2000);
    });

    test("a gap is said in the header Relay-Gap", async () => {
      const { url, stream_url } = await register(proxy, { user_id: 1, topics: ["cats"] });
      for (let n = 0; n < 5; n++) await relay.publish({ topic: "cats", message: n });
      expect((await openSocket(`${url}?since=0`)).headers["relay-gap"]).toBe("true");
      expect((await openStream(`${stream_url}?since=0`)).response.headers.get("relay-gap")).toBe("true");
    });

    test("a user whose name has percent-encoded slashes and dots is that user, and no other", async () => {
      const removed = async (user: string): Promise<unknown> => {
        const path = `${proxy}/relay/users/${encodeURIComponent(user)}`;
        const answer = await fetch(path, { method: "DELETE", headers: bearer(SECRET) });
        return ((await answer.json()) as { removed?: number }).removed;
      };
      await register(proxy, { user_id: "a b%" });
      await register(proxy, { user_id: "victim" });
      expect([await removed("a b%"), await removed("me/../victim")]).toEqual([1, 0]);
      await register(proxy, { user_id: "a/b" });
      expect(await removed("a/b")).toBe(1);
    });

    test("a path that is not below /relay/ as the client wrote it does not reach the relay", async () => {
      let requests = 0;
      relay.app.server.on("request", () => requests++);
      for (const path of ["/health", "/%72elay/health", "//relay/health", "/relayed/health"]) {
        expect([404, 503]).toContain((await fetch(proxy + path)).status);
      }
      expect(requests).toBe(0);
      expect([await healthOf(proxy), requests]).toEqual([200, 1]);
    });

    test("limits are by the address that the proxy saw", async () => {
      const limited = await startRelay({ trustProxy: true, insecureOpen: true, maxConnections: 1 });
      const ws = `${(await start(limited.http)).replace("http", "ws")}/relay/echo`;
      await openSocket(ws, [], { "x-forwarded-for": "192.0.2.1" });
      expect((await refusal(openSocket(ws, [], { "x-forwarded-for": "192.0.2.2" }))).status).toBe(429);
    });
  });

  describe.skipIf(program === undefined)("an open relay", () => {
    test("refuses what the proxy sends", async () => {
      const relay = await startRelay();
      const proxy = await start(relay.http);
      expect(await healthOf(proxy)).toBe(403);
      const { id } = await relay.register({ user_id: 1 });
      expect((await refusal(openSocket(`${proxy.replace("http", "ws")}/relay/ws/${id}`))).status).toBe(403);
    });

    test("with --trust-proxy answers callers on this machine that ask for it by a loopback name", async () => {
      const relay = await startRelay({ trustProxy: true });
      const proxy = await start(relay.http);
      expect(await healthOf(proxy)).toBe(200);
      const { url } = await register(proxy, { user_id: 1 });
      await (await openSocket(url)).settled();
      expect((await refusal(openSocket(url, [], { host: "evil.example" }))).status).toBe(403);
    });
  });
});

describe.skipIf(nginx === undefined)("behind nginx with other configurations", () => {
  test("one that drops Upgrade and Connection: 426 says so", async () => {
    const relay = await startRelay({ trustProxy: true });
    const config = replaceAll(documented("nginx"), {
      "proxy_set_header Upgrade $http_upgrade;": "",
      "proxy_set_header Connection $connection_upgrade;": "",
    });
    const { url } = await register(await startNginx(nginx as string, config, relay.http), { user_id: 1 });
    const { status, body } = await refusal(openSocket(url));
    expect(status).toBe(426);
    expect((JSON.parse(body) as { detail: string }).detail).toMatch(/a proxy.*Upgrade and Connection/);
  });

  test("one that says nothing of its clients: an open relay answers, as it cannot know", async () => {
    const relay = await startRelay();
    const bare = "server { listen 80; location /relay/ { proxy_pass http://127.0.0.1:8000/; } }";
    expect(await healthOf(await startNginx(nginx as string, bare, relay.http))).toBe(200);
  });
});
