import { spawn } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import { expect, onTestFinished, test } from "vitest";
import type { Receipt, Registered } from "../support/relay.js";
import { RelayProcess } from "../support/process.js";
import { openSocket } from "../support/socket.js";

const ANY_PORT = "127.0.0.1:0";

async function post<T>(url: string, body: object): Promise<T> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return (await response.json()) as T;
}

test("it listens where a flag or a variable says, and the start line says where", async () => {
  const byFlag = await new RelayProcess(["serve", "--listen", ANY_PORT]).address();
  const byVariable = await new RelayProcess([], { RELAY_LISTEN: ANY_PORT }).address();
  expect(byFlag).toMatch(/^http:\/\/127\.0\.0\.1:[1-9]\d*$/);
  for (const address of [byFlag, byVariable]) expect((await fetch(`${address}/health`)).status).toBe(200);
  const taken = await new RelayProcess(["--listen", byFlag.replace("http://", "")]).ended;
  expect([taken.code, taken.stderr]).toEqual([1, expect.stringContaining("another process listens there")]);
});

test.each([
  [["--listen", "somewhere"], {}, /--listen: "somewhere" is not allowed: must be HOST:PORT/],
  [["--listen", "127.0.0.1:99999"], {}, /--listen/],
  [[], { RELAY_CLIENT_TTL: "soon" }, /RELAY_CLIENT_TTL: "soon" is not allowed: must be a duration/],
  [["--max-buffer", "1MB"], {}, /--max-buffer: "1MB" is not allowed: must be a size/],
  [["--retention-count", "many"], {}, /--retention-count/],
  [["--client-ttl", "8d"], {}, /is more than --max-client-ttl/],
  [["--engine", "oracle"], {}, /--engine: "oracle" is not allowed: must be lmdb or memory/],
  [["--default-topics", "a,$b"], {}, /--default-topics/],
  [["--allowed-origins", "app.example.com"], {}, /--allowed-origins/],
  [["--no-such-flag"], {}, /--no-such-flag/],
  [["dance"], {}, /dance: no such command/],
  [["--listen", "0.0.0.0:0"], {}, /--insecure-open/],
] as [string[], Record<string, string>, RegExp][])(
  "%j %j stops the start, and says why",
  async (args, env, message) => {
    const { code, stdout, stderr } = await new RelayProcess(args, { RELAY_LISTEN: ANY_PORT, ...env }).ended;
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/ {4}at /);
  },
);

test("--help lists every setting", async () => {
  const { code, stdout } = await new RelayProcess(["--help"]).ended;
  expect(code).toBe(0);
  for (const name of ["--listen", "RELAY_RETENTION_BYTES", "--ping-interval"]) expect(stdout).toContain(name);
});

test.each(["SIGTERM", "SIGINT"] as const)(
  "%s: clients are told, what is under way is answered, and it ends",
  async (signal) => {
    const relay = new RelayProcess(["--listen", ANY_PORT]);
    const address = await relay.address();
    const { url, stream_url } = await post<Registered>(`${address}/register`, { user_id: 1 });
    const { url: manual } = await post<Registered>(`${address}/register`, { user_id: 1 });
    const json = await openSocket(`${url}?format=json`);
    await json.next();
    const raw = await openSocket(`${manual}?ack=manual`);
    await raw.settled();
    const other = await post<Registered>(`${address}/register`, { user_id: 2 });
    const stream = await fetch(other.stream_url);
    // Never confirmed: only the end of the relay ends the wait.
    const waiting = post<Receipt>(`${address}/publish?wait=30`, { topic: "cats", message: "m" });
    expect([JSON.parse(await json.next()), await raw.next()]).toMatchObject([{ message: "m" }, "m"]);
    const start = Date.now();
    relay.child.kill(signal);
    expect(await waiting).toMatchObject({ matched: 3, confirmed: expect.any(Number) as number });
    const told = await json.json<{ data: { retry_after_ms: number } }>();
    expect(told.data).toMatchObject({ event: "disconnected", code: 1012, reconnect: true });
    expect(told.data.retry_after_ms).toBeGreaterThanOrEqual(0);
    expect([(await json.closed).code, (await raw.closed).code]).toEqual([1012, 1012]);
    expect(await stream.text()).toContain("data: m");
    const { code } = await relay.ended;
    expect(code).toBe(0);
    expect(Date.now() - start).toBeLessThan(8000);
    await expect(fetch(stream_url)).rejects.toThrow("fetch failed");
  },
);

test("clients that do not answer, and requests that do not come to their end, do not keep it from ending", async () => {
  const relay = new RelayProcess(["--listen", ANY_PORT]);
  const address = await relay.address();
  const { url } = await post<Registered>(`${address}/register`, { user_id: 1 });
  const deaf = await openSocket(url);
  deaf.socket.pause();
  const { hostname, port } = new URL(address);
  const head = "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n";
  for (const request of ["", "POST /pub", head, `${head}\r\n{"a`]) {
    const half = net.connect(Number(port), hostname);
    half.on("error", () => undefined);
    await once(half, "connect");
    half.write(request);
  }
  // One request after those, so that they have come.
  await fetch(`${address}/health`);
  relay.child.kill("SIGTERM");
  expect(await relay.ended).toMatchObject({ code: 0, signal: null });
});

test("a client killed in mid-stream gets, on the same URL, every event published in between", async () => {
  const address = await new RelayProcess(["--listen", ANY_PORT]).address();
  const { url } = await post<Registered>(`${address}/register`, { user_id: 1 });
  const program = `
    import { WebSocket } from "ws";
    new WebSocket(process.argv[1]).on("message", (data) => process.stdout.write(data + "\\n"));
  `;
  const run = () => {
    const cwd = new URL("../..", import.meta.url).pathname;
    const child = spawn(process.execPath, ["--input-type=module", "-e", program, url], { cwd });
    onTestFinished(() => void child.kill("SIGKILL"));
    const seen: number[] = [];
    let rest = "";
    child.stdout.on("data", (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split("\n");
      rest = lines.pop() ?? "";
      seen.push(...lines.map(Number));
    });
    return { child, seen };
  };
  const total = 600;
  let published = 0;
  const publish = async (count: number) => {
    for (let n = 0; n < count; n++) await post(`${address}/publish`, { topic: "cats", message: published++ });
  };
  const seen: number[] = [];
  for (let round = 0; round < 3; round++) {
    const client = run();
    while (client.seen.length < 50) await publish(10);
    client.child.kill("SIGKILL");
    await once(client.child, "close");
    // What it got, it got in order and without a hole.
    for (const [index, n] of client.seen.entries()) expect(n).toBe((client.seen[0] ?? 0) + index);
    expect(client.seen[0]).toBeLessThanOrEqual((seen.at(-1) ?? -1) + 1);
    seen.push(...client.seen);
    await publish(30);
  }
  await publish(Math.max(0, total - published));
  const last = run();
  while (last.seen.at(-1) !== published - 1) await once(last.child.stdout, "data");
  seen.push(...last.seen);
  expect(new Set(seen).size).toBe(published);
});
