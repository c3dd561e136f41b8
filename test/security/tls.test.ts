import { once } from "node:events";
import { writeFileSync } from "node:fs";
import https from "node:https";
import net from "node:net";
import tls from "node:tls";
import { expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { Bare } from "../support/bare.js";
import { selfSigned } from "../support/certificate.js";
import { temporaryDirectory } from "../support/directory.js";
import { RelayProcess } from "../support/process.js";
import { startRelay } from "../support/relay.js";

function files(): { tlsCert: string; tlsKey: string; write: (name: string) => string } {
  const directory = temporaryDirectory();
  const [tlsCert, tlsKey] = [`${directory}/cert.pem`, `${directory}/key.pem`];
  const write = (name: string): string => {
    const { cert, key } = selfSigned(name);
    writeFileSync(tlsKey, key);
    writeFileSync(tlsCert, cert);
    return cert;
  };
  return { tlsCert, tlsKey, write };
}

async function post(http: string, path: string, body: object, ca: string): Promise<Record<string, unknown>> {
  const headers = { "content-type": "application/json" };
  const request = https.request(http + path, { method: "POST", ca, headers, agent: false });
  request.end(JSON.stringify(body));
  const [response] = (await once(request, "response")) as [AsyncIterable<Buffer>];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  return JSON.parse(String(Buffer.concat(chunks))) as Record<string, unknown>;
}

/** The name in the certificate that a new connection gets. */
async function presented(http: string): Promise<string> {
  const { hostname, port } = new URL(http);
  const socket = tls.connect({ host: hostname, port: Number(port), rejectUnauthorized: false });
  await once(socket, "secureConnect");
  const { CN } = socket.getPeerCertificate().subject;
  socket.destroy();
  return String(CN);
}

test("with a certificate the relay speaks https and wss, and gives out such URLs", async () => {
  const { write, ...settings } = files();
  const ca = write("one");
  const relay = await startRelay(settings);
  const { url, stream_url } = await post(relay.http, "/register", { user_id: 1 }, ca);
  expect([url, stream_url]).toEqual([expect.stringMatching(/^wss:/), expect.stringMatching(/^https:/)]);
  const socket = new WebSocket(String(url), { ca });
  onTestFinished(() => socket.terminate());
  await once(socket, "open");
  const [received, receipt] = await Promise.all([
    once(socket, "message"),
    post(relay.http, "/publish?wait=10", { topic: "cats", message: "hi" }, ca),
  ]);
  expect([String(received[0]), receipt]).toEqual(["hi", expect.objectContaining({ sent: 1, confirmed: 1 })]);
  const unknown = new WebSocket(String(url).replace(/[^/]+$/, "0".repeat(32)), ["relay.v1.json"], { ca });
  onTestFinished(() => unknown.terminate());
  expect(await once(unknown, "close")).toEqual([4404, expect.anything()]);
});

test("a request that offers h2c is answered there too", async () => {
  const { write, ...settings } = files();
  const ca = write("one");
  const relay = await startRelay(settings);
  const { port } = new URL(relay.http);
  const socket = tls.connect({ host: "127.0.0.1", port: Number(port), ca });
  socket.write("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
  expect(String((await once(socket, "data"))[0])).toMatch(/^HTTP\/1.1 200 /);
  socket.destroy();
});

test("files that change are read again, and what is wrong leaves the old certificate", async () => {
  const { write, ...settings } = files();
  write("one");
  const relay = new RelayProcess(["--listen", "127.0.0.1:0", "--engine", "memory"], {
    RELAY_TLS_CERT: settings.tlsCert,
    RELAY_TLS_KEY: settings.tlsKey,
  });
  const said = async (text: string, from = 0): Promise<void> => {
    while (!relay.stderr.slice(from).includes(text)) await once(relay.child.stderr as NodeJS.ReadableStream, "data");
  };
  const http = await relay.address();
  expect(http).toMatch(/^https:/);
  expect(await presented(http)).toBe("one");
  const before = relay.stderr.length;
  write("two");
  relay.child.kill("SIGHUP");
  await said("read anew", before);
  expect(await presented(http)).toBe("two");
  const { length } = relay.stderr;
  writeFileSync(settings.tlsCert, "no certificate");
  await said("the old one stays", length);
  expect(await presented(http)).toBe("two");
  const again = relay.stderr.length;
  write("three");
  await said("read anew", again);
  expect(await presented(http)).toBe("three");
});

test("it ends at once, whatever hangs on it: no handshake, or no request", async () => {
  const { write, ...settings } = files();
  const ca = write("one");
  const relay = await startRelay(settings);
  const port = Number(new URL(relay.http).port);
  const [silent, idle] = [net.connect(port, "127.0.0.1"), tls.connect({ host: "127.0.0.1", port, ca })];
  await Promise.all([once(silent, "connect"), once(idle, "secureConnect")]);
  const closed = [silent, idle].map((socket) => {
    socket.on("error", () => socket.destroy());
    return new Promise((resolve) => socket.once("close", resolve));
  });
  await relay.close();
  await Promise.all(closed);
});

test("a handshake that does not come to its end is ended", async () => {
  const { write, ...settings } = files();
  write("one");
  const relay = await startRelay({ ...settings, requestTimeout: "1s" });
  const silent = await Bare.open(relay.http);
  const half = await Bare.open(relay.http);
  half.write(Buffer.from("16030100f8010000f40303", "hex"));
  expect(await Promise.all([silent.closed, half.closed])).toEqual(["", ""]);
});

test.each([
  [{ tlsCert: "CERT" }, /tlsCert: needs tlsKey too/],
  [{ tlsKey: "KEY" }, /tlsKey: needs tlsCert too/],
  [{ tlsCert: "CERT", tlsKey: "OTHER" }, /--tls-cert, --tls-key: not a certificate and its key/],
  [{ tlsCert: "/nowhere", tlsKey: "KEY" }, /--tls-cert: ENOENT/],
])("%j stops the start", async (settings, message) => {
  const [one, other] = [files(), files()];
  one.write("one");
  other.write("other");
  const paths: Record<string, string> = { CERT: one.tlsCert, KEY: one.tlsKey, OTHER: other.tlsKey };
  const filled = Object.fromEntries(Object.entries(settings).map(([name, path]) => [name, paths[path] ?? path]));
  await expect(startRelay(filled)).rejects.toThrow(message);
});
