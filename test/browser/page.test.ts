import { once } from "node:events";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { chromiumPath, openPage } from "../support/browser.js";
import { startRelay } from "../support/relay.js";

describe.skipIf(!chromiumPath)("in Chromium", () => {
  test("the page registers, connects, subscribes, publishes and shows what comes", async () => {
    const relay = await startRelay();
    const page = await openPage(relay.http);
    const faults: string[] = [];
    page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
    await page.click("#register button");
    await page.waitForFunction("document.querySelector('#state').textContent === 'connected'");
    await page.fill("#topics", "cats, dogs.*");
    await page.click("#subscribe button");
    await page.getByText('"topics":["cats","dogs.*"]').waitFor();
    await page.fill("#topic", "dogs.big");
    await page.fill("#message", "are <b>loyal</b>");
    await page.click("#publish button");
    await page.getByText("dogs.big: are <b>loyal</b>").waitFor();
    await page.getByText("published: matched 1, sent 1, waiting 0").waitFor();
    await page.fill("#topic", "dogs.*");
    await page.click("#publish button");
    await page.getByText("patterns are for subscribing only").waitFor();
    const shot = process.env["SCREENSHOTS"];
    if (shot !== undefined) await page.screenshot({ path: `${shot}/page.png`, fullPage: true });
    // The refused publication is the one error that the browser itself reports.
    expect(faults.filter((fault) => !fault.includes("400"))).toEqual([]);
  });

  test("with keys the page asks for one, and works with it", async () => {
    const secret = "a-secret-that-nobody-guesses";
    const relay = await startRelay({ apiKeys: `a:${secret}:register+publish` });
    const page = await openPage(relay.http);
    await page.locator("#key").waitFor({ state: "visible" });
    await page.click("#register button");
    await page.getByText("this needs a key").waitFor();
    await page.fill("#key", secret);
    await page.click("#register button");
    await page.waitForFunction("document.querySelector('#state').textContent === 'connected'");
    await page.click("#publish button");
    await page.getByText("cats: are awesome").waitFor();
    const shot = process.env["SCREENSHOTS"];
    if (shot !== undefined) await page.screenshot({ path: `${shot}/page-with-key.png`, fullPage: true });
    const open = await openPage((await startRelay()).http);
    expect(await open.locator("#key").isVisible()).toBe(false);
  });

  test("a page of another site reaches nothing, also by a name of its own that points here", async () => {
    const relay = await startRelay();
    const { url, id } = await relay.register({ user_id: 1 });
    const honest = await relay.connect(url);
    const { port } = new URL(relay.http);
    const site = http.createServer((_request, response) => response.setHeader("content-type", "text/html").end("hi"));
    site.listen(0, "127.0.0.1");
    await once(site, "listening");
    onTestFinished(() => void site.close());
    const evil = `http://evil.example:${(site.address() as AddressInfo).port}`;
    const page = await openPage(evil, "--host-resolver-rules=MAP evil.example 127.0.0.1");
    const attempts = await page.evaluate(
      async ([host, rebound, client]) => {
        const outcome: Record<string, string> = {};
        const headers = { "content-type": "application/json" };
        const attack = { method: "POST", headers, body: '{"topic":"cats","message":"forged"}' };
        for (const at of [host, rebound]) {
          for (const path of ["/ws", `/ws/${client}`]) {
            const socket = new WebSocket(`ws://${at}${path}`);
            outcome[`socket ${at}${path}`] = await new Promise((resolve) => {
              socket.addEventListener("open", () => resolve("open"));
              socket.addEventListener("close", () => resolve("refused"));
            });
          }
          for (const mode of ["cors", "no-cors"] as const) {
            outcome[`publish ${at} ${mode}`] = await fetch(`http://${at}/publish`, { ...attack, mode }).then(
              ({ status, type }) => (status === 200 ? "open" : type),
              () => "refused",
            );
          }
        }
        return outcome;
      },
      [`localhost:${port}`, `evil.example:${port}`, id],
    );
    for (const [attempt, outcome] of Object.entries(attempts)) {
      // What a page may send without asking is opaque to it, and refused here.
      expect([attempt, outcome]).toEqual([attempt, attempt.endsWith("no-cors") ? "opaque" : "refused"]);
    }
    expect(await honest.settled()).toEqual([]);
    const rebound = await page.goto(`http://evil.example:${port}/`);
    expect(rebound?.status()).toBe(403);
  });
});
