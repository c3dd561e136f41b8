import { Writable } from "node:stream";
import type { FastifyInstance } from "fastify";
import { onTestFinished } from "vitest";
import { parseSettings, type SettingsInput } from "../../src/config.js";
import type { Engine } from "../../src/core/engine.js";
import { createServer } from "../../src/server.js";
import { type Frames, openSocket } from "./socket.js";

export interface Registered {
  url: string;
  stream_url: string;
  id: string;
  user_id: number | string;
  topics: string[];
  expires_in: number;
}

export interface Receipt {
  id: string;
  matched: number;
  sent: number;
  waiting: number;
  confirmed?: number;
  duplicate?: true;
}

/** What tests ask of a relay, wherever it runs. */
export interface RelayAt {
  readonly http: string;
  readonly ws: string;
  fetch(path: string, init?: RequestInit): Promise<Response>;
  send(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Response>;
  register(body: object): Promise<Registered>;
  publish(body: object, query?: string, headers?: Record<string, string>): Promise<Receipt>;
  connect(url: string, protocols?: string[], headers?: Record<string, string>): Promise<Frames>;
}

/** A relay that listens on a port of its own. Ends with the test. */
export interface TestRelay extends RelayAt {
  readonly app: FastifyInstance;
  close(): Promise<void>;
}

/**
 * @param secret of the key that `send`, `register` and `publish` show
 * @param engine absent: one as the options say
 */
export async function startRelay(options: SettingsInput = {}, secret?: string, engine?: Engine): Promise<TestRelay> {
  const settings = parseSettings({ logLevel: "silent", engine: "memory", ...options });
  const { app, startup } = await createServer(settings, engine && { engine });
  const http = await app.listen({ host: "127.0.0.1", port: 0 });
  onTestFinished(() => app.close());
  await startup.loaded;
  return { ...relayAt(http, secret), app, close: () => app.close() };
}

/** @param secret as of `startRelay` */
export function relayAt(http: string, secret?: string): RelayAt {
  const shown = secret === undefined ? {} : bearer(secret);
  const relay: RelayAt = {
    http,
    ws: http.replace("http", "ws"),
    fetch: (path, init) => fetch(http + path, init),
    send: (method, path, body, headers) =>
      fetch(http + path, {
        method,
        headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...shown, ...headers },
        ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      }),
    register: async (body) => {
      const response = await relay.send("POST", "/register", body);
      if (response.status !== 200) throw new Error(await response.text());
      return (await response.json()) as Registered;
    },
    publish: async (body, query = "", headers = {}) => {
      const response = await relay.send("POST", `/publish${query}`, body, headers);
      if (response.status !== 200) throw new Error(await response.text());
      return (await response.json()) as Receipt;
    },
    connect: (url, protocols, headers) => openSocket(url.startsWith("/") ? relay.ws + url : url, protocols, headers),
  };
  return relay;
}

/** A relay with its log lines. Ends with the test. */
export async function startLoggedRelay() {
  const lines: Record<string, unknown>[] = [];
  const logTo = new Writable({
    write: (line, _encoding, done) => {
      lines.push(JSON.parse(String(line)) as Record<string, unknown>);
      done();
    },
  });
  const settings = parseSettings({ engine: "memory", logLevel: "info" });
  const { app, startup } = await createServer(settings, { logTo });
  onTestFinished(() => app.close());
  const ws = (await app.listen({ host: "127.0.0.1", port: 0 })).replace("http", "ws");
  await startup.loaded;
  return { lines, relay: startup.relay, ws };
}

export function bearer(secret: string): Record<string, string> {
  return { authorization: `Bearer ${secret}` };
}

/** What a counter of limits stands at. @param secret of a key for `admin` */
export async function limited(relay: TestRelay, limit: string, secret?: string): Promise<number> {
  const response = await relay.send("GET", "/metrics", undefined, secret === undefined ? {} : bearer(secret));
  const line = (await response.text())
    .split("\n")
    .find((text) => text.startsWith(`relay_limited_total{limit="${limit}"}`));
  return Number(line?.split(" ")[1]);
}
