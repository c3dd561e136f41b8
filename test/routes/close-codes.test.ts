import type { Socket } from "node:net";
import Fastify from "fastify";
import { describe, expect, onTestFinished, test } from "vitest";
import topicRelay from "../../src/index.js";
import { secretKey, signToken } from "../../src/trust/tokens.js";
import { Bare, upgrade } from "../support/bare.js";
import { bearer, startRelay, type TestRelay } from "../support/relay.js";
import { openSocket, refusal } from "../support/socket.js";

const OWN = "relay.v1.json";
const OFFER = `Sec-WebSocket-Protocol: ${OWN}`;
const UNKNOWN = "0".repeat(32);
const SECRET = "a-secret-that-nobody-guesses";
const JWT_SECRET = "a-secret-of-tokens-with-32-bytes";
const OPTIONS = { apiKeys: `a:${SECRET}:register+publish+admin,p:${SECRET}-2:publish`, jwtSecret: JWT_SECRET };

async function token(claims: object, seconds = 60): Promise<string> {
  return signToken(secretKey(JWT_SECRET), { sub: "7", ...claims }, seconds);
}

/** How a handshake is refused over HTTP, and the close code for a client that offers the relay's subprotocol. */
async function expectRefused(
  url: string,
  expected: [status: number, code: number],
  headers: Record<string, string> = {},
): Promise<string> {
  const { status, body } = await refusal(openSocket(url, [], headers));
  const { detail } = JSON.parse(body) as { detail: string };
  const client = await openSocket(url, ["x", OWN], headers);
  const { code, reason } = await client.closed;
  expect([url, status, code]).toEqual([url, ...expected]);
  expect(detail.startsWith(reason) && reason.length >= Math.min(detail.length, 41)).toBe(true);
  const notice = { event: "disconnected", code, reason: detail, reconnect: false };
  expect(client.all.map((frame) => JSON.parse(frame) as unknown)).toEqual([{ type: "notification", data: notice }]);
  return detail;
}

/** A relay with room for a few connections, and the server's ends of them. */
async function watched(maxConnections = 20_000): Promise<{ relay: TestRelay; sockets: Socket[] }> {
  const relay = await startRelay({ maxConnections });
  const sockets: Socket[] = [];
  relay.app.server.on("connection", (socket: Socket) => sockets.push(socket));
  return { relay, sockets };
}

describe("a client that offers relay.v1.json is refused by a close code", () => {
  test("4404: unknown and removed clients, and an id that is none", async () => {
    const relay = await startRelay();
    const { url, id } = await relay.register({ user_id: 1 });
    await relay.send("DELETE", `/register/${id}`);
    for (const gone of [url, `${relay.ws}/ws/${UNKNOWN}`, `${relay.ws}/ws/none`]) {
      expect(await expectRefused(gone, [404, 4404])).not.toContain(id);
    }
  });

  test("4400: query and header values that the relay does not understand", async () => {
    const relay = await startRelay();
    const { url } = await relay.register({ user_id: 1 });
    for (const query of ["since=soon", "format=xml", "ack=yes"]) await expectRefused(`${url}?${query}`, [400, 4400]);
    for (const query of ["ttl=-1", "ttl=999999999"]) await expectRefused(`${relay.ws}/ws?${query}`, [400, 4400]);
    await expectRefused(url, [400, 4400], { "last-event-id": "none" });
  });

  test("4401 and 4403: no key, a bad one, one without the scope; tokens that are not good, or go too far", async () => {
    const { ws } = await startRelay(OPTIONS);
    await expectRefused(`${ws}/ws`, [401, 4401]);
    await expectRefused(`${ws}/echo`, [401, 4401]);
    expect(await expectRefused(`${ws}/echo`, [401, 4401], bearer("a-guess"))).not.toContain("guess");
    expect(await expectRefused(`${ws}/ws`, [403, 4403], bearer(`${SECRET}-2`))).not.toContain(SECRET);
    for (const bad of ["a.b.c", await token({}, -1), await token({ topics: 1 })]) {
      expect(await expectRefused(`${ws}/ws?token=${bad}`, [401, 4401])).not.toContain(bad);
    }
    const further = await token({ topics: ["a", "x"], allow: { subscribe: ["a"] } });
    expect(await expectRefused(`${ws}/ws?token=${further}`, [403, 4403])).toContain('"x"');
  });

  test("the reason is what fits into a close frame, in whole characters", async () => {
    const { ws } = await startRelay(OPTIONS);
    const lengths = new Set<number>();
    for (const topic of ["é".repeat(99), `a${"é".repeat(99)}`, "🐈".repeat(50), `a${"🐈".repeat(50)}`]) {
      const further = await token({ topics: [topic], allow: { subscribe: ["a"] } });
      const detail = await expectRefused(`${ws}/ws?token=${further}`, [403, 4403]);
      const client = await openSocket(`${ws}/ws?token=${further}`, [OWN]);
      const { reason } = await client.closed;
      expect([detail.startsWith(reason), reason.isWellFormed(), reason]).toEqual([
        true,
        true,
        expect.stringMatching(/[é🐈]$/u),
      ]);
      lengths.add(Buffer.byteLength(reason));
    }
    expect(Math.max(...lengths)).toBe(123);
    expect(Math.min(...lengths)).toBeLessThan(123);
  });

  test("in the subprotocol that is selected, which may have no words for it", async () => {
    const relay = await startRelay();
    const client = await relay.connect(`/ws/${UNKNOWN}`, ["cloudevents.json", OWN]);
    expect([client.socket.protocol, await client.closed, client.all]).toEqual([
      "cloudevents.json",
      { code: 4404, reason: expect.stringContaining("no such client") as string },
      [],
    ]);
  });

  test("whatever it sends along with the handshake", async () => {
    const relay = await startRelay();
    const bare = await Bare.open(relay.http);
    const close = Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x11, 0x34]);
    bare.write(Buffer.concat([Buffer.from(`${upgrade(`/ws/${UNKNOWN}`, OFFER)}\r\n\r\n`), text("hello"), close]));
    expect(await bare.closed).toMatch(/^HTTP\/1.1 101 [^]*"code":4404[^]*}}[^]{3}4no such client/);
  });

  test("under a prefix", async () => {
    const app = Fastify();
    onTestFinished(() => app.close());
    await app.register(topicRelay, { prefix: "/relay", engine: "memory" });
    const http = await app.listen({ host: "127.0.0.1", port: 0 });
    await expectRefused(`${http.replace("http", "ws")}/relay/ws/${UNKNOWN}`, [404, 4404]);
  });
});

describe("HTTP refuses", () => {
  test("pages of foreign origins, foreign hosts, bad handshakes, other methods, and paths that are no WebSocket", async () => {
    const relay = await startRelay();
    const keyed = await startRelay(OPTIONS);
    const cases: [http: string, status: number, request: string][] = [
      [relay.http, 403, upgrade(`/ws/${UNKNOWN}`, OFFER, "Origin: https://evil.example")],
      [relay.http, 403, upgrade(`/ws/${UNKNOWN}`, OFFER).replace("localhost", "evil.example")],
      [relay.http, 400, upgrade(`/ws/${UNKNOWN}`, OFFER).replace("localhost", "a b")],
      [relay.http, 400, upgrade(`/ws/${UNKNOWN}`, OFFER, "Host: localhost")],
      [relay.http, 400, upgrade(`/ws/${UNKNOWN}`, `${OFFER}, ${OWN}`)],
      [relay.http, 400, upgrade(`/ws/${UNKNOWN}`, OFFER).replace("AAAA==", "==")],
      [relay.http, 426, upgrade(`/ws/${UNKNOWN}`, OFFER).replace("Version: 13", "Version: 12")],
      [relay.http, 405, upgrade("/ws", OFFER).replace("GET", "POST")],
      [relay.http, 404, upgrade("/nowhere", OFFER)],
      [relay.http, 400, upgrade("/ws/%zz", OFFER)],
      [relay.http, 400, upgrade("/health", OFFER)],
      [relay.http, 404, `GET /ws/${UNKNOWN} HTTP/1.1\r\nHost: localhost\r\n${OFFER}`],
      [keyed.http, 401, upgrade("/ws", OFFER).replace("GET", "POST")],
      [keyed.http, 401, upgrade("/nowhere", OFFER)],
    ];
    for (const [http, status, request] of cases) {
      const bare = await Bare.open(http);
      bare.write(`${request}\r\n\r\n`);
      const [answer] = (await bare.until('"code":')).split("\r\n");
      expect([request, answer]).toEqual([request, expect.stringContaining(` ${status} `)]);
      bare.socket.destroy();
    }
  });

  test("what exceeds a limit", async () => {
    const rated = await startRelay({ ...OPTIONS, requestRate: 1 });
    const statuses = [];
    for (let count = 0; count < 12; count++) {
      const attempt = openSocket(`${rated.ws}/ws/${UNKNOWN}`, [OWN]);
      statuses.push(
        await attempt.then(
          async ({ closed }) => (await closed).code,
          ({ status }) => status as number,
        ),
      );
    }
    expect(new Set(statuses)).toEqual(new Set([4404, 429]));
    const keyed = await startRelay(OPTIONS);
    let tries = 0;
    const guess = async (): Promise<number> =>
      openSocket(`${keyed.ws}/ws`, [OWN], bearer(`guess-${tries++}`)).then(
        async ({ closed }) => (await closed).code,
        ({ status }) => status as number,
      );
    let last = await guess();
    while (last === 4401) last = await guess();
    expect([last, tries > 100]).toEqual([429, true]);
  });
});

describe("a refused client that does not close", () => {
  test("takes no connection from others of its address, and is cut off", async () => {
    const relay = await startRelay({ maxConnections: 2, trustProxy: true, ...OPTIONS });
    const refused = await Promise.all(
      ["/ws", `/ws/${UNKNOWN}`, "/echo"].map(async (path) => Bare.webSocket(relay.http, path, OFFER)),
    );
    expect(refused.map(({ text: answer }) => answer.slice(9, 12))).toEqual(["101", "101", "101"]);
    await openSocket(`${relay.ws}/echo`, [], bearer(SECRET));
    expect(refused.map(({ socket }) => socket.destroyed)).toEqual([false, false, false]);
    await openSocket(`${relay.ws}/echo`, [], bearer(SECRET));
    expect((await refusal(openSocket(`${relay.ws}/echo`, [], bearer(SECRET)))).status).toBe(429);
    // Who has no key is not told of limits of connections.
    expect((await refusal(openSocket(`${relay.ws}/echo`))).status).toBe(401);
    await Promise.all(refused.map(async ({ closed }) => closed));
  });

  test("is cut off at once when 256 others were refused after it", async () => {
    const { relay, sockets } = await watched();
    const first = await Bare.webSocket(relay.http, `/ws/${UNKNOWN}`, OFFER);
    const others = await Promise.all(
      Array.from({ length: 300 }, async () => Bare.webSocket(relay.http, `/ws/${UNKNOWN}`, OFFER)),
    );
    expect(await first.closed).toContain('"code":4404');
    for (const { text: answer } of others) expect(answer).toContain(" 101 ");
    expect(sockets.filter((socket) => !socket.destroyed).length).toBeLessThanOrEqual(256);
  });

  test("is not read, however much it sends", async () => {
    const { relay, sockets } = await watched();
    const bare = await Bare.webSocket(relay.http, `/ws/${UNKNOWN}`, OFFER);
    const frame = text("x".repeat(60_000));
    while (!bare.socket.destroyed) {
      bare.write(frame);
      await new Promise(setImmediate);
    }
    const [socket] = sockets;
    expect([socket?.destroyed, (socket?.bytesRead ?? Infinity) < 300_000]).toEqual([true, true]);
    expect(bare.socket.bytesWritten).toBeGreaterThan(300_000);
  });

  test("does not keep a relay from ending", async () => {
    const { relay } = await watched();
    const silent = await Bare.webSocket(relay.http, `/ws/${UNKNOWN}`, OFFER);
    const began = performance.now();
    await relay.close();
    await silent.closed;
    expect(performance.now() - began).toBeLessThan(2000);
  });
});

/** A text frame as clients send it, masked with zeros. */
function text(content: string): Buffer {
  const { length } = content;
  const size = length < 126 ? [0x80 | length] : [0xfe, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([0x81, ...size, 0, 0, 0, 0]), Buffer.from(content)]);
}
