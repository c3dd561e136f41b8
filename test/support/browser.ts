import type { Page } from "playwright-core";
import { chromium } from "playwright-core";
import { onTestFinished } from "vitest";
import { systemProgram } from "./system.js";

/** Where Chromium is; undefined: tests in a browser are skipped. */
export const chromiumPath = systemProgram("chromium");

const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-sync",
];

/** A page in a browser of its own, which ends with the test. @param more arguments of the browser */
export async function openPage(url: string, ...more: string[]): Promise<Page> {
  const browser = await chromium.launch({
    executablePath: chromiumPath ?? "",
    args: [...ARGUMENTS, ...more],
  });
  onTestFinished(() => browser.close());
  const page = await browser.newPage();
  await page.goto(url);
  return page;
}
