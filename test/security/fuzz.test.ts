import { createHmac } from "node:crypto";
import { once } from "node:events";
import http from "node:http";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket } from "ws";
import { Bare, upgrade } from "../support/bare.js";
import { RelayProcess } from "../support/process.js";

/**
 * Inputs in all. The suite takes a few; a long run is
 * `FUZZ=200000 npx vitest run test/security/fuzz.test.ts --testTimeout 3600000`.
 */
const INPUTS = Number(process.env["FUZZ"] ?? 2000);

const KEY = "a-secret-that-nobody-guesses";
const JWT_SECRET = "0123456789abcdef0123456789abcdef";

/** MiB: what leaks would have to fit in. */
const HEAP = 160;

let relay: RelayProcess;
let address: string;
let ended: () => Promise<void>;
const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });

beforeAll(async () => {
  const flags = ["--listen", "127.0.0.1:0", "--engine", "memory", "--log-level", "error"];
  const bounds = [
    "--client-ttl",
    "1s",
    "--max-client-ttl",
    "2s",
    "--retention-count",
    "1000",
    "--frame-rate",
    "1000000",
    "--request-rate",
    "1000000",
  ];
  relay = new RelayProcess(
    [...flags, ...bounds],
    { RELAY_API_KEYS: `a:${KEY}`, RELAY_JWT_SECRET: JWT_SECRET, NODE_OPTIONS: `--max-old-space-size=${HEAP}` },
    undefined,
    (end) => (ended = end),
  );
  address = await relay.address();
});

afterAll(async () => {
  agent.destroy();
  await ended();
});

// What is known to mean something, and what is not.
const names = fc.constantFrom(
  ..."user_id topics topic message user_ids ttl key allow subscribe publish add remove id type action payload room content".split(
    " ",
  ),
  ..."specversion source subject relayuser data data_base64 time sub exp aud __proto__ constructor length".split(" "),
);
const words = fc.constantFrom(
  ..."a.* a.> > * $broadcast cats request join leave chat echo broadcast subscribe unsubscribe publish topics ack get_connections".split(
    " ",
  ),
  ..."1.0 2026-11-20T09:00:00Z 1795165200000-0 0 now 10m raw json cloudevents __proto__ \u0000 \ud800 null".split(" "),
);
const leaf = fc.oneof(
  words,
  fc.string(),
  fc.string({ unit: "binary" }),
  fc.double(),
  fc.integer(),
  fc.boolean(),
  fc.constant(null),
);
const { value } = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    leaf,
    fc.array(tie("value"), { maxLength: 5 }),
    fc.dictionary(fc.oneof({ weight: 5, arbitrary: names }, { weight: 1, arbitrary: fc.string() }), tie("value"), {
      maxKeys: 6,
    }),
  ),
}));
const seeds = [
  '{"user_id":1,"topics":["cats","a.>"],"ttl":1,"allow":{"subscribe":[">"],"publish":["a.*"]}}',
  '{"topic":"cats","message":{"a":[1,2.50,"x"]},"user_ids":[1,"b"],"ttl":1,"key":"k"}',
  '[{"topic":"cats","message":1},{"topic":"dogs","message":"x","user_id":1}]',
  '{"topic":"a","message":1}\n{"topic":"b","message":2}\n',
  '{"specversion":"1.0","id":"1","source":"/","type":"t","subject":"cats","data":{"a":1},"relayuser":"1"}',
  '{"id":"7","type":"request","action":"publish","payload":{"topic":"a.b","message":"hi"}}',
  '{"id":7,"type":"request","action":"subscribe","payload":{"topics":["a","b.*"]}}',
  '{"type":"join","room":"x"}',
  '{"type":"chat","content":"hi"}',
  '{"topics":["cats","dogs"]}',
  "ping\n",
];

/** A seed with some of its bytes changed, dropped, doubled. */
const mutant = fc
  .tuple(
    fc.constantFrom(...seeds),
    fc.array(fc.tuple(fc.nat(400), fc.integer({ min: 0, max: 255 }), fc.nat(3)), { maxLength: 6 }),
  )
  .map(([seed, edits]) => {
    let bytes = Buffer.from(seed);
    for (const [at, byte, kind] of edits) {
      const place = at % (bytes.length + 1);
      const [before, after] = [bytes.subarray(0, place), bytes.subarray(place)];
      if (kind === 0) bytes = Buffer.concat([before, Buffer.from([byte]), after]);
      else if (kind === 1) bytes = Buffer.concat([before, after.subarray(1)]);
      else if (kind === 2) bytes = Buffer.concat([before, Buffer.from([byte]), after.subarray(1)]);
      else bytes = Buffer.concat([before, before, after]);
    }
    return bytes;
  });
const bytes = fc.oneof(
  { weight: 4, arbitrary: mutant },
  { weight: 4, arbitrary: value.map((any) => Buffer.from(JSON.stringify(any) ?? "")) },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array)) },
);
const text = fc.oneof(words, fc.string(), fc.string({ unit: "binary" }), mutant.map(String));

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

async function send(method: string, path: string, body: Buffer, headers: Record<string, string>): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = http.request(address + path, {
      method,
      headers: { ...headers, "content-length": body.length },
      agent,
    });
    request.on("error", reject);
    request.on("response", (response) => {
      const type = response.headers["content-type"] ?? "";
      const answer = { status: response.statusCode ?? 0, type };
      // A stream does not end.
      if (type.startsWith("text/event-stream")) {
        resolve({ ...answer, body: "" });
        request.destroy();
      }
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => resolve({ ...answer, body: String(Buffer.concat(chunks)) }));
    });
    request.end(body);
  });
}

/** Nothing that comes in is the relay's own fault. */
function expectSound({ status, type, body }: Answer): void {
  expect(status).toBeGreaterThanOrEqual(200);
  expect(status).toBeLessThan(500);
  expect(body).not.toMatch(/ {4}at |node_modules|\/src\/|\/dist\//);
  if (status >= 400)
    expect([type, JSON.parse(body)]).toEqual([
      expect.stringContaining("problem+json"),
      expect.objectContaining({ status }),
    ]);
}

async function assertAll<T>(inputs: fc.Arbitrary<T>, share: number, check: (input: T) => Promise<void>): Promise<void> {
  await fc.assert(fc.asyncProperty(inputs, check), { numRuns: Math.ceil(INPUTS * share) });
  expect([relay.child.exitCode, relay.stderr]).toEqual([null, ""]);
}

test("bodies", async () => {
  const paths = [
    "/register",
    "/publish",
    "/publish?wait=0",
    `/register/${"0".repeat(32)}`,
    "/users/1",
    "/events/1-0",
    "/echo",
  ];
  const types =
    "application/json application/x-ndjson application/cloudevents+json application/cloudevents-batch+json text/plain x".split(
      " ",
    );
  const input = fc.record({
    method: fc.constantFrom("POST", "POST", "POST", "PATCH", "DELETE", "PUT"),
    path: fc.constantFrom(...paths),
    body: bytes,
    type: fc.constantFrom(...types),
    extra: fc.dictionary(
      fc.constantFrom(
        "idempotency-key",
        "ce-specversion",
        "ce-id",
        "ce-source",
        "ce-type",
        "ce-subject",
        "ce-time",
        "ce-__proto__",
        "content-encoding",
        "last-event-id",
      ),
      fc.oneof(fc.constantFrom("1.0", "a", "%zz", "%00", "identity"), fc.stringMatching(/^[!-~]{1,20}$/)),
      { maxKeys: 4 },
    ),
  });
  await assertAll(input, 0.35, async ({ method, path, body, type, extra }) => {
    expectSound(await send(method, path, body, { ...extra, "content-type": type, authorization: `Bearer ${KEY}` }));
  });
});

test("query strings", async () => {
  const parameters = fc.array(
    fc.tuple(fc.constantFrom("since", "format", "ttl", "ack", "wait", "token", "x", "__proto__"), text, fc.boolean()),
    { maxLength: 4 },
  );
  const input = fc.tuple(
    fc.constantFrom(
      "/ws",
      `/ws/${"0".repeat(32)}`,
      "/stream",
      `/stream/${"0".repeat(32)}`,
      "/publish",
      "/events/",
      "/users/",
      "/",
      "/health",
    ),
    parameters,
  );
  await assertAll(input, 0.15, async ([path, query]) => {
    const written = query.map(([name, given, raw]) => {
      return `${name}=${raw ? given.replaceAll(/[^!-~]|[#\s]/g, "") : encodeURIComponent(given.toWellFormed())}`;
    });
    expectSound(await send("GET", `${path}?${written.join("&")}`, Buffer.alloc(0), { authorization: `Bearer ${KEY}` }));
  });
});

test("tokens", async () => {
  const part = (any: unknown): string =>
    Buffer.from(typeof any === "string" ? any : JSON.stringify(any ?? null)).toString("base64url");
  const algorithm = fc.constantFrom("HS256", "HS256", "HS512", "none", "RS256", "");
  const claims = fc.oneof(
    value,
    fc.dictionary(fc.constantFrom("sub", "exp", "nbf", "iat", "aud", "topics", "allow"), value),
    text,
  );
  const input = fc.record({
    algorithm,
    header: fc.dictionary(fc.constantFrom("crit", "kid", "jwk", "b64", "typ", "zip"), leaf, { maxKeys: 2 }),
    claims,
    signed: fc.boolean(),
    cut: fc.nat(20),
  });
  await assertAll(input, 0.15, async ({ algorithm: alg, header, claims: said, signed, cut }) => {
    const head = `${part({ alg, ...header })}.${part(said)}`;
    const signature = signed ? createHmac("sha256", JWT_SECRET).update(head).digest("base64url") : "AAAA";
    const token = `${head}.${signature}`.slice(0, cut < 18 ? undefined : -cut);
    expectSound(await send("GET", `/stream?token=${token}`, Buffer.alloc(0), {}));
  });
});

test("frames", async () => {
  let socket: WebSocket | undefined;
  const open = async (): Promise<WebSocket> => {
    if (socket?.readyState === WebSocket.OPEN) return socket;
    const opened = new WebSocket(`${address.replace("http", "ws")}/ws`, {
      headers: { authorization: `Bearer ${KEY}` },
    });
    await new Promise((resolve, reject) => opened.once("open", resolve).once("error", reject));
    opened.on("close", (code) => codes.add(code)).on("error", () => undefined);
    return (socket = opened);
  };
  const codes = new Set<number>();
  await assertAll(fc.tuple(bytes, fc.integer({ min: 0, max: 9 })), 0.3, async ([frame, kind]) => {
    const to = await open();
    to.send(frame, { binary: kind === 0, fin: kind !== 1 });
    if (kind === 1) to.send("", { fin: true });
    if (kind === 2) to.ping(frame.subarray(0, 125));
    if (kind === 3) to.pong(frame.subarray(0, 125));
    // An answer to a ping says that all before it was dealt with.
    const answered = new AbortController();
    to.ping();
    await Promise.race([once(to, "pong", answered), once(to, "close", answered)]);
    answered.abort();
  });
  socket?.terminate();
  for (const code of codes) expect([1006, 1007, 4429]).toContain(code);
});

test("bare bytes, as requests and as frames", async () => {
  const heads = [
    "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    `POST /publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${KEY}\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\r\n{"topic":"a","message":1} `,
    `${upgrade("/ws", `Authorization: Bearer ${KEY}`)}\r\n\r\n\x81\x84\0\0\0\0ping`,
  ];
  const edits = fc.array(fc.tuple(fc.nat(400), fc.string({ unit: "binary-ascii", maxLength: 3 }), fc.nat(3)), {
    maxLength: 5,
  });
  await assertAll(
    fc.tuple(fc.constantFrom(...heads), edits, fc.uint8Array({ maxLength: 40 }), fc.boolean()),
    0.05,
    async ([head, changes, tail, reset]) => {
      let request = head;
      for (const [at, put, drop] of changes) {
        const place = at % request.length;
        request = request.slice(0, place) + put + request.slice(place + drop);
      }
      const bare = await Bare.open(address);
      bare.write(Buffer.concat([Buffer.from(request, "latin1"), tail]));
      if (reset) bare.socket.resetAndDestroy();
      else bare.socket.end();
      const answer = await bare.closed;
      expect(answer).not.toMatch(/^HTTP\/1.1 5\d\d /);
      expect(answer).not.toMatch(/ {4}at |node_modules|\/dist\//);
    },
  );
});

test("what is left of it: the relay answers, and gives back its memory", async () => {
  const health = await fetch(`${address}/health`);
  expect([health.status, relay.child.exitCode, relay.stderr]).toEqual([200, null, ""]);
  const open = async (): Promise<number> => {
    const metrics = await (await fetch(`${address}/metrics`, { headers: { authorization: `Bearer ${KEY}` } })).text();
    return Number(/^relay_connections (\d+)/m.exec(metrics)?.[1]) + Number(/^relay_clients (\d+)/m.exec(metrics)?.[1]);
  };
  await expect.poll(open, { timeout: 15_000, interval: 100 }).toBe(0);
});
