import type { FastifyRequest } from "fastify";
import { describe, expect, test } from "vitest";
import { parseSettings } from "../../src/config.js";
import { checkSource } from "../../src/routes/origins.js";
import { hostOf, isLoopback, networkOf } from "../../src/trust/hosts.js";
import { RelayProcess } from "../support/process.js";
import { ask, Bare, upgrade } from "../support/bare.js";
import { bearer, startRelay } from "../support/relay.js";
import { openSocket, refusal } from "../support/socket.js";

const SECRET = "a-secret-that-nobody-guesses";
const FOREIGN = "https://evil.example";

describe("where a relay listens", () => {
  test.each(["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])(
    "%s without keys does not start, and names two ways out",
    async (listen) => {
      const { code, stdout, stderr } = await new RelayProcess(["--listen", listen, "--engine", "memory"]).ended;
      expect([code, stdout]).toEqual([1, ""]);
      expect(stderr).toContain("keys new");
      expect(stderr).toContain("--insecure-open");
    },
  );

  test("0.0.0.0 with keys answers nothing but health and clients' own URLs without one", async () => {
    const relay = new RelayProcess(["--listen", "0.0.0.0:0", "--engine", "memory"], { RELAY_API_KEYS: `a:${SECRET}` });
    const http = (await relay.address()).replace("0.0.0.0", "127.0.0.1");
    const routes = [
      ["POST", "/register"],
      ["GET", "/register/x"],
      ["PATCH", "/register/x"],
      ["DELETE", "/register/x"],
      ["PUT", "/register"],
      ["POST", "/publish"],
      ["GET", "/events/1-0"],
      ["DELETE", "/users/1"],
      ["GET", "/metrics"],
      ["GET", "/"],
      ["GET", "/ws"],
      ["GET", "/echo"],
      ["GET", "/stream"],
      ["GET", "/clients"],
      ["GET", "/no/such/thing"],
    ] as const;
    for (const [method, path] of routes) {
      const response = await fetch(http + path, { method });
      expect([path, response.status, response.headers.get("www-authenticate")]).toEqual([
        path,
        401,
        expect.stringMatching(/^Bearer /),
      ]);
    }
    expect((await fetch(`${http}/health`)).status).toBe(200);
    for (const path of ["/ws/x", "/stream/x"]) expect((await fetch(http + path)).status).toBe(404);
    for (const path of ["/ws", "/echo"])
      expect((await refusal(openSocket(http.replace("http", "ws") + path))).status).toBe(401);
  });

  test("open to others only when it is said, and then loudly", async () => {
    const relay = new RelayProcess(["--listen", "0.0.0.0:0", "--engine", "memory", "--insecure-open"]);
    const { port } = new URL(await relay.address());
    const answer = await ask(`http://127.0.0.1:${port}`, "GET /health HTTP/1.1\r\nHost: relay.lan\r\n\r\n");
    expect(answer).toMatch(/^HTTP\/1.1 200 /);
    expect(relay.stderr).toContain("open to other machines without keys");
  });

  test("the open relay answers only on loopback addresses, also inside another server", async () => {
    const check = checkSource(parseSettings({}));
    const to = async (localAddress: string | undefined): Promise<void> =>
      check({
        headers: { host: "localhost" },
        protocol: "http",
        raw: { socket: { localAddress }, rawHeaders: [] },
      } as unknown as FastifyRequest);
    for (const address of ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", undefined]) await to(address);
    for (const address of ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"]) {
      await expect(to(address)).rejects.toMatchObject({ statusCode: 403 });
    }
  });
});

describe("DNS rebinding", () => {
  test.each([
    ["localhost", 200],
    ["LOCALHOST:8000", 200],
    ["app.localhost", 200],
    ["127.0.0.1:8000", 200],
    ["127.8.9.10", 200],
    ["[::1]:8000", 200],
    ["evil.example", 403],
    ["localhost.evil.example", 403],
    ["127.0.0.1.evil.example", 403],
    ["notlocalhost", 403],
    ["192.168.1.1", 403],
    ["0.0.0.0", 403],
    ["[::]", 403],
    ["evil.example:80@localhost", 400],
    ["", 400],
  ])("the open relay, asked as host %j, answers %i", async (host, status) => {
    const relay = await startRelay();
    const answer = await ask(relay.http, `GET /health HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  });

  test("what a proxy says of the host does not count", async () => {
    const relay = await startRelay({ trustProxy: true });
    const request = "GET /health HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost\r\n\r\n";
    expect(await ask(relay.http, request)).toMatch(/^HTTP\/1.1 403 /);
  });

  test("a WebSocket by a name that was made to point here is refused", async () => {
    const relay = await startRelay();
    const { url } = await relay.register({ user_id: 1 });
    const headers = { host: "evil.example", origin: "http://evil.example" };
    expect((await refusal(relay.connect(url, [], headers))).status).toBe(403);
    expect((await refusal(relay.connect("/ws", [], headers))).status).toBe(403);
  });

  test("with keys, or open to others, the relay has any name", async () => {
    for (const options of [{ apiKeys: `a:${SECRET}` }, { insecureOpen: true }]) {
      const relay = await startRelay({ ...options });
      const answer = await ask(relay.http, "GET /health HTTP/1.1\r\nHost: relay.example\r\n\r\n");
      expect(answer).toMatch(/^HTTP\/1.1 200 /);
    }
  });
});

describe("pages of other sites", () => {
  test.each([FOREIGN, "null", "file://", "http://localhost.evil.example", "http://127.0.0.1.evil.example"])(
    "cross-site WebSocket hijacking: an upgrade from %j is refused, also with the right URL",
    async (origin) => {
      const relay = await startRelay();
      const { url } = await relay.register({ user_id: 1 });
      for (const path of [url, "/ws", "/echo"]) {
        expect((await refusal(relay.connect(path, [], { origin }))).status).toBe(403);
      }
    },
  );

  test("a request from one is refused before it does anything, whatever its method and type", async () => {
    const relay = await startRelay();
    const client = await relay.connect((await relay.register({ user_id: 1 })).url);
    const event = { specversion: "1.0", id: "1", source: "/", type: "t", subject: "cats", data: "hi" };
    for (const type of ["application/json", "application/x-ndjson", "application/cloudevents+json"]) {
      const body = type.includes("cloudevents") ? event : { topic: "cats", message: "hi" };
      const response = await relay.send("POST", "/publish", body, { origin: FOREIGN, "content-type": type });
      expect(response.status).toBe(403);
      expect(response.headers.get("access-control-allow-origin")).toBeNull();
    }
    expect((await relay.send("DELETE", "/users/1", undefined, { origin: FOREIGN })).status).toBe(403);
    expect(await client.settled()).toEqual([]);
  });

  test("those that are allowed may: by name, this machine's, the relay's own", async () => {
    const app = "https://app.example.com";
    const relay = await startRelay({ allowedOrigins: `${app},capacitor://localhost`, apiKeys: `a:${SECRET}` }, SECRET);
    const { url } = await relay.register({ user_id: 1 });
    for (const origin of [app, "capacitor://localhost", relay.http]) {
      await (await relay.connect(url, [], { origin })).close();
    }
    for (const origin of [`${app}:444`, "http://app.example.com", FOREIGN, "http://localhost:9999"]) {
      expect((await refusal(relay.connect(url, [], { origin }))).status).toBe(403);
    }
    const response = await relay.send("POST", "/register", { user_id: 1 }, { origin: app });
    expect(response.headers.get("access-control-allow-origin")).toBe(app);
    const preflight = await relay.fetch("/publish", {
      method: "OPTIONS",
      headers: {
        origin: app,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
      },
    });
    expect([preflight.status, preflight.headers.get("access-control-allow-headers")]).toEqual([204, "authorization"]);
  });

  test("the relay's own page is known behind a proxy too, and by its public URL", async () => {
    const proxied = await startRelay({ apiKeys: `a:${SECRET}`, trustProxy: true }, SECRET);
    const { url } = await proxied.register({ user_id: 1 });
    const path = new URL(url).pathname;
    const origin = "https://relay.example";
    const forwarded = { "x-forwarded-host": "relay.example", "x-forwarded-proto": "https" };
    await proxied.connect(proxied.ws + path, [], { origin, ...forwarded });
    const named = { origin, host: "relay.example:443" };
    await proxied.connect(proxied.ws + path, [], named);
    expect((await refusal(proxied.connect(proxied.ws + path, [], { origin: FOREIGN, ...forwarded }))).status).toBe(403);
    const known = await startRelay({ apiKeys: `a:${SECRET}`, publicUrl: `${origin}/relay` });
    expect((await known.send("GET", "/health", undefined, { origin })).status).toBe(200);
  });

  test("a relay that is open to others believes no page that its own name is the relay's", async () => {
    const relay = await startRelay({ insecureOpen: true });
    const publish = async (host: string): Promise<string> => {
      const head = `POST /publish HTTP/1.1\r\nHost: ${host}\r\nOrigin: http://${host}\r\nContent-Type: application/json`;
      const answer = await ask(relay.http, `${head}\r\nContent-Length: 25\r\n\r\n{"topic":"a","message":1}`);
      return answer.slice(9, 12);
    };
    expect(await publish("evil.example:8000")).toBe("403");
    for (const host of ["192.0.2.1:8000", "[2001:db8::1]", "localhost:8000"]) expect(await publish(host)).toBe("200");
  });

  test("by default: pages of this machine in the open mode, none with keys", () => {
    expect(parseSettings({}).allowedOrigins).toEqual(["loopback"]);
    expect(parseSettings({ apiKeys: `a:${SECRET}` }).allowedOrigins).toEqual([]);
  });

  test("without an Origin it takes a secret: the URL, a token, or a key", async () => {
    const relay = await startRelay({ apiKeys: `a:${SECRET}` }, SECRET);
    const { url } = await relay.register({ user_id: 1 });
    await (await relay.connect(url)).close();
    await (await relay.connect("/ws", [], bearer(SECRET))).close();
    await (await relay.connect("/echo", [], bearer(SECRET))).close();
    for (const path of ["/ws", "/echo"]) {
      expect((await refusal(relay.connect(path))).status).toBe(401);
      expect((await refusal(relay.connect(path, [], { origin: relay.http }))).status).toBe(401);
    }
  });
});

describe("behind a proxy", () => {
  const forwarded = { "x-forwarded-host": "relay.example", "x-forwarded-proto": "https" };

  test("that is trusted, URLs are what its caller used; otherwise what was asked here", async () => {
    for (const trustProxy of [true, false]) {
      const relay = await startRelay({ trustProxy, insecureOpen: true });
      const answer = await relay.send("POST", "/register", { user_id: 1 }, forwarded);
      const { url } = (await answer.json()) as { url: string };
      expect(new URL(url).origin).toBe(trustProxy ? "wss://relay.example" : relay.ws);
    }
  });

  test("addresses are what it says last, not what others before it say of themselves", async () => {
    const relay = await startRelay({ trustProxy: true, insecureOpen: true, maxConnections: 1 });
    const from = async (addresses: string): Promise<number> =>
      relay.connect("/echo", [], { "x-forwarded-for": addresses }).then(
        () => 101,
        ({ status }: { status: number }) => status,
      );
    expect(await from("192.0.2.1")).toBe(101);
    expect(await from("192.0.2.2")).toBe(101);
    expect(await from("192.0.2.1")).toBe(429);
    expect(await from("203.0.113.9, 192.0.2.1")).toBe(429);
    expect(await from("2001:db8::1")).toBe(101);
    expect(await from("2001:db8::2")).toBe(429);
  });
});

test.each([
  [{}, "http, https", 200],
  [{ trustProxy: true }, "https", 200],
  [{ trustProxy: true }, "javascript, https", 200],
  [{ trustProxy: true }, "javascript", 400],
  [{ trustProxy: true }, "https, ftp", 400],
  [{ trustProxy: true }, "HTTPS:", 400],
] as const)("%j: with X-Forwarded-Proto %j the answer is %i", async (settings, proto, status) => {
  const relay = await startRelay({ ...settings, insecureOpen: true });
  const answer = await relay.send("POST", "/register", { user_id: 1 }, { "x-forwarded-proto": proto });
  expect(answer.status).toBe(status);
  if (status === 200) expect(((await answer.json()) as { url: string }).url).toMatch(/^wss?:/);
});

test.each([{}, { insecureOpen: true }, { apiKeys: `a:${SECRET}` }, { trustProxy: true }])(
  "%j: two Host headers are refused, also with the same host, also where there is nothing",
  async (settings) => {
    const relay = await startRelay(settings);
    for (const second of ["evil.example", "localhost"]) {
      for (const line of ["GET /health", "GET /nowhere", "GET /%zz", "OPTIONS /health"]) {
        const request = `${line} HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\nhOST: ${second}\r\n\r\n`;
        expect(await ask(relay.http, request)).toMatch(/^HTTP\/1.1 400 [^]*(?:Host header|problem)/);
      }
      expect(await ask(relay.http, `${upgrade("/echo", `Host: ${second}`)}\r\n\r\n`)).toMatch(/^HTTP\/1.1 400 /);
    }
  },
);

test("an absolute target does not change the host that is asked for", async () => {
  const relay = await startRelay();
  const answer = await ask(relay.http, "GET http://localhost/health HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  expect(answer).toMatch(/^HTTP\/1.1 40[34] /);
});

test("an upgrade that is refused ends its connection: nothing that comes after it is answered", async () => {
  const relay = await startRelay();
  const smuggled = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const refused = [
    upgrade("/ws", "Sec-WebSocket-Protocol: ,"),
    upgrade("/ws/unknown"),
    upgrade("/ws", `Origin: ${FOREIGN}`),
    upgrade("/ws").replace("Version: 13", "Version: 12"),
    upgrade("/health", `Content-Length: ${smuggled.length}`),
  ];
  for (const head of refused) {
    const bare = await Bare.open(relay.http);
    bare.write(`${head}\r\n\r\n${smuggled}`);
    const answer = await bare.closed;
    expect(answer).toMatch(/^HTTP\/1.1 4\d\d /);
    expect(answer.match(/HTTP\/1.1/g)).toHaveLength(1);
  }
});

test("a request behind an upgrade is frames, not a request", async () => {
  const relay = await startRelay();
  const smuggled = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  for (const length of [`Content-Length: ${smuggled.length}`, "Transfer-Encoding: chunked"]) {
    const bare = await Bare.open(relay.http);
    bare.write(`${upgrade("/ws", length)}\r\n\r\n${smuggled}`);
    const answer = await bare.closed;
    expect(answer.match(/HTTP\/1.1/g)).toHaveLength(1);
    expect(answer).not.toContain('"status":"ok"');
  }
});

test.each([
  ["localhost", true],
  ["[::1]", true],
  ["::ffff:127.0.0.1", true],
  ["[::ffff:7f00:1]", true],
  ["0:0:0:0:0:0:0:1", true],
  ["a.localhost", true],
  ["::2", false],
  ["::127.0.0.1", false],
  ["::ffff:128.0.0.1", false],
  ["::1.evil.example", false],
  ["::1]/[", false],
  ["::ffff:127.0.0.1:80", false],
  ["localhost.", true],
  ["127.0.0.1.nip.io", false],
  ["1270.0.0.1", false],
])("isLoopback(%j) is %j", (host, expected) => expect(isLoopback(host)).toBe(expected));

test.each([
  ["192.0.2.7", "192.0.2.7"],
  ["::ffff:192.0.2.7", "192.0.2.7"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2"],
  ["2001:db8:1:2::9", "2001:db8:1:2"],
  ["2001:db8::9", "2001:db8:0:0"],
  ["::1", "0:0:0:0"],
  ["1.2.3.4:56789", "1.2.3.4"],
  ["[2001:db8::1]:56789", "2001:db8:0:0"],
])("%s shares the limits of %s", (address, network) => expect(networkOf(address)).toBe(network));

test.each([
  ["a.example:80", "a.example"],
  ["[2001:db8::1]:80", "[2001:db8::1]"],
  ["a b", undefined],
  ["a@b", undefined],
  ["a:80:80", undefined],
])("the host of %j is %j", (header, host) => expect(hostOf(header)).toBe(host));
