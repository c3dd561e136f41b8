import { once } from "node:events";
import { readFileSync } from "node:fs";
import http from "node:http";
import type { AddressInfo } from "node:net";
import type { Page } from "playwright-core";
import { describe, expect, onTestFinished, test } from "vitest";
import { secretKey, signToken } from "../../src/trust/tokens.js";
import { chromiumPath, openPage } from "../support/browser.js";
import { temporaryDirectory } from "../support/directory.js";
import { startRelay, type TestRelay } from "../support/relay.js";

const SECRET = "a-secret-that-nobody-guesses";
const JWT_SECRET = "a-secret-of-tokens-with-32-bytes";

/** A reverse proxy: 502 while there is nothing behind it. */
async function startProxy(): Promise<{ http: string; target: string | undefined }> {
  const proxy: { http: string; target: string | undefined } = { http: "", target: undefined };
  const server = http.createServer((request, response) => {
    const fail = (): void => {
      if (response.headersSent) response.destroy();
      else response.writeHead(502).end();
    };
    if (proxy.target === undefined) return fail();
    const { method, headers, url } = request;
    const onward = http.request(proxy.target + (url ?? ""), { method: method ?? "GET", headers, agent: false });
    onward.on("response", (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", fail);
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  proxy.http = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return proxy;
}

/** The code that docs/PROTOCOL.md gives to pages. */
function documented(): string {
  const text = readFileSync(new URL("../../docs/PROTOCOL.md", import.meta.url), "utf8");
  return /```js\n(function listen[^]*?)```/.exec(text)?.[1] ?? "";
}

/** Has the page note what becomes of each EventSource, and what it is told, as a list. */
async function noteStreams(page: Page): Promise<void> {
  await page.evaluate(() => {
    const list = document.createElement("ol");
    document.body.append(list);
    const note = (text: string): void => {
      const item = document.createElement("li");
      item.textContent = text;
      list.append(item);
    };
    const Real = EventSource;
    class Noted extends Real {
      constructor(url: string | URL) {
        super(url);
        const { hash } = new URL(this.url);
        this.addEventListener("open", () => note(`open${hash}`));
        this.addEventListener("restarting", () => note("restarting"));
        this.addEventListener("error", () => note(`error${hash}: readyState ${this.readyState}`));
      }
    }
    Object.assign(window, { EventSource: Noted, note });
  });
}

async function notes(page: Page): Promise<string[]> {
  return page.locator("ol li").allTextContents();
}

describe.skipIf(!chromiumPath)("in Chromium", () => {
  test("a page with the relay's subprotocol sees why its WebSocket is refused; without, it sees 1006", async () => {
    const relay = await startRelay({ apiKeys: `a:${SECRET}`, jwtSecret: JWT_SECRET }, SECRET);
    const removed = await relay.register({ user_id: 1 });
    await relay.send("DELETE", `/register/${removed.id}`);
    const claims = { sub: "7", topics: ["a", "x"], allow: { subscribe: ["a"] } };
    const token = await signToken(secretKey(JWT_SECRET), claims, 60);
    const urls = [`${relay.ws}/ws/${"0".repeat(32)}`, removed.url, `${relay.ws}/ws?token=${token}`, `${relay.ws}/ws`];
    const page = await openPage(relay.http);
    const outcomes = await page.evaluate(async (all: string[]) => {
      const outcome = async (url: string, protocols: string[]): Promise<object> =>
        new Promise((resolve) => {
          const socket = new WebSocket(url, protocols);
          const frames: unknown[] = [];
          // As pages do that subscribe at once.
          socket.addEventListener("open", () => socket.send("ping"));
          socket.addEventListener("message", ({ data }) => frames.push(JSON.parse(String(data))));
          socket.addEventListener("close", ({ code, wasClean }) => resolve({ code, wasClean, frames }));
        });
      return Promise.all(
        all.map(async (url) => ({ with: await outcome(url, ["relay.v1.json"]), without: await outcome(url, []) })),
      );
    }, urls);
    const expected = [4404, 4404, 4403, 4401].map((code) => {
      const data = { event: "disconnected", code, reason: expect.any(String) as string, reconnect: false };
      return {
        with: { code, wasClean: true, frames: [{ type: "notification", data }] },
        without: { code: 1006, wasClean: false, frames: [] },
      };
    });
    expect(outcomes).toEqual(expected);
  });

  test("an EventSource resumes by itself, on the same URL, unless another tab has taken it over", async () => {
    const relay = await startRelay();
    const page = await openPage(relay.http);
    const { stream_url } = await relay.register({ user_id: 1 });
    await noteStreams(page);
    const open = (tab: string): Promise<void> =>
      page.evaluate(
        ([url, name]) => {
          const note = (window as unknown as { note: (text: string) => void }).note;
          new EventSource(`${url}#${name}`).addEventListener("message", ({ data }) => note(`${name}: ${data}`));
        },
        [stream_url, tab] as const,
      );
    await open("one");
    await page.getByText("open#one").waitFor();
    await open("two");
    await page.getByText("error#one: readyState 0").waitFor();
    await relay.publish({ topic: "cats", message: "before" });
    await page.getByText("two: before").waitFor();
    // As a network that is gone. The second tab comes back after 2 seconds; the first one would have come back before.
    relay.app.server.closeAllConnections();
    await page.getByText("error#two: readyState 0").waitFor();
    await relay.publish({ topic: "cats", message: "after" });
    await page.getByText("two: after").waitFor();
    expect((await notes(page)).filter((note) => note.includes("one"))).toEqual(["open#one", "error#one: readyState 0"]);
  });

  test("a page behind a proxy misses nothing when the relay restarts, with the code of the documentation", async () => {
    const dataDir = temporaryDirectory();
    const start = async (): Promise<TestRelay> => startRelay({ engine: "lmdb", dataDir });
    const proxy = await startProxy();
    const relay = await start();
    proxy.target = relay.http;
    const { id } = await relay.register({ user_id: 1 });
    const page = await openPage(proxy.http);
    await noteStreams(page);
    await page.evaluate(`(() => { ${documented()}\n listen("${proxy.http}/stream/${id}", note); })()`);
    await relay.publish({ topic: "cats", message: "one" });
    await page.getByText("one", { exact: true }).waitFor();
    await relay.close();
    proxy.target = undefined;
    await page.getByText("error: readyState 2").waitFor();
    const after = await start();
    await after.publish({ topic: "cats", message: "two" });
    proxy.target = after.http;
    await page.getByText("two", { exact: true }).waitFor();
    await after.publish({ topic: "cats", message: "three" });
    await page.getByText("three", { exact: true }).waitFor();
    const all = await notes(page);
    const ending = ["open", "one", "restarting", "error: readyState 0", "error: readyState 2"];
    expect([all.slice(0, 5), all.slice(-3)]).toEqual([ending, ["open", "two", "three"]]);
    expect(all.slice(5, -3).filter((note) => note !== "error: readyState 2")).toEqual([]);
  });
});
