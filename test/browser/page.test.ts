import type { Page } from "playwright-core";
import { chromium } from "playwright-core";
import { describe, expect, onTestFinished, test } from "vitest";
import { startRelay } from "../support/relay.js";
import { systemProgram } from "../support/system.js";

const executablePath = systemProgram("chromium");

async function openPage(url: string): Promise<Page> {
  const browser = await chromium.launch({
    executablePath: executablePath ?? "",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"],
  });
  onTestFinished(() => browser.close());
  const page = await browser.newPage();
  await page.goto(url);
  return page;
}

describe.skipIf(!executablePath)("in Chromium", () => {
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

  test("an EventSource resumes by itself, on the same URL", async () => {
    const relay = await startRelay();
    const page = await openPage(relay.http);
    const { stream_url } = await relay.register({ user_id: 1 });
    await page.evaluate((url: string) => {
      const list = document.createElement("ol");
      document.body.append(list);
      new EventSource(url).addEventListener("message", ({ data }) => {
        const item = document.createElement("li");
        item.textContent = String(data);
        list.append(item);
      });
    }, stream_url);
    await relay.publish({ topic: "cats", message: "one" });
    await page.locator("ol li").nth(0).waitFor();
    // A newer stream takes the place of the browser's, which comes back after its retry time.
    const other = await fetch(`${stream_url}?since=now`);
    await other.body?.cancel();
    await relay.publish({ topic: "cats", message: "two" });
    await page.locator("ol li").nth(1).waitFor();
    expect(await page.locator("ol li").allTextContents()).toEqual(["one", "two"]);
  });
});
