import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { CLOSE, disconnected, NO_CLOSE_FRAME, REFUSED_HANDSHAKES } from "../../src/protocol.js";

const SRC = new URL("../../src/", import.meta.url);

/** Close codes as numbers: registered ones but 1000, which is what durations are made of, and the relay's own. */
const CODE = /(?<![\d_.])(?:100[1-9]|101[0-5]|4000|44\d\d)(?![\d_])/g;

const closings = Object.values(CLOSE);

function codesIn(path: string): number[] {
  return [...readFileSync(new URL(path, SRC), "utf8").matchAll(CODE)].map(([code]) => Number(code));
}

test("numbers of close codes stand in protocol.ts alone: all of them there, and none elsewhere in the sources", () => {
  const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".ts"));
  expect(files).toContain("routes/session.ts");
  const elsewhere = files.filter((path) => path !== "protocol.ts" && codesIn(path).length > 0);
  expect(elsewhere).toEqual([]);
  expect(new Set(codesIn("protocol.ts"))).toEqual(new Set([NO_CLOSE_FRAME, ...closings.map(({ code }) => code)]));
});

/** The rows of the table of close codes in docs/PROTOCOL.md. */
function documented(): { code: number; reconnect: string }[] {
  const text = readFileSync(new URL("../docs/PROTOCOL.md", SRC), "utf8");
  const table = text.split("WebSocket close codes:\n\n")[1]?.split("\n\n")[0] ?? "";
  return table
    .split("\n")
    .slice(2)
    .flatMap((row) => {
      const [, codes = "", , reconnect = ""] = row.split("|").map((cell) => cell.trim());
      return codes.split(",").map((code) => ({ code: Number(code), reconnect }));
    });
}

/** What a row says of reconnecting. Where it depends on the reason, the row names the field that tells. */
function saidOf(reconnect: string): Set<boolean> {
  if (reconnect.endsWith("`reconnect` tells")) return new Set([false, true]);
  return new Set([reconnect.startsWith("yes")]);
}

test("the table of close codes in docs/PROTOCOL.md is that of protocol.ts", () => {
  const rows = documented();
  expect(new Set(rows.map(({ code }) => code))).toEqual(new Set(closings.map(({ code }) => code)));
  for (const { code, reconnect } of rows) {
    const known = closings.filter((closing) => closing.code === code).map((closing) => closing.reconnect);
    expect([code, new Set(known)]).toEqual([code, saidOf(reconnect)]);
  }
});

test("a handshake is refused with the close code that its HTTP status stands for, and for good", () => {
  for (const [status, reason] of Object.entries(REFUSED_HANDSHAKES)) {
    expect([reason, CLOSE[reason].code % 1000, CLOSE[reason].reconnect]).toEqual([
      reason,
      400 + (Number(status) % 100),
      false,
    ]);
  }
});

test("a client is told its own time to come back, else that of the reason, else none", () => {
  const own = disconnected({ reason: "restarting", retryAfter: 250 });
  expect([own.reason, own.retry_after_ms]).toEqual(["restarting, retry after 250 ms", 250]);
  expect(disconnected({ reason: "failed" }).retry_after_ms).toBe(CLOSE.failed.retryAfter);
  expect(disconnected({ reason: "removed", detail: "no such client" })).toEqual({
    event: "disconnected",
    code: CLOSE.removed.code,
    reason: "no such client",
    reconnect: false,
  });
});
