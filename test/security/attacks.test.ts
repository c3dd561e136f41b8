import { maxHeaderSize } from "node:http";
import { deflateRawSync, gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { Bare, upgrade } from "../support/bare.js";
import { startRelay, type TestRelay } from "../support/relay.js";
import { openStream } from "../support/stream.js";

/** A masked frame as clients send them (RFC 6455 section 5.2), with a mask of zeros. */
function frame(first: number, payload: Uint8Array): Buffer {
  const { length } = payload;
  const size = length < 126 ? [0x80 | length] : [0x80 | 126, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([first, ...size, 0, 0, 0, 0]), payload]);
}

async function connected(relay: TestRelay, ...headers: string[]): Promise<Bare> {
  const { url } = await relay.register({ user_id: 1 });
  return Bare.webSocket(relay.http, new URL(url).pathname, ...headers);
}

/** The close code at the end of what came. */
async function closeCode(bare: Bare): Promise<number> {
  const bytes = Buffer.from(await bare.closed, "latin1");
  const at = bytes.lastIndexOf(0x88);
  return bytes.readUInt16BE(at + 2);
}

async function expectAlive(relay: TestRelay): Promise<void> {
  expect((await relay.fetch("/health")).status).toBe(200);
}

describe("frames", () => {
  const [TEXT, MORE, END, PING] = [0x01, 0x00, 0x80, 0x89];

  test("a bomb of fragments: too many for one message close with 1008", async () => {
    const relay = await startRelay();
    const bare = await connected(relay);
    bare.write(frame(TEXT, Buffer.from("x")));
    for (let count = 0; count < 1000; count++) bare.write(frame(MORE, Buffer.alloc(0)));
    expect(await closeCode(bare)).toBe(1008);
    await expectAlive(relay);
  });

  test("fragments that are together too large close with 1009", async () => {
    const relay = await startRelay({ maxMessage: "1KiB" });
    const bare = await connected(relay);
    bare.write(frame(TEXT, Buffer.alloc(60_000, "x")));
    for (let count = 0; count < 6; count++) bare.write(frame(MORE, Buffer.alloc(60_000, "x")));
    expect(await closeCode(bare)).toBe(1009);
  });

  test("a bomb of compression: none is agreed to, and compressed frames close with 1002", async () => {
    const relay = await startRelay();
    const bare = await connected(relay, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits");
    expect(bare.text.toLowerCase()).not.toContain("extensions");
    bare.write(frame(0xc1, deflateRawSync(Buffer.alloc(2 ** 20))));
    expect(await closeCode(bare)).toBe(1002);
    for (const encoding of ["gzip", "deflate", "br", "identity, gzip"]) {
      const body = gzipSync(Buffer.alloc(2 ** 20));
      const headers = { "content-type": "application/json", "content-encoding": encoding };
      expect((await relay.fetch("/publish", { method: "POST", headers, body })).status).toBe(415);
    }
  });

  test("slowly, byte for byte: whoever does not answer the ping for it is closed", async () => {
    const relay = await startRelay({ pingInterval: "1s" });
    const bare = await connected(relay);
    const bytes = frame(TEXT | END, Buffer.alloc(100, "x"));
    let at = 0;
    const trickle = setInterval(() => bare.socket.writable && bare.write(bytes.subarray(at, ++at)), 50);
    expect(await closeCode(bare)).toBe(4408);
    clearInterval(trickle);
  });

  test("a flood of pings is answered to those who read, and costs no memory for those who do not", async () => {
    const relay = await startRelay();
    const bare = await connected(relay);
    bare.socket.pause();
    const pings = Buffer.concat(Array.from({ length: 1000 }, () => frame(PING, Buffer.alloc(125, "x"))));
    const before = process.memoryUsage().external;
    for (let round = 0; round < 200 && bare.socket.writableLength < 2 ** 20; round++) {
      bare.write(pings);
      await new Promise(setImmediate);
    }
    expect(process.memoryUsage().external - before).toBeLessThan(100 * 2 ** 20);
    await expectAlive(relay);
  });

  test.each([
    ["without a mask", Buffer.from([0x81, 0x01, 0x78])],
    ["with reserved bits", frame(0xf1, Buffer.from("x"))],
    ["of an unknown kind", frame(0x83, Buffer.from("x"))],
    ["with a long control frame", frame(0x89, Buffer.alloc(126))],
    ["that goes on with nothing", frame(0x80, Buffer.from("x"))],
    ["of 2^63 bytes", Buffer.from([0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])],
  ])("%s close, and nobody else notices", async (_, bytes) => {
    const relay = await startRelay();
    const bare = await connected(relay);
    bare.write(bytes);
    expect([1002, 1009]).toContain(await closeCode(bare));
    await expectAlive(relay);
  });
});

describe("slow requests are ended, and do not keep others waiting", () => {
  test.each([
    ["a header that does not end", "POST /register HTTP/1.1\r\nHost: localhost\r\nX-A: b"],
    [
      "a body that does not end",
      "POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    ],
    ["an upgrade that does not end", upgrade("/ws")],
  ])("%s", async (_, start) => {
    const relay = await startRelay({ requestTimeout: "1s" });
    const bare = await Bare.open(relay.http);
    bare.write(start);
    const trickle = setInterval(() => bare.socket.writable && bare.write("x"), 100);
    await expectAlive(relay);
    expect(await bare.closed).toMatch(/^HTTP\/1.1 408 /);
    clearInterval(trickle);
  });

  test.each([
    ["a header", `GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${"x".repeat(maxHeaderSize)}\r\n\r\n`],
    ["headers", `GET /health HTTP/1.1\r\nHost: localhost\r\n${"X: y\r\n".repeat(maxHeaderSize / 2)}\r\n`],
    ["a URL", `GET /health?${"x".repeat(maxHeaderSize)} HTTP/1.1\r\nHost: localhost\r\n\r\n`],
    ["a WebSocket's URL", `${upgrade(`/ws?token=${"x".repeat(maxHeaderSize)}`)}\r\n\r\n`],
  ])("%s beyond the limit: 431 says the limit", async (_, request) => {
    const relay = await startRelay();
    const bare = await Bare.open(relay.http);
    bare.write(request);
    const answer = await bare.closed;
    expect(answer).toMatch(/^HTTP\/1.1 431 /);
    expect(answer).toMatch(new RegExp(`"detail":"the URL and the headers are too large[^"]* ${maxHeaderSize} bytes"`));
  });

  test("a URL within the limit is answered, however long", async () => {
    const relay = await startRelay();
    expect((await relay.fetch(`/health?${"x".repeat(maxHeaderSize - 1000)}`)).status).toBe(200);
    expect((await relay.fetch(`/ws/${"x".repeat(maxHeaderSize - 1000)}`)).status).toBe(414);
  });
});

describe("upgrades that become nothing end their connections", () => {
  const path = (target: string): string => `${upgrade("/ws").replace("/ws", target)}\r\n\r\n`;

  test.each([
    ["to a path that is none", path("/%%")],
    ["to a path that is too long", path(`/ws/${"a".repeat(2000)}`)],
    ["to nothing", path("/nothing")],
    [
      "behind a request whose answer is not there yet",
      `GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n${path("/nothing")}`,
    ],
  ])("%s", async (_, request) => {
    const relay = await startRelay();
    const bare = await Bare.open(relay.http);
    bare.write(request);
    expect(await bare.closed).not.toContain("101");
  });

  test("those that come behind a request wait for its answer", async () => {
    const relay = await startRelay();
    const first = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const socket = await Bare.open(relay.http);
    socket.write(first + path("/ws"));
    expect(await socket.until("101")).toMatch(/^HTTP\/1.1 200 .*HTTP\/1.1 101 /s);
    const offered = await Bare.open(relay.http);
    const h2c = first.replace("\r\n\r\n", "\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    offered.write(first + h2c);
    await expect.poll(() => offered.text.split('"status":"ok"').length - 1).toBe(2);
    offered.write(first.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    expect((await offered.closed).match(/HTTP\/1.1 200 /g)).toHaveLength(3);
  });

  test("also when the relay ends meanwhile", async () => {
    const relay = await startRelay();
    const used = await Bare.open(relay.http);
    used.write("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    await used.until("ok");
    used.write(path("/%%"));
    await Promise.all([used.closed, relay.close()]);
  });
});

describe("request smuggling", () => {
  test.each([
    ["two lengths", "Content-Length: 1\r\nContent-Length: 30"],
    ["a length and chunks", "Content-Length: 30\r\nTransfer-Encoding: chunked"],
    ["odd chunks", "Transfer-Encoding: xchunked"],
    ["chunks twice", "Transfer-Encoding: chunked, identity"],
    ["a folded header", "Transfer-Encoding:\r\n chunked"],
    ["a space before the colon", "Transfer-Encoding : chunked"],
    ["a length that is none", "Content-Length: +30"],
  ])("%s: refused, and nothing after it is answered", async (_, headers) => {
    const relay = await startRelay();
    const bare = await Bare.open(relay.http);
    const head = `POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${headers}\r\n\r\n`;
    bare.write(`${head}GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    const answer = await bare.closed;
    expect(answer).toMatch(/^HTTP\/1.1 400 /);
    expect(answer).not.toContain('"status":"ok"');
  });
});

describe("__proto__, constructor and the like are names as others are", () => {
  const names = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty"];

  test.each(names)("%s as user, topic, key, room and pattern", async (name) => {
    const relay = await startRelay();
    const client = await relay.connect((await relay.register({ user_id: name, topics: [name] })).url);
    const other = await relay.connect((await relay.register({ user_id: "other", topics: [`${name}.x`] })).url);
    const receipt = await relay.publish({ user_id: name, topic: name, message: "hi", key: name });
    expect(receipt).toMatchObject({ matched: 1, sent: 1 });
    expect(await client.next()).toBe("hi");
    client.say({ type: "join", room: name });
    client.say({ type: "chat", content: "room" });
    expect(await client.next()).toBe("room");
    expect(await client.request("subscribe", { topics: [`${name}.>`] })).toEqual({ topics: [name, `${name}.>`] });
    expect(await other.settled()).toEqual([]);
    const headers = { "idempotency-key": name };
    const first = await relay.publish({ topic: "t", message: 1 }, "", headers);
    expect(await relay.publish({ topic: "t", message: 1 }, "", headers)).toEqual({ ...first, duplicate: true });
    expect(await (await relay.send("DELETE", `/users/${name}`)).json()).toEqual({ removed: 1 });
  });

  test("as fields and parameters they are unknown, and change no object", async () => {
    const relay = await startRelay();
    for (const body of [
      '{"user_id":1,"__proto__":{"ttl":1,"polluted":1}}',
      '{"user_id":1,"constructor":{"prototype":{"polluted":1}}}',
    ]) {
      expect((await relay.send("POST", "/register", body)).status).toBe(400);
    }
    for (const name of names) {
      expect((await relay.fetch(`/stream/${"0".repeat(32)}?format=${name}&${name}=1&${name}[polluted]=1`)).status).toBe(
        400,
      );
      const client = await relay.connect("/echo", []);
      await client.close();
      const frames = await relay.connect(`/ws?format=json`, [name]).catch(() => undefined);
      if (!frames) continue;
      expect(await frames.request(name, { [name]: { polluted: 1 } })).toMatchObject({ code: "bad_request" });
    }
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  });

  test("a message with them comes as it was sent", async () => {
    const relay = await startRelay();
    const client = await relay.connect((await relay.register({ user_id: 1 })).url);
    const message = '{"__proto__":{"a":1},"constructor":2}';
    await relay.send("POST", "/publish", `{"topic":"cats","message":${message}}`);
    expect(await client.next()).toBe(message);
  });
});

describe("CR and LF", () => {
  const nasty = "a\r\nid: 9-9\r\ndata: forged\n\nevent: x\rretry: 1\u2028\u0085end";

  test("in a message start no field of a stream's own", async () => {
    const relay = await startRelay();
    const { stream_url } = await relay.register({ user_id: 1 });
    const stream = await openStream(stream_url);
    expect(await stream.next()).toBe("retry: 2000");
    const { id } = await relay.publish({ topic: "cats", message: nasty });
    const event = await stream.next();
    const lines = event.split(/\r\n|\r|\n/);
    expect(lines[0]).toBe(`id: ${id}`);
    for (const line of lines.slice(1)) expect(line).toMatch(/^data: /);
    expect(
      lines
        .slice(1)
        .map((line) => line.slice(6))
        .join("\n"),
    ).toBe(nasty.replaceAll(/\r\n|\r/g, "\n"));
    await relay.publish({ topic: "cats", message: "next" });
    expect(await stream.next()).toMatch(/^id: \d+-\d+\ndata: next$/);
  });

  test("in topics, users and rooms are refused or harmless; in paths and parameters they make no header", async () => {
    const relay = await startRelay();
    expect((await relay.send("POST", "/register", { user_id: 1, topics: ["a\r\nb"] })).status).toBe(400);
    expect((await relay.send("POST", "/publish", { topic: "a\nb", message: 1 })).status).toBe(400);
    const made = await relay.send("POST", "/register", { user_id: "x\r\nSet-Cookie: a=b" });
    expect(made.headers.get("set-cookie")).toBeNull();
    for (const path of [
      "/users/%0d%0aSet-Cookie:a=b",
      "/register/%0d%0aX:y",
      "/ws?format=%0d%0aX:y",
      "/%0d%0aX:y",
      "/stream/%0d%0aX:y?since=%0d%0a",
    ]) {
      const bare = await Bare.open(relay.http);
      bare.write(`DELETE ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
      const [head] = (await bare.closed).split("\r\n\r\n");
      expect(head).not.toMatch(/^(?:x|set-cookie):/im);
    }
  });
});

test.each([
  "9".repeat(400),
  `${"9".repeat(15)}-${"9".repeat(15)}`,
  `${Number.MAX_SAFE_INTEGER}-${Number.MAX_SAFE_INTEGER}`,
  "99999999999999999999-1",
  "1-99999999999999999999",
  "999999999999999d",
  "-1",
  "1e9",
  "0x10-0",
  "NaN",
])("since=%s is answered, one way or the other, and at once", async (since) => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: 1 });
  const status = await relay.connect(`${url}?since=${since}`).then(
    async (client) => {
      expect(await client.settled()).toEqual([]);
      await relay.publish({ topic: "cats", message: "live" });
      expect(await client.next()).toBe("live");
      return 101;
    },
    (error: { status: number }) => error.status,
  );
  expect([101, 400]).toContain(status);
});

test.each([
  "/../../etc/passwd",
  "/..%2f..%2fetc%2fpasswd",
  "/%2e%2e/%2e%2e/package.json",
  "/....//....//etc/passwd",
  "/..\\..\\package.json",
  "//etc/passwd",
  "/./package.json",
  "/index.html%00.js",
  "/dist/cli.js",
  "/relay-data/data.mdb",
])("path traversal: there is nothing at %s", async (path) => {
  const relay = await startRelay();
  const bare = await Bare.open(relay.http);
  bare.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
  expect(await bare.closed).toMatch(/^HTTP\/1.1 40[04] /);
});

test("a chat in many rooms costs as many frames as it has events", async () => {
  const relay = await startRelay({ frameRate: 100 });
  const client = await relay.connect((await relay.register({ user_id: 1, topics: [] })).url);
  for (let room = 0; room < 60; room++) client.say({ type: "join", room: `r${room}` });
  for (let chat = 0; chat < 4; chat++) client.say({ type: "chat", content: "hi" });
  const frames = [await client.next()];
  while (!frames.at(-1)?.startsWith("{")) frames.push(await client.next());
  expect(JSON.parse(frames.pop() ?? "")).toMatchObject({ error: { code: "too_many" } });
  // Of 200 frames at once, the connection took 50 and the joins 60; more may have come meanwhile.
  expect([60, 120]).toContain(frames.length);
});

test("a flood of topics: what they cost is given back when their clients go", async () => {
  const relay = await startRelay();
  const topics = Array.from({ length: 1000 }, (_, index) => `flood.${index}.*`);
  for (let user = 0; user < 20; user++) await relay.register({ user_id: user, topics });
  const client = await relay.connect((await relay.register({ user_id: "honest", topics: ["flood.1.x"] })).url);
  expect(await relay.publish({ topic: "flood.1.x", message: "hi" })).toMatchObject({ matched: 21 });
  expect(await client.next()).toBe("hi");
  for (let user = 0; user < 20; user++) await relay.send("DELETE", `/users/${user}`);
  expect(await relay.publish({ topic: "flood.1.x", message: "hi" })).toMatchObject({ matched: 1 });
});

describe("the page", () => {
  test("says what may run in it, and by whom it may be framed", async () => {
    const relay = await startRelay();
    const { headers, status } = await relay.fetch("/");
    expect(status).toBe(200);
    const policy = headers.get("content-security-policy") ?? "";
    for (const directive of ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"]) {
      expect(policy).toContain(directive);
    }
    expect(policy).not.toContain("unsafe");
    expect(policy).toMatch(/script-src 'sha256-[^']+';/);
    expect(headers.get("x-content-type-options")).toBe("nosniff");
    expect(headers.get("x-frame-options")).toBe("SAMEORIGIN");
    expect(headers.get("referrer-policy")).toBe("no-referrer");
    expect(headers.get("cross-origin-opener-policy")).toBe("same-origin");
  });

  test("asks for a key where one is needed, to browsers as a page and to others as an error", async () => {
    const relay = await startRelay({ apiKeys: "a:a-secret-that-nobody-guesses" });
    const page = await relay.fetch("/", { headers: { accept: "text/html,*/*" } });
    expect([page.status, page.headers.get("content-type"), await page.text()]).toEqual([
      401,
      "text/html; charset=utf-8",
      expect.stringContaining('id="key"'),
    ]);
    expect(page.headers.get("content-security-policy")).toContain("default-src 'none'");
    const other = await relay.fetch("/");
    expect([other.status, other.headers.get("content-type")]).toEqual([401, expect.stringContaining("problem+json")]);
  });
});

test("an upgrade that never reads its answer, and one that goes away in between, leave nothing behind", async () => {
  const relay = await startRelay();
  for (let count = 0; count < 50; count++) {
    const bare = await Bare.open(relay.http);
    bare.write(`${upgrade("/ws")}\r\n\r\n`);
    if (count % 2) await bare.until("101");
    bare.socket.resetAndDestroy();
  }
  await expect
    .poll(async () => (await (await relay.fetch("/metrics")).text()).match(/^relay_connections (\d+)/m)?.[1])
    .toBe("0");
});
