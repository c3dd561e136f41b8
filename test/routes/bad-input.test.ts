import { once } from "node:events";
import net from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import type { Problem } from "../../src/protocol.js";
import { startRelay, type TestRelay } from "../support/relay.js";

async function problem(answer: Response | Promise<Response>): Promise<Problem> {
  const response = await answer;
  expect(response.headers.get("content-type")).toContain("application/problem+json");
  const body = (await response.json()) as Problem;
  expect(body).toMatchObject({ type: "about:blank", status: response.status });
  for (const field of ["title", "detail", "code"] as const) expect(body[field]).not.toBe("");
  expect(JSON.stringify(body)).not.toMatch(/node_modules|\.js:|\.ts:|at Object/);
  return body;
}

/** Bytes on a bare connection, and what comes back until the other end closes or says this much. */
async function bare(relay: TestRelay, request: string | Buffer): Promise<string> {
  const { hostname, port } = new URL(relay.http);
  const socket = net.connect(Number(port), hostname);
  socket.write(request);
  const [answer] = (await once(socket, "data")) as [Buffer];
  socket.destroy();
  return answer.toString("latin1");
}

const errors = vi.spyOn(console, "error");
afterEach(() => expect(errors).not.toHaveBeenCalled());

const deep = "[".repeat(1000) + "]".repeat(1000);

const requests: [string, string, unknown, number, string[]][] = [
  ["POST", "/register", "{", 400, []],
  ["POST", "/register", "", 400, [""]],
  ["PATCH", `/register/${"0".repeat(32)}`, {}, 400, [""]],
  ["PATCH", `/register/${"0".repeat(32)}`, { topics: [], add: [] }, 400, [""]],
  ["POST", "/register", '{"user_id":1}garbage', 400, []],
  ["POST", "/register", [], 400, [""]],
  ["POST", "/register", null, 400, [""]],
  ["POST", "/register", {}, 400, ["user_id"]],
  ["POST", "/register", { user_id: -1 }, 400, ["user_id"]],
  ["POST", "/register", { user_id: 1.5 }, 400, ["user_id"]],
  ["POST", "/register", { user_id: 2 ** 53 }, 400, ["user_id"]],
  ["POST", "/register", { user_id: "" }, 400, ["user_id"]],
  ["POST", "/register", { user_id: "x".repeat(129) }, 400, ["user_id"]],
  ["POST", "/register", { user_id: { a: 1 } }, 400, ["user_id"]],
  ["POST", "/register", { user_id: 1, topic: "a", more: 1 }, 400, ["topic", "more"]],
  ["POST", "/register", { user_id: 1, topics: "a" }, 400, ["topics"]],
  ["POST", "/register", { user_id: 1, topics: ["ok", "", 5] }, 400, ["topics.1", "topics.2"]],
  ["POST", "/register", { user_id: 1, topics: ["x".repeat(256)] }, 400, ["topics.0"]],
  ["POST", "/register", { user_id: 1, topics: ["a\u0007"] }, 400, ["topics.0"]],
  ["POST", "/register", { user_id: 1, topics: ["$broadcast"] }, 400, ["topics.0"]],
  ["POST", "/register", { user_id: 1, ttl: 0 }, 400, ["ttl"]],
  ["POST", "/register", { user_id: 1, ttl: 604_801 }, 400, ["ttl"]],
  ["POST", "/register", '{"user_id":1,"__proto__":{"x":1}}', 400, ["__proto__"]],
  ["POST", "/register", deep, 400, []],
  ["POST", "/publish", "{", 400, []],
  ["POST", "/publish", {}, 400, ["topic", "message"]],
  ["POST", "/publish", { topic: "a.*", message: 1 }, 400, ["topic"]],
  ["POST", "/publish", { topic: "a", message: 1, user_id: 1, user_ids: [2] }, 400, ["user_ids"]],
  ["POST", "/publish", { topic: "a", message: 1, user_ids: [] }, 400, ["user_ids"]],
  ["POST", "/publish", { topic: "a", message: 1, ttl: -1 }, 400, ["ttl"]],
  ["POST", "/publish", { topic: "a", message: 1, key: "" }, 400, ["key"]],
  ["POST", "/publish", { topic: "a", message: 1, to: 1 }, 400, ["to"]],
  ["POST", "/publish?wait=31", { topic: "a", message: 1 }, 400, ["wait"]],
  ["POST", "/publish?wait=x", { topic: "a", message: 1 }, 400, ["wait"]],
  ["POST", "/publish?wait=1&wait=2", { topic: "a", message: 1 }, 400, ["wait"]],
  ["POST", "/publish", `{"topic":"a","message":${deep}}`, 400, []],
  ["POST", "/publish", { topic: "a", message: "x".repeat(65_536) }, 413, []],
  ["POST", "/publish", `{"topic":"a","message":"${"x".repeat(9_000_000)}"}`, 413, []],
  ["POST", "/publish", Array.from({ length: 10_001 }, () => 1), 413, []],
  ["POST", "/register", `{"user_id":"${"x".repeat(2_000_000)}"}`, 413, []],
  ["DELETE", `/users/${"x".repeat(129)}`, undefined, 400, [""]],
  ["GET", "/nowhere", undefined, 404, []],
  ["GET", "/register", undefined, 405, []],
  ["POST", "/health", { a: 1 }, 405, []],
  ["GET", "/publish", undefined, 405, []],
  ["PUT", "/ws", "{", 405, []],
  ["GET", "/ws", undefined, 426, []],
  ["GET", "/echo", undefined, 426, []],
  ["GET", "/%zz", undefined, 400, []],
];

test.each(
  requests.map(([method, path, body, ...rest]) => {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    return [`${method} ${path.slice(0, 30)} ${text?.slice(0, 60) ?? ""}`, method, path, text, ...rest] as const;
  }),
)("%s", async (_name, method, path, body, status, paths) => {
  const relay = await startRelay();
  const answer = await problem(relay.send(method, path, body));
  expect([answer.status, answer.errors?.map((error) => error.path) ?? []]).toEqual([status, paths]);
  expect(await relay.register({ user_id: 1 })).toMatchObject({ user_id: 1 });
});

test("405 names what is allowed", async () => {
  const relay = await startRelay();
  expect((await relay.send("GET", "/publish")).headers.get("allow")).toBe("POST");
  expect((await relay.send("PUT", "/register/x")).headers.get("allow")).toBe("DELETE, GET, HEAD, PATCH");
});

test.each(["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data; boundary=x"])(
  "the content type %j is answered with 415, and what to send",
  async (type) => {
    const relay = await startRelay();
    for (const path of ["/register", "/publish"]) {
      const answer = await problem(
        relay.fetch(path, { method: "POST", headers: { "content-type": type }, body: "{}" }),
      );
      expect([answer.status, answer.code]).toEqual([415, "unsupported_media_type"]);
      expect(answer.detail).toContain("application/json");
    }
  },
);

test.each(["user@localhost", "localhost/x", "localhost?x", "a b"])("the host %j is refused", async (host) => {
  const relay = await startRelay();
  const body = '{"user_id":1}';
  const head = `POST /register HTTP/1.1\r\nHost: ${host}\r\nContent-Type: application/json`;
  expect(await bare(relay, `${head}\r\nContent-Length: ${body.length}\r\n\r\n${body}`)).toMatch(/^HTTP\/1\.1 400 /);
});

test("a body that is compressed is refused, and one that is empty does not matter to DELETE", async () => {
  const relay = await startRelay();
  for (const path of ["/register", "/publish"]) {
    const headers = { "content-encoding": "gzip" };
    expect((await problem(relay.send("POST", path, { user_id: 1 }, headers))).status).toBe(415);
  }
  const answer = await relay.send("DELETE", "/users/1", undefined, { "content-type": "application/json" });
  expect(await answer.json()).toEqual({ removed: 0 });
});

test("invalid UTF-8 is refused", async () => {
  const relay = await startRelay();
  const body = Buffer.from('{"topic":"a","message":"\xff"}', "latin1");
  for (const type of ["application/json", "application/x-ndjson"]) {
    const answer = await problem(relay.fetch("/publish", { method: "POST", headers: { "content-type": type }, body }));
    expect([answer.status, answer.detail]).toEqual([400, expect.stringContaining("UTF-8")]);
  }
});

test.each([
  ["", "GET /ws HTTP/1.1", 400, "Sec-WebSocket-Key"],
  ["Sec-WebSocket-Key: short", "GET /ws HTTP/1.1", 400, "Sec-WebSocket-Key"],
  ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 8", "GET /ws HTTP/1.1", 426, "13"],
  ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: a, a", "GET /ws HTTP/1.1", 400, "different"],
  ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: ,;", "GET /ws HTTP/1.1", 400, "different"],
  ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "GET /health HTTP/1.1", 400, "not a WebSocket"],
  ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "POST /publish HTTP/1.1", 400, "not a WebSocket"],
  ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "GET /nowhere HTTP/1.1", 404, "nothing at this path"],
  ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: https://evil.example", "GET /ws HTTP/1.1", 403, "origin"],
  [
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: http://localhost.evil.example",
    "GET /ws HTTP/1.1",
    403,
    "origin",
  ],
])("an upgrade with %j of %s is answered with %i", async (headers, line, status, says) => {
  const relay = await startRelay();
  const version = headers.includes("Version") ? "" : "Sec-WebSocket-Version: 13\r\n";
  const head =
    `${line}\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${version}${headers}`.trimEnd();
  const answer = await bare(relay, `${head}\r\n\r\n`);
  expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  expect(answer).toContain("application/problem+json");
  expect(answer).toContain(says);
});

test("a request that offers another protocol is answered as if it did not", async () => {
  const relay = await startRelay();
  const body = '{"topic":"cats","message":1}';
  const answer = await bare(
    relay,
    `POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  expect(answer).toMatch(/^HTTP\/1\.1 200 /);
  expect(answer).toContain('"matched":0');
});

test("what is not HTTP is answered with 400, and half-open and idle sockets harm nobody", async () => {
  const relay = await startRelay();
  expect(await bare(relay, "\x16\x03\x01 nonsense\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 [^]*problem\+json/);
  const { hostname, port } = new URL(relay.http);
  const halfOpen = net.connect({ port: Number(port), host: hostname, allowHalfOpen: true });
  halfOpen.write(
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
      "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
  );
  await once(halfOpen, "data");
  halfOpen.end();
  const gone = net.connect(Number(port), hostname);
  gone.write(
    "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
  );
  await once(gone, "connect");
  gone.resetAndDestroy();
  const client = await relay.connect("/ws?format=raw");
  client.say("fine");
  expect(await client.next()).toBe("fine");
  halfOpen.destroy();
});
