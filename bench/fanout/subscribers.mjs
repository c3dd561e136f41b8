// A process of subscribers. They read their sockets bare, so that the machine's time goes to the server: every message
// is checked to be the next one, and its latency taken from the time that it carries.
import { randomBytes } from "node:crypto";
import net from "node:net";

const [, , address, kind, count] = process.argv;
const { hostname, port } = new URL(address);
let total = 0;
let wrong = 0;
let latencies = [];

async function path() {
  if (kind === "socketio") return "/socket.io/?EIO=4&transport=websocket";
  if (kind === "loop") return "/ws";
  const response = await fetch(`${address}/register`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ user_id: `${process.pid}-${Math.random()}` }),
  });
  return new URL((await response.json()).url).pathname;
}

function send(socket, opcode, payload) {
  const mask = randomBytes(4);
  const body = Buffer.from(payload).map((byte, index) => byte ^ mask[index % 4]);
  socket.write(Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | body.length]), mask, body]));
}

/** A message is its number in 10 digits, the time of its publishing in 16 (microseconds), and padding. */
function deliver(subscriber, bytes, start) {
  const number = digits(bytes, start, 10);
  if (number !== subscriber.next) wrong++;
  subscriber.next = number + 1;
  total++;
  if (total % 97 === 0) latencies.push(Number(process.hrtime.bigint() / 1000n) - digits(bytes, start + 11, 16));
}

function digits(bytes, start, count) {
  let number = 0;
  for (let index = start; index < start + count; index++) number = number * 10 + bytes[index] - 48;
  return number;
}

function receive(subscriber, socket, frames) {
  let offset = 0;
  while (frames.length - offset >= 2) {
    const opcode = frames[offset] & 0x0f;
    let length = frames[offset + 1] & 0x7f;
    let header = 2;
    if (length === 126) {
      if (frames.length - offset < 4) break;
      length = frames.readUInt16BE(offset + 2);
      header = 4;
    }
    if (frames.length - offset < header + length) break;
    const start = offset + header;
    if (opcode === 9) send(socket, 10, frames.subarray(start, start + length));
    else if (opcode === 1 && kind !== "socketio") deliver(subscriber, frames, start);
    else if (opcode === 1) socketIo(subscriber, socket, frames.subarray(start, start + length));
    offset += header + length;
  }
  return frames.subarray(offset);
}

/** Engine.IO 4: open and ping; Socket.IO 5: connected, and an event with the message. */
function socketIo(subscriber, socket, packet) {
  const [engine, type] = packet;
  if (engine === 0x30) send(socket, 1, "40");
  else if (engine === 0x32) send(socket, 1, "3");
  else if (type === 0x30) subscriber.ready();
  else if (type === 0x32) deliver(subscriber, packet, '42["message","'.length);
}

async function subscribe() {
  const target = await path();
  const socket = net.connect(Number(port), hostname);
  const subscriber = { next: 0, ready: () => undefined };
  const ready = new Promise((resolve) => (subscriber.ready = resolve));
  let rest;
  socket.write(
    `GET ${target} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
      `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
  );
  socket.on("data", (chunk) => {
    if (rest !== undefined) {
      rest = receive(subscriber, socket, rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk);
      return;
    }
    const end = chunk.indexOf("\r\n\r\n");
    if (!chunk.toString("latin1", 0, 12).endsWith("101")) throw new Error(chunk.toString());
    rest = receive(subscriber, socket, chunk.subarray(end + 4));
    if (kind !== "socketio") subscriber.ready();
  });
  socket.on("error", () => process.exit(1));
  await ready;
  return subscriber;
}

const subscribers = [];
for (let left = Number(count); left > 0; left -= 50) {
  subscribers.push(...(await Promise.all(Array.from({ length: Math.min(50, left) }, subscribe))));
}
process.send({ ready: true });
process.on("message", (ask) => {
  if (ask === "reset") {
    for (const subscriber of subscribers) subscriber.next = 0;
    total = 0;
    wrong = 0;
    latencies = [];
  }
  process.send({ total, wrong, latencies: ask === "latencies" ? latencies : [], cpu: process.cpuUsage() });
});
