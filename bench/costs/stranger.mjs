// A stranger: reaches the port, and has nothing.
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import tls from "node:tls";
import { textFrame } from "../support/frames.mjs";
import { Requests } from "../support/requests.mjs";
import { arrayOf } from "../support/target.mjs";
import { withKeys } from "./scenario.mjs";

/** Requests that are written at once. */
const PER_WRITE = 100;

/** Open files that many systems allow a process, and more connections than that. */
const FILES = 2048;
const CONNECTIONS = 2100;

/** Seconds in which an unfinished request or an idle connection is ended by the relay's defaults, and more. */
const HELD = 100;

/** Seconds within which a connection is closed that the relay does not even take. */
const AT_ONCE = 5;

/** What makes certificates; it has to be installed. */
const OPENSSL = "openssl";

const fewFiles = ["bash", "-c", `ulimit -n ${FILES}; exec "$@"`, "bash"];

/** The same request all the time, pipelined over one connection. */
function pipelined(method, path, headers) {
  return pipelinedFrom([undefined], method, path, headers);
}

/** The same over a connection from each of some addresses. */
function pipelinedFrom(addresses, method, path, headers) {
  const many = Buffer.concat(arrayOf(PER_WRITE, () => Requests.make(path, "", undefined, { method, headers })));
  const attack = (attack) =>
    Promise.all(addresses.map((from) => attack.requests(() => many, { per: PER_WRITE, depth: 10 * PER_WRITE, from })));
  return { attack };
}

/** Notes when connections are closed. @returns what makes a remark of that */
function watchCloses(attack) {
  const began = performance.now();
  const closes = [];
  for (const { socket } of attack.wires) socket.once("close", () => closes.push((performance.now() - began) / 1000));
  return () => {
    const atOnce = closes.filter((time) => time < AT_ONCE).length;
    const later = closes.slice(atOnce);
    const first = later.length === 0 ? "none" : `the first of ${later.length} after ${later[0].toFixed(0)} s`;
    return `closed: ${atOnce} at once, then ${first}`;
  };
}

/** Connections that stay as they are. @param head what is sent on each */
function held(count, head, options) {
  return {
    ...options,
    attack: async (attack) => {
      const wires = arrayOf(count, () => attack.connect());
      const remark = watchCloses(attack);
      for (const { socket } of wires) if (head) socket.write(head);
      attack.made = count;
      await attack.ended;
      return remark();
    },
  };
}

/** Headers that arrive a byte a second. */
async function slowHeaders(attack) {
  const wires = arrayOf(500, () => attack.connect());
  const remark = watchCloses(attack);
  for (const { socket } of wires) socket.write("GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ");
  attack.made = wires.length;
  while (!attack.isOver) {
    for (const { socket } of wires) if (!socket.destroyed) socket.write("a");
    await Promise.race([sleep(1000), attack.ended]);
  }
  return remark();
}

/** The first packet of a TLS handshake, as bytes that can be sent again. */
async function clientHello() {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = tls.connect({ port: server.address().port, host: "127.0.0.1", rejectUnauthorized: false });
  client.on("error", () => undefined);
  const [socket] = await once(server, "connection");
  const [hello] = await once(socket, "data");
  socket.destroy();
  server.close();
  return hello;
}

/** A new connection each time: the first packet of a handshake, and none after the answer. */
async function helloFlood(attack, _target, hello) {
  const again = async () => {
    while (!attack.isOver) {
      const wire = attack.connect();
      wire.socket.once("data", () => {
        attack.count("hello");
        wire.socket.destroy();
      });
      wire.socket.write(hello);
      attack.made++;
      while (wire.isOpen && !attack.isOver) await wire.change();
    }
  };
  await Promise.all(arrayOf(8, again));
}

/** A certificate that signs itself, as flags of the relay. */
function certificate() {
  const directory = mkdtempSync(join(tmpdir(), "topic-relay-bench-tls-"));
  process.once("exit", () => rmSync(directory, { recursive: true }));
  const [key, cert] = ["key.pem", "cert.pem"].map((name) => join(directory, name));
  const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"];
  execFileSync(OPENSSL, ["req", "-x509", ...kind, "-days", "1", "-keyout", key, "-out", cert], { stdio: "ignore" });
  return ["--tls-key", key, "--tls-cert", cert];
}

/** Pings in the lobby of an open relay: each frame is a line in the log. */
async function lobby(attack) {
  const ping = textFrame("ping");
  await Promise.all(arrayOf(10, () => attack.frames("/ws?format=raw", () => ping, { perSecond: 990 })));
}

const get = Requests.make("/health", "", undefined, { method: "GET" });
const preflight = {
  origin: "https://attacker.example",
  "access-control-request-method": "POST",
  "access-control-request-headers": "authorization,content-type",
};
const addresses = arrayOf(100, (index) => `127.1.0.${index + 1}`);
const wrongKey = { authorization: "Bearer not-a-secret-of-any-key" };
const open = ["--engine", "lmdb", "--log-level", "info", "--insecure-open"];

export const scenarios = {
  "GET of paths that are not there": pipelined("GET", "/nothing/here"),
  "GET of unknown clients": pipelined("GET", `/ws/${"0".repeat(32)}`),
  "GET of unknown clients, from 100 addresses": pipelinedFrom(addresses, "GET", `/ws/${"0".repeat(32)}`),
  "wrong keys": pipelined("GET", "/register/x", wrongKey),
  "wrong keys, from 100 addresses": pipelinedFrom(addresses, "GET", "/register/x", wrongKey),
  "malformed paths": pipelined("GET", "/%zz"),
  preflights: pipelined("OPTIONS", "/publish", preflight),
  "2,100 silent connections, 2,048 files": held(CONNECTIONS, undefined, {
    command: fewFiles,
    fresh: true,
    seconds: HELD,
  }),
  "2,100 idle connections after a GET, 2,048 files": held(CONNECTIONS, get, {
    command: fewFiles,
    fresh: true,
    seconds: HELD,
  }),
  "500 connections with slow headers": { attack: slowHeaders, fresh: true, seconds: HELD },
  "first packets of TLS handshakes": {
    flags: () => withKeys(...certificate()),
    secure: true,
    prepare: clientHello,
    attack: helloFlood,
  },
  "TLS handshakes that stay unfinished, 500 connections": {
    flags: () => withKeys(...certificate()),
    secure: true,
    fresh: true,
    prepare: clientHello,
    attack: (attack, target, hello) => held(500, hello).attack(attack, target),
  },
  "pings in the lobby of an open relay, 10 connections": { flags: () => open, attack: lobby },
};
