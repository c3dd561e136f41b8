import { once } from "node:events";
import { writeFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import net from "node:net";
import tls from "node:tls";
import { describe, expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { Bare, upgrade } from "../support/bare.js";
import { selfSigned } from "../support/certificate.js";
import { temporaryDirectory } from "../support/directory.js";
import { builtRelay, RelayProcess } from "../support/process.js";
import { limited, startRelay } from "../support/relay.js";

const STRANGER = "127.0.0.1";
const OTHER = "127.0.0.2";

/** Only such a relay tells addresses apart. */
const OPEN = ["--insecure-open"];

/** The built relay with so many open files. */
function withFiles(count: number, args: string[] = [], env: Record<string, string> = {}): RelayProcess {
  const command = ["bash", "-c", `ulimit -n ${count}; exec "$@"`, "bash", ...builtRelay];
  return new RelayProcess(["--listen", "127.0.0.1:0", "--engine", "memory", ...args], env, command);
}

/** Connections from an address of this machine, each after it has said something and was answered. */
class Flood {
  readonly sockets: net.Socket[] = [];

  private constructor(
    private readonly url: string,
    private readonly from: string,
    private readonly says: string,
  ) {}

  /** @param says what is said on each, and waits for its answer; empty: nothing */
  static async of(url: string, count: number, says = "", from = STRANGER): Promise<Flood> {
    const flood = new Flood(url, from, says);
    onTestFinished(() => flood.sockets.forEach((socket) => socket.destroy()));
    for (let made = 0; made < count; made++) await flood.more();
    return flood;
  }

  async more(): Promise<void> {
    const { hostname, port } = new URL(this.url);
    const socket = net.connect({ host: hostname, port: Number(port), localAddress: this.from });
    this.sockets.push(socket);
    socket.on("error", () => socket.destroy());
    if (this.says !== "") socket.write(this.says);
    await new Promise<void>((resolve) => {
      socket.once("close", resolve);
      socket.once(this.says === "" ? "connect" : "data", () => resolve());
      socket.resume();
    });
  }

  get open(): number {
    return this.sockets.filter((socket) => !socket.destroyed && socket.readyState === "open").length;
  }
}

const HEALTH = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

async function health(url: string, from: string, agent?: http.Agent): Promise<number> {
  const options = { localAddress: from, agent: agent ?? false, rejectUnauthorized: false };
  const request = (url.startsWith("https") ? https : http).get(`${url}/health`, options);
  const [response] = (await once(request, "response")) as [http.IncomingMessage];
  response.resume();
  await once(response, "end");
  return response.statusCode ?? 0;
}

describe("when the limit on open files is near, connections without a request make room for new ones", () => {
  test.each([
    ["that say nothing", ""],
    ["that have sent half a request", "GET /hea"],
    ["that wait for their next request", HEALTH],
    ["that offer another protocol", HEALTH.replace("\r\n\r\n", "\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")],
  ])("%s", async (_name, says) => {
    const relay = withFiles(256, OPEN);
    const url = await relay.address();
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    onTestFinished(() => agent.destroy());
    expect(await health(url, OTHER, agent)).toBe(200);
    const [kept] = Object.values(agent.freeSockets).flat();
    const socket = new WebSocket(`${url.replace("http", "ws")}/echo`, { localAddress: STRANGER });
    onTestFinished(() => socket.terminate());
    await once(socket, "open");
    // What is only half is not answered, so the flood does not wait for it.
    const flood = await Flood.of(url, 0, says.endsWith("\r\n\r\n") ? says : "");
    for (let count = 0; count < 500; count++) {
      await flood.more();
      if (!says.endsWith("\r\n\r\n")) flood.sockets.at(-1)?.write(says);
      if (count % 50 === 0) for (const from of [STRANGER, OTHER]) expect(await health(url, from)).toBe(200);
    }
    await expect.poll(() => flood.open).toBeLessThanOrEqual(156);
    expect(flood.open).toBeGreaterThan(100);
    // Those of the one who has most of them are closed, and not what others have or what is used.
    expect(Object.values(agent.freeSockets).flat()).toEqual([kept]);
    socket.send("still here");
    expect(String((await once(socket, "message"))[0])).toBe("still here");
    const metrics = await (await fetch(`${url}/metrics`)).text();
    expect(Number(/relay_limited_total\{limit="open_files"\} (\d+)/.exec(metrics)?.[1])).toBeGreaterThan(300);
    expect(relay.stderr.match(/limit on open files is near/g)).toHaveLength(1);
  });

  test("that begin a TLS handshake", async () => {
    const [cert, key] = ["cert", "key"].map((name) => `${temporaryDirectory()}/${name}.pem`) as [string, string];
    const pair = selfSigned("localhost");
    writeFileSync(cert, pair.cert);
    writeFileSync(key, pair.key);
    const relay = withFiles(256, [...OPEN, "--tls-cert", cert, "--tls-key", key]);
    const url = await relay.address();
    const flood = await Flood.of(url, 0);
    for (let count = 0; count < 500; count++) {
      await flood.more();
      if (count % 2) flood.sockets.at(-1)?.write(Buffer.from("16030100f8010000f40303", "hex"));
      if (count % 50 === 0) for (const from of [STRANGER, OTHER]) expect(await health(url, from)).toBe(200);
    }
    await expect.poll(() => flood.open).toBeLessThanOrEqual(156);
  });

  test("that were refused by a close code, and do not close", async () => {
    const relay = withFiles(256, [], { RELAY_API_KEYS: "a:a-secret-that-nobody-guesses" });
    const url = await relay.address();
    const refused = upgrade(`/ws/${"0".repeat(32)}`, "Sec-WebSocket-Protocol: relay.v1.json");
    const flood = await Flood.of(url, 156);
    for (const socket of flood.sockets) socket.write(`${refused}\r\n\r\n`);
    await expect.poll(() => flood.sockets.every((socket) => socket.bytesRead > 0)).toBe(true);
    expect(await health(url, OTHER).catch((error: Error) => error.message)).toBe(200);
  });

  test("when all of them are used, new ones are refused until one ends", async () => {
    const relay = withFiles(256, OPEN);
    const url = await relay.address();
    const flood = await Flood.of(url, 200, `${upgrade("/echo")}\r\n\r\n`);
    await expect.poll(() => flood.open).toBe(156);
    await expect(health(url, OTHER)).rejects.toThrow(/ECONNRESET|socket hang up/);
    flood.sockets.find((socket) => !socket.destroyed)?.destroy();
    await expect.poll(async () => health(url, OTHER).catch(() => 0)).toBe(200);
  });
});

test("too low a limit on open files is said at the start, with numbers, where others can reach the relay", async () => {
  const env = { RELAY_API_KEYS: "a:a-secret-that-nobody-guesses" };
  const said = async (relay: RelayProcess): Promise<string> => {
    const url = await relay.address();
    expect(await health(url, STRANGER)).toBe(200);
    return relay.stderr;
  };
  const warned = await said(withFiles(256, [], env));
  expect(warned).toContain("may have 256");
  expect(warned).toContain("holds 156 connections");
  expect(warned).toContain("raise the limit to 20100");
  expect(await said(withFiles(256, ["--max-connections", "156"], env))).not.toContain("open files");
  expect(await said(withFiles(256))).not.toContain("open files");
});

describe("connections_per_address counts connections of any kind", () => {
  test("connections that are idle make room for new ones, and these are answered", async () => {
    const relay = await startRelay({ insecureOpen: true, maxConnections: 50 });
    const idle = await Flood.of(relay.http, 50, HEALTH, "127.0.0.1");
    await expect.poll(() => idle.open).toBe(50);
    const answers = Array.from({ length: 20 }, async () => {
      const bare = await Bare.open(relay.http);
      bare.write("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
      return (await bare.closed).slice(9, 12);
    });
    expect(new Set(await Promise.all(answers))).toEqual(new Set(["200"]));
    expect(idle.open).toBeGreaterThanOrEqual(30);
  });

  test("those without a request make room for others of the same address, and of no other", async () => {
    const relay = await startRelay({ insecureOpen: true, maxConnections: 20 });
    const others = await Flood.of(relay.http, 10, "", OTHER);
    const silent = await Flood.of(relay.http, 50);
    await expect.poll(() => silent.open).toBe(20);
    // New ones get a second for their first request.
    await new Promise((resolve) => setTimeout(resolve, 1100));
    const idle = await Flood.of(relay.http, 50, HEALTH);
    await expect.poll(() => [silent.open, idle.open]).toEqual([0, 20]);
    expect(others.open).toBe(10);
    expect(await limited(relay, "connections_per_address")).toBeGreaterThanOrEqual(80);
  });

  test("where all are used, WebSockets are answered 429, and at last nothing is accepted", async () => {
    const relay = await startRelay({ insecureOpen: true, maxConnections: 20 });
    const used = await Flood.of(relay.http, 20, `${upgrade("/echo")}\r\n\r\n`);
    expect(await health(relay.http, STRANGER)).toBe(200);
    const refused = await Flood.of(relay.http, 1);
    refused.sockets[0]?.write(`${upgrade("/echo")}\r\n\r\n`);
    expect(String((await once(refused.sockets[0] as net.Socket, "data"))[0])).toMatch(/^HTTP\/1\.1 429 /);
    expect([used.open, await health(relay.http, OTHER)]).toEqual([20, 200]);
  });

  test("behind a trusted proxy only WebSockets and streams are counted, as all connections are the proxy's", async () => {
    const relay = await startRelay({ insecureOpen: true, maxConnections: 20, trustProxy: true });
    const flood = await Flood.of(relay.http, 100, HEALTH);
    expect([flood.open, await health(relay.http, STRANGER)]).toEqual([100, 200]);
  });
});

test("who asks and does not take the answers is given up, and does not use its connection for ever", async () => {
  const relay = await startRelay({ requestTimeout: "1s" });
  const { id } = await relay.register({ user_id: 1 });
  const stream = await Flood.of(relay.http, 1, `GET /stream/${id} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  const accepted = once(relay.app.server, "connection") as Promise<[net.Socket]>;
  const [deaf] = (await Flood.of(relay.http, 1)).sockets as [net.Socket];
  deaf.pause();
  // Whole requests, which the relay reads at once: so no request is late.
  deaf.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1500));
  const [socket] = await accepted;
  await once(socket, "close");
  expect(stream.open).toBe(1);
});

test("a connection without a whole request head is closed after ten seconds, whatever the request timeout is", async () => {
  const [tlsCert, tlsKey] = ["cert", "key"].map((name) => `${temporaryDirectory()}/${name}.pem`) as [string, string];
  const pair = selfSigned("localhost");
  writeFileSync(tlsCert, pair.cert);
  writeFileSync(tlsKey, pair.key);
  const plain = await startRelay({ requestTimeout: "1h" });
  const secure = await startRelay({ requestTimeout: "1h", tlsCert, tlsKey });
  const began = performance.now();
  const port = Number(new URL(secure.http).port);
  const sockets = [
    ...(await Flood.of(plain.http, 2)).sockets,
    ...(await Flood.of(secure.http, 2)).sockets,
    tls.connect({ host: "127.0.0.1", port, rejectUnauthorized: false }),
  ];
  sockets[1]?.write("GET /health HTTP/1.1\r\nHost: local");
  sockets[3]?.write(Buffer.from("16030100f8010000f40303", "hex"));
  let answer = "";
  sockets[1]?.on("data", (chunk: Buffer) => (answer += chunk.toString()));
  for (const socket of sockets) socket.resume().on("error", () => socket.destroy());
  const idle = await Flood.of(plain.http, 1, HEALTH);
  await Promise.all(sockets.map(async (socket) => socket.destroyed || once(socket, "close")));
  const seconds = (performance.now() - began) / 1000;
  expect(seconds).toBeGreaterThan(9.5);
  expect(seconds).toBeLessThan(13);
  expect(answer).toMatch(/^HTTP\/1\.1 408 /);
  expect(idle.open).toBe(1);
});

test.each(["websocket", "h2c"])("an upgrade to %s that waits for earlier answers may be reset", async (protocol) => {
  const relay = new RelayProcess(["--listen", "127.0.0.1:0", "--engine", "memory"]);
  const url = await relay.address();
  const headers = { "content-type": "application/json" };
  const registered = await fetch(`${url}/register`, { method: "POST", headers, body: '{"user_id":1,"topics":["t"]}' });
  const reader = await Bare.webSocket(url, `/ws/${((await registered.json()) as { id: string }).id}`);
  const body = JSON.stringify({ topic: "t", message: "hello" });
  const request = "POST /publish?wait=5 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
  const bare = await Bare.open(url);
  const next = upgrade("/echo").replace("websocket", protocol);
  bare.write(`${request}\r\nContent-Length: ${body.length}\r\n\r\n${body}${next}\r\n\r\n`);
  // The publisher waits, as the reader sends no pongs.
  await reader.until("hello");
  bare.socket.resetAndDestroy();
  expect(await health(url, STRANGER).catch((error: Error) => error.message)).toBe(200);
  reader.socket.destroy();
  relay.child.kill("SIGTERM");
  expect((await relay.ended).stderr).not.toContain("after an error");
});

test("a request that comes while the relay ends is told so, as a problem", async () => {
  const relay = await startRelay();
  const { id } = await relay.register({ user_id: 1 });
  const caller = await Bare.open(relay.http);
  caller.write("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await caller.until('"ok"');
  caller.write(`GET /register/${id} HTTP/1.1\r\nHost: localhost\r\n`);
  // Does not answer the close frame: so the end takes a while.
  const reader = await Bare.webSocket(relay.http, `/ws/${id}`);
  const closing = relay.close();
  await reader.until("restarting");
  caller.write("\r\n");
  const answer = (await caller.closed).slice(caller.text.indexOf('"ok"'));
  expect(answer).toContain("HTTP/1.1 503 ");
  expect(answer).toMatch(/content-type: application\/problem\+json/i);
  expect(answer).toMatch(/retry-after: 1/i);
  expect(answer).toContain("the relay is ending");
  reader.socket.destroy();
  await closing;
});
