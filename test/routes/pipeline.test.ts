import { once } from "node:events";
import { writeFileSync } from "node:fs";
import tls from "node:tls";
import { expect, onTestFinished, test } from "vitest";
import { Bare, upgrade } from "../support/bare.js";
import { selfSigned } from "../support/certificate.js";
import { temporaryDirectory } from "../support/directory.js";
import { startRelay } from "../support/relay.js";

function publish(number: number): string {
  const body = JSON.stringify({ topic: "t", message: number });
  const head = "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
  return `${head}\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

function publishing(count: number): string {
  return Array.from({ length: count }, (_, number) => publish(number)).join("");
}

function statusesIn(text: string): string[] {
  return [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status as string);
}

test("who has sent all requests and closes its half gets all answers", async () => {
  const relay = await startRelay();
  const bare = await Bare.open(relay.http);
  bare.socket.end(publishing(100));
  expect(statusesIn(await bare.closed)).toEqual(Array.from({ length: 100 }, () => "200"));
});

test("and so it is with TLS", async () => {
  const [tlsCert, tlsKey] = ["cert", "key"].map((name) => `${temporaryDirectory()}/${name}.pem`) as [string, string];
  const pair = selfSigned("localhost");
  writeFileSync(tlsCert, pair.cert);
  writeFileSync(tlsKey, pair.key);
  const relay = await startRelay({ tlsCert, tlsKey });
  const socket = tls.connect({
    port: Number(new URL(relay.http).port),
    rejectUnauthorized: false,
  });
  onTestFinished(() => void socket.destroy());
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString()));
  socket.end(publishing(20));
  await once(socket, "end");
  expect(statusesIn(text)).toEqual(Array.from({ length: 20 }, () => "200"));
});

test("the requests that wait on a connection are bounded also after an upgrade that was not to be had", async () => {
  const relay = await startRelay();
  const bare = await Bare.open(relay.http);
  const get = "GET /health HTTP/1.1\r\nHost: localhost\r\n";
  bare.write(`${get}\r\n${get}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n`);
  await expect.poll(() => statusesIn(bare.text).length).toBe(2);
  const body = JSON.stringify({ topic: "t", message: 1 });
  const { url } = await relay.register({ user_id: 1, topics: ["t"] });
  await Bare.webSocket(relay.http, new URL(url).pathname);
  const head = "POST /publish?wait=3 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
  bare.write(`${head}\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  const flood = `${get}\r\n`.repeat(1000);
  for (let count = 0; count < 300; count++) bare.write(flood);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  // What the system buffers on the way is some megabytes.
  expect(bare.socket.writableLength).toBeGreaterThan(300 * flood.length * 0.1);
});

test("what is no request is answered after the requests before it", async () => {
  const relay = await startRelay();
  const bare = await Bare.open(relay.http);
  bare.write(`${publishing(3)}this is no request\r\n\r\n`);
  expect(statusesIn(await bare.closed)).toEqual(["200", "200", "200", "400"]);
});

test.each([1, 16, 17, 100])("a WebSocket that is asked for after %i other requests is read", async (count) => {
  const relay = await startRelay();
  const bare = await Bare.open(relay.http);
  // A masked text frame (RFC 6455 section 5.2), with a mask of zeros.
  const frame = Buffer.concat([Buffer.from([0x81, 0x85, 0, 0, 0, 0]), Buffer.from("hello")]);
  bare.write(`${publishing(count)}${upgrade("/echo")}\r\n\r\n`);
  await bare.until("HTTP/1.1 101 ");
  bare.write(frame);
  await bare.until("\u0081\u0005hello");
  bare.write(frame);
  await bare.until("\u0081\u0005hello\u0081\u0005hello");
  expect(statusesIn(bare.text)).toEqual([...Array.from({ length: count }, () => "200"), "101"]);
});
