import { createHmac, generateKeyPairSync, randomBytes } from "node:crypto";
import { once } from "node:events";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, exportSPKI, type JWTPayload, SignJWT } from "jose";
import { describe, expect, onTestFinished, test } from "vitest";
import { parseSettings } from "../../src/config.js";
import { RelayProcess } from "../support/process.js";
import { bearer, startRelay, type TestRelay } from "../support/relay.js";
import { refusal } from "../support/socket.js";
import { openStream } from "../support/stream.js";

const SECRET = "0123456789abcdef0123456789abcdef";
const KEY = "a-secret-that-nobody-guesses";
const OPTIONS = { apiKeys: `a:${KEY}`, jwtSecret: SECRET };

async function sign(claims: JWTPayload, secret = SECRET): Promise<string> {
  return new SignJWT(claims).setProtectedHeader({ alg: "HS256" }).sign(Buffer.from(secret));
}

/** A token put together by hand. */
function forge(header: object, claims: object, secret?: string): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const head = `${part(header)}.${part(claims)}`;
  return `${head}.${secret === undefined ? "" : createHmac("sha256", secret).update(head).digest("base64url")}`;
}

function soon(seconds: number): number {
  return Math.floor(Date.now() / 1000) + seconds;
}

async function refused(relay: TestRelay, token: string): Promise<{ status: number; detail: string }> {
  const { status, body } = await refusal(relay.connect(`/ws?token=${token}`));
  const stream = await relay.fetch(`/stream?token=${token}`);
  expect([stream.status, stream.status === 503 || stream.headers.get("www-authenticate")]).toEqual([
    status,
    status === 503 || expect.stringContaining("invalid_token"),
  ]);
  return { status, detail: (JSON.parse(body) as { detail: string }).detail };
}

describe("a token", () => {
  test("registers and connects in one step: as its user, with its topics and permissions", async () => {
    const relay = await startRelay(OPTIONS, KEY);
    const token = await sign({
      sub: "bob",
      topics: ["a"],
      allow: { subscribe: ["a", "b"], publish: ["c"] },
      exp: soon(60),
    });
    const client = await relay.connect(`/ws?token=${token}`);
    expect(await client.json()).toMatchObject({
      data: { event: "connected", user_id: "bob", topics: ["a"], gap: false },
    });
    await relay.publish({ user_id: "bob", topic: "a", message: 1 });
    await relay.publish({ user_id: "eve", topic: "a", message: 2 });
    expect(await client.json()).toMatchObject({ type: "event", message: 1 });
    expect(await client.request("subscribe", { topics: ["x"] })).toMatchObject({ code: "forbidden" });
    expect(await client.request("publish", { topic: "c", message: 1 })).toHaveProperty("id");
    expect(await client.request("publish", { topic: "d", message: 1 })).toMatchObject({ code: "forbidden" });
  });

  test("may be sent as a header too, and without topics has the default ones", async () => {
    const relay = await startRelay(OPTIONS, KEY);
    const token = await sign({ sub: "7" });
    const client = await relay.connect("/ws?format=raw", [], bearer(token));
    await relay.publish({ user_id: 7, topic: "cats", message: "hi" });
    expect(await client.next()).toBe("hi");
    const stream = await openStream(`${relay.http}/stream`, { ...bearer(token), accept: "application/x-ndjson" });
    await relay.publish({ user_id: 7, topic: "cats", message: "you" });
    expect(await stream.next()).toBe('"you"');
  });

  test("opens a stream, which goes on at Last-Event-ID when it is opened again", async () => {
    const relay = await startRelay(OPTIONS, KEY);
    const token = await sign({ sub: "7", topics: ["a"] });
    const url = `${relay.http}/stream?token=${token}&format=json`;
    const stream = await openStream(url);
    await stream.take(2);
    const { id } = await relay.publish({ topic: "a", message: 1 });
    expect(await stream.next()).toContain(`id: ${id}`);
    stream.close();
    await relay.publish({ topic: "a", message: 2 });
    const again = await openStream(url, { "last-event-id": id });
    await again.take(2);
    expect(await again.next()).toContain('"message":2');
  });

  test("that ends closes its connections with 4401 within a second, also when they come back by the client's own URL", async () => {
    const relay = await startRelay(OPTIONS, KEY);
    const exp = soon(2);
    const token = await sign({ sub: "7", topics: ["a"], exp });
    const client = await relay.connect(`/ws?token=${token}&ttl=60`);
    const { data } = await client.json<{ data: { connection_id: string } }>();
    await client.close();
    const back = await relay.connect(`/ws/${data.connection_id}?format=json`);
    await back.next();
    const stream = await openStream(`${relay.http}/stream?token=${token}`);
    expect(await back.json()).toMatchObject({ data: { event: "disconnected", code: 4401, reconnect: false } });
    expect((await back.closed).code).toBe(4401);
    await expect(stream.take(10)).rejects.toThrow("response ended");
    const late = Date.now() - exp * 1000;
    expect([late >= 0, late < 1000]).toEqual([true, true]);
    expect((await refusal(relay.connect(`/ws/${data.connection_id}`))).status).toBe(404);
    expect(await refused(relay, token)).toEqual({ status: 401, detail: "the token has expired" });
  });

  test("for topics that it does not allow is refused with their names", async () => {
    const relay = await startRelay(OPTIONS, KEY);
    const token = await sign({ sub: "7", topics: ["a", "x"], allow: { subscribe: ["a"] } });
    const { status, body } = await refusal(relay.connect(`/ws?token=${token}`));
    expect([status, body]).toEqual([403, expect.stringContaining('\\"x\\"')]);
    expect((await relay.fetch(`/stream?token=${token}`)).status).toBe(403);
  });

  test("is no key, and a key is no token", async () => {
    const relay = await startRelay(OPTIONS, KEY);
    const token = await sign({ sub: "7" });
    for (const path of ["/metrics", "/events/1-0", "/echo"]) {
      expect((await relay.fetch(path, { headers: bearer(token) })).status).toBe(401);
    }
    expect((await relay.fetch(`/stream`, { headers: bearer(KEY) })).status).toBe(401);
    expect((await refused(relay, KEY)).status).toBe(401);
  });

  test("does not count where none are known", async () => {
    for (const options of [{}, { apiKeys: `a:${KEY}` }]) {
      const relay = await startRelay(options);
      const { status, detail } = await refused(relay, await sign({ sub: "7" }));
      expect([status, detail]).toEqual([401, expect.stringContaining("--jwt-secret")]);
    }
  });
});

describe("a token that is not good is 401, and says no more than it must", () => {
  const claims = { sub: "7" };
  const tokens: [string, () => string | Promise<string>, RegExp][] = [
    ["nothing", () => "", /not valid/],
    ["noise", () => "a.b.c", /not valid/],
    ["no signature", () => forge({ alg: "none" }, claims), /not valid/],
    ["alg none, signed", () => forge({ alg: "none" }, claims, SECRET), /not valid/],
    ["alg NONE", () => forge({ alg: "NONE" }, claims), /not valid/],
    ["another secret", () => sign(claims, "f".repeat(32)), /not valid/],
    ["another algorithm", () => forge({ alg: "HS512" }, claims, SECRET), /not valid/],
    ["a header that must be understood", () => forge({ alg: "HS256", crit: ["x"], x: 1 }, claims, SECRET), /not valid/],
    [
      "its own key in the header",
      () => forge({ alg: "HS256", jwk: { kty: "oct", k: "AAAA" } }, claims, "x"),
      /not valid/,
    ],
    ["expired", () => sign({ ...claims, exp: soon(-1) }), /has expired/],
    ["not yet", () => sign({ ...claims, nbf: soon(60) }), /nbf/],
    ["exp that is text", () => forge({ alg: "HS256" }, { ...claims, exp: "never" }, SECRET), /exp/],
    ["no user", () => sign({}), /sub/],
    ["an empty user", () => sign({ sub: "" }), /sub/],
    ["a user too long", () => sign({ sub: "u".repeat(129) }), /sub/],
    ["topics that are none", () => sign({ ...claims, topics: "a" }), /topics/],
    ["reserved topics", () => sign({ ...claims, topics: ["$broadcast"] }), /topics\.0/],
    ["permissions that are none", () => sign({ ...claims, allow: { publish: ["a.>.b"] } }), /allow\.publish\.0/],
    [
      "another user's signature",
      async () => (await sign(claims)).replace(/\.[^.]+\./, `.${btoa('{"sub":"1"}')}.`),
      /not valid/,
    ],
  ];
  test.each(tokens)("%s", async (_, token, detail) => {
    const relay = await startRelay(OPTIONS, KEY);
    const answer = await refused(relay, encodeURIComponent(await token()));
    expect([answer.status, answer.detail]).toEqual([401, expect.stringMatching(detail)]);
  });

  test("two tokens", async () => {
    const relay = await startRelay(OPTIONS, KEY);
    const token = await sign(claims);
    expect((await refusal(relay.connect(`/ws?token=${token}&token=${token}`))).status).toBe(401);
  });

  test("another audience or issuer, when these are set", async () => {
    const relay = await startRelay({ ...OPTIONS, jwtAudience: "relay", jwtIssuer: "https://id.example" }, KEY);
    for (const extra of [{}, { aud: "relay" }, { aud: "other", iss: "https://id.example" }]) {
      expect((await refused(relay, await sign({ ...claims, ...extra }))).status).toBe(401);
    }
    const good = await sign({ ...claims, aud: ["relay", "other"], iss: "https://id.example" });
    await relay.connect(`/ws?token=${good}`);
  });
});

describe("with a JWKS", () => {
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });

  /** A server of keys. @returns its URL; and whether it answers may be changed */
  async function jwks(): Promise<{ url: string; state: { up: boolean; asked: number } }> {
    const state = { up: true, asked: 0 };
    const keys = [
      { ...(await exportJWK(rsa.publicKey)), kid: "rsa" },
      { ...(await exportJWK(ec.publicKey)), kid: "ec" },
    ];
    const server = http.createServer((_request, response) => {
      state.asked++;
      response.writeHead(state.up ? 200 : 500).end(JSON.stringify({ keys }));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => void server.close());
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/jwks.json`, state };
  }

  async function signWith(kid: "rsa" | "ec" | "other"): Promise<string> {
    const [alg, { privateKey }] = kid === "ec" ? (["ES256", ec] as const) : (["RS256", rsa] as const);
    return new SignJWT({ sub: "7" }).setProtectedHeader({ alg, kid }).sign(privateKey);
  }

  test("tokens are verified with the keys that it has", async () => {
    const { url } = await jwks();
    const relay = await startRelay({ apiKeys: `a:${KEY}`, jwksUrl: url }, KEY);
    for (const kid of ["rsa", "ec"] as const) await relay.connect(`/ws?token=${await signWith(kid)}`);
    expect((await refused(relay, await signWith("other"))).status).toBe(401);
  });

  test("key confusion: a public key is no shared secret", async () => {
    const { url } = await jwks();
    const relay = await startRelay({ apiKeys: `a:${KEY}`, jwksUrl: url }, KEY);
    const pem = await exportSPKI(rsa.publicKey);
    const jwk = JSON.stringify(await exportJWK(rsa.publicKey));
    for (const secret of [pem, jwk, SECRET]) {
      for (const kid of ["rsa", undefined]) {
        expect((await refused(relay, forge({ alg: "HS256", kid }, { sub: "7" }, secret))).status).toBe(401);
      }
    }
    expect((await refused(relay, forge({ alg: "none", kid: "rsa" }, { sub: "7" }))).status).toBe(401);
  });

  test("the algorithms are those of the setting", async () => {
    const { url } = await jwks();
    const relay = await startRelay({ apiKeys: `a:${KEY}`, jwksUrl: url, jwtAlgorithms: "ES256" }, KEY);
    await relay.connect(`/ws?token=${await signWith("ec")}`);
    expect((await refused(relay, await signWith("rsa"))).status).toBe(401);
  });

  test("one that does not answer is 503, and is not asked for each stranger", async () => {
    const { url, state } = await jwks();
    const relay = await startRelay({ apiKeys: `a:${KEY}`, jwksUrl: url }, KEY);
    state.up = false;
    const token = await signWith("rsa");
    for (let attempt = 0; attempt < 10; attempt++) expect((await refused(relay, token)).status).toBe(503);
    expect(state.asked).toBeLessThan(10);
    state.up = true;
    const back = async (): Promise<number> =>
      relay.connect(`/ws?token=${token}`).then(
        () => 101,
        ({ status }: { status: number }) => status,
      );
    await expect.poll(back, { timeout: 5000 }).toBe(101);
    const { asked } = state;
    for (let stranger = 0; stranger < 20; stranger++) {
      await refused(relay, forge({ alg: "RS256", kid: randomBytes(4).toString("hex") }, { sub: "7" }, "x"));
    }
    expect(state.asked).toBe(asked);
  });

  test.each([
    [{ jwksUrl: "http://id.example/jwks" }, /http only on this machine/],
    [{ jwksUrl: "file:///etc/passwd" }, /https/],
    [{ jwksUrl: "https://id.example", jwtSecret: SECRET }, /goes instead of/],
    [{ jwksUrl: "https://id.example", jwtAlgorithms: "HS256" }, /must be some of/],
    [{ jwksUrl: "https://id.example", jwtAlgorithms: "none" }, /must be some of/],
  ])("%j stops the start", (settings, message) => expect(() => parseSettings(settings)).toThrow(message));
});

test("topic-relay token makes one for trying", async () => {
  const env = { RELAY_JWT_SECRET: SECRET, RELAY_JWT_AUDIENCE: "relay" };
  const args = ["token", "--user", "bob", "--topics", "a,b", "--subscribe", "a,b", "--expires", "30s"];
  const { stdout, code } = await new RelayProcess(args, env).ended;
  expect(code).toBe(0);
  const relay = await startRelay({ ...OPTIONS, jwtAudience: "relay" }, KEY);
  const client = await relay.connect(`/ws?token=${stdout.trim()}`);
  expect(await client.json()).toMatchObject({ data: { user_id: "bob", topics: ["a", "b"] } });
  for (const [wrong, environment, message] of [
    [["token", "--user", "bob"], {}, /RELAY_JWT_SECRET/],
    [["token"], env, /--user/],
    [["token", "--user", "bob", "--expires", "soon"], env, /--expires/],
  ] as const) {
    const ended = await new RelayProcess([...wrong], environment).ended;
    expect([ended.code, ended.stdout, ended.stderr]).toEqual([1, "", expect.stringMatching(message)]);
    expect(ended.stderr).not.toMatch(/ {4}at /);
  }
});
