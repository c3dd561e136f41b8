#!/usr/bin/env node
import { parseArgs, type ParseArgsConfig } from "node:util";
import { makeKey, makeToken } from "./commands.js";
import { flagOf, parseSettings, settingNames, SettingsError, settingsSchema, variableOf } from "./config.js";
import { serve } from "./server.js";

/** Flags that stand alone. */
const SWITCHES = new Set(["trustProxy", "insecureOpen"]);

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`topic-relay: ${explain(error)}\n`);
  process.exitCode = 1;
}

async function main(args: readonly string[]): Promise<void> {
  // What was said on the command line may be secret, and every user of the machine can list that.
  process.title = "topic-relay";
  const [command, ...rest] = args;
  if (command === "keys") return void process.stdout.write(`${makeKey(rest)}\n`);
  if (command === "token") return void process.stdout.write(`${await makeToken(rest, process.env)}\n`);
  return startServer(args);
}

async function startServer(args: readonly string[]): Promise<void> {
  const options: NonNullable<ParseArgsConfig["options"]> = Object.fromEntries(
    settingNames.map((name) => [flagOf(name).slice(2), { type: SWITCHES.has(name) ? "boolean" : "string" } as const]),
  );
  const { values, positionals }: { values: Record<string, unknown>; positionals: string[] } = parseArgs({
    args: [...args],
    options: { ...options, help: { type: "boolean", short: "h" } },
    allowPositionals: true,
  });
  const [command = "serve", ...others] = positionals;
  if (values["help"]) {
    process.stdout.write(help());
    return;
  }
  if (command !== "serve" || others.length > 0) throw new SettingsError(`${positionals.join(" ")}: no such command`);
  warnOfUnknownVariables();
  const sources = new Map<string, string>();
  const given: Record<string, unknown> = {};
  for (const name of settingNames) {
    const fromFlag = values[flagOf(name).slice(2)];
    // An empty variable is as good as none.
    const fromVariable = process.env[variableOf(name)] || undefined;
    const value = fromFlag ?? fromVariable;
    if (value === undefined) continue;
    given[name] = value;
    sources.set(name, fromFlag === undefined ? variableOf(name) : flagOf(name));
  }
  await serve(parseSettings(given, (name) => sources.get(name) ?? flagOf(name)));
}

/** Orchestrators set `RELAY_*` variables of their own, so these do not stop the start. */
function warnOfUnknownVariables(): void {
  const known = new Set(settingNames.map(variableOf));
  for (const name of Object.keys(process.env)) {
    if (name.startsWith("RELAY_") && !known.has(name)) {
      process.stderr.write(`topic-relay: ${name} is not a setting of this version, and has no effect\n`);
    }
  }
}

function help(): string {
  const rows = settingNames.map((name) => {
    const field = settingsSchema.shape[name];
    return `  ${flagOf(name).padEnd(26)}${variableOf(name).padEnd(32)}${field.description ?? ""}\n`;
  });
  return (
    "topic-relay [serve] [flags]\n" +
    "topic-relay keys new [NAME] [--scopes register+publish]    an API key: a line for --api-keys-file\n" +
    "topic-relay token --user USER [--topics A,B] [--subscribe A,B] [--publish A,B] [--expires 1h]\n" +
    "                                                           a token for trying, signed with RELAY_JWT_SECRET\n" +
    `\nFlags, or their environment variables:\n${rows.join("")}`
  );
}

function explain(error: unknown): string {
  if (error instanceof SettingsError) return error.message;
  const { code, message, stack } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE") return `${message}: another process listens there`;
  // What was mistyped, or could not be had from the system, needs no stack; anything else is a defect.
  return code === undefined ? (stack ?? message) : message;
}
