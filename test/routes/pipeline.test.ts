import { expect, test } from "vitest";
import { Bare, upgrade } from "../support/bare.js";
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
