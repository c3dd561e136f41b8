import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import net, { type AddressInfo } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import { onTestFinished } from "vitest";
import { temporaryDirectory } from "./directory.js";

const page = readFileSync(new URL("../../docs/proxies.md", import.meta.url), "utf8");

/** The configuration that docs/proxies.md has for a proxy. @param language of its code block */
export function documented(language: string): string {
  const text = new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\`$`, "m").exec(page)?.[1];
  if (text === undefined) throw new Error(`docs/proxies.md has no configuration for ${language}`);
  return text;
}

/** nginx with what is in its `http` block. @returns its address */
export async function startNginx(program: string, http: string, relay: string): Promise<string> {
  const folder = temporaryDirectory();
  const port = await freePort();
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((what) => `${what}_temp_path ${folder};`);
  const body = replaceAll(http, { "listen 80;": `listen 127.0.0.1:${port};`, "127.0.0.1:8000": new URL(relay).host });
  const config =
    `daemon off; master_process off; pid ${folder}/pid; error_log stderr;\nevents {}\n` +
    `http {\naccess_log off;\n${temporary.join("\n")}\n${body}}\n`;
  return start([program, "-p", folder, "-e", "stderr", "-c"], `${folder}/nginx.conf`, config, port);
}

/** @returns its address */
export async function startHaproxy(program: string, text: string, relay: string): Promise<string> {
  const port = await freePort();
  const config = replaceAll(text, { "bind :80": `bind 127.0.0.1:${port}`, "127.0.0.1:8000": new URL(relay).host });
  return start([program, "-db", "-f"], `${temporaryDirectory()}/haproxy.cfg`, config, port);
}

/** @throws a text to be replaced is not there */
export function replaceAll(text: string, replacements: Record<string, string>): string {
  let result = text;
  for (const [from, to] of Object.entries(replacements)) {
    if (!result.includes(from)) throw new Error(`there is no ${from} in ${result}`);
    result = result.replaceAll(from, to);
  }
  return result;
}

async function start(
  command: readonly [string, ...string[]],
  file: string,
  config: string,
  port: number,
): Promise<string> {
  writeFileSync(file, config);
  const [program, ...args] = [...command, file] as [string, ...string[]];
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  const ended = once(child, "close");
  onTestFinished(async () => {
    child.kill("SIGTERM");
    await ended;
  });
  await listening(child, port);
  return `http://127.0.0.1:${port}`;
}

/** Neither proxy takes port 0 and says which one it has got. */
async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Tries until somebody listens. Neither proxy says when it does. @throws it ended before */
async function listening(child: ChildProcess, port: number): Promise<void> {
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  for (;;) {
    const socket = net.connect(port, "127.0.0.1");
    const isOpen = await once(socket, "connect").then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (isOpen) return;
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(`the proxy ended: ${said}`);
    await pause(10);
  }
}
