import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseSettings, type SettingsInput } from "../../../src/config.js";
import type { ClientRecord } from "../../../src/core/client.js";
import type { Engine } from "../../../src/core/engine.js";
import { createServer } from "../../../src/server.js";
import { RelayProcess } from "../../support/process.js";
import { type RelayAt, relayAt } from "../../support/relay.js";
import { type Hosted, serveLog } from "../remote/log.js";

/** One of several relays on a log. */
export interface SharedRelay extends RelayAt {
  /** Ends it in order. */
  end(): Promise<void>;
  /** Ends it at once; absent: it can not be ended so. */
  kill?(): Promise<void>;
}

/** A log, and the relays on it. */
export interface Site {
  start(settings?: SettingsInput): Promise<SharedRelay>;
  /** The clients of a user, as the log has them. */
  clientsOf(user: string): Promise<readonly ClientRecord[]>;
  /** How many clients of a user the relays hold. */
  held(user: string): Promise<number>;
  /** Ends all that was started. */
  close(): Promise<void>;
}

/** What tests ask of the log behind the relays' backs. */
function questions(engine: Engine): Pick<Site, "clientsOf" | "held"> {
  return {
    clientsOf: (user) => engine.find({ user }),
    held: async (user) => {
      // A relay that is just ending may not answer.
      const asked = engine.peers?.ask("", { ask: "counts", user }).catch(() => []);
      const answers = (await asked) ?? [];
      return answers.reduce((sum, { ofUser }) => sum + ofUser, 0);
    },
  };
}

/** Relays in this process, on one engine. */
export function sameProcess(engine: Engine): Site {
  const started = new Set<() => Promise<void>>();
  return {
    start: async (options) => {
      const settings = parseSettings({ logLevel: "silent", engine: "memory", ...options });
      const { app, startup } = await createServer(settings, { engine });
      const end = (): Promise<void> => app.close();
      started.add(end);
      const http = await app.listen({ host: "127.0.0.1", port: 0 });
      await startup.loaded;
      return { ...relayAt(http), end };
    },
    ...questions(engine),
    close: async () => {
      await Promise.all([...started].map((end) => end()));
      await engine.close();
    },
  };
}

/** Relays in processes of their own; the log is in this one. */
export async function ownProcesses(engine: Hosted): Promise<Site> {
  const directory = mkdtempSync(join(tmpdir(), "topic-relay-"));
  const path = join(directory, "log");
  const endLog = await serveLog(engine, path);
  const started = new Set<() => Promise<void>>();
  return {
    start: async (settings = {}) => {
      const args = [path, JSON.stringify(settings)];
      const relay = new RelayProcess(args, {}, [process.execPath, PROGRAM], (end) => started.add(end));
      const end = async (signal: NodeJS.Signals): Promise<void> => {
        relay.signalGroup(signal);
        await relay.ended;
      };
      return { ...relayAt(await relay.address()), end: () => end("SIGTERM"), kill: () => end("SIGKILL") };
    },
    ...questions(engine),
    close: async () => {
      await Promise.all([...started].map((end) => end()));
      await endLog();
      await engine.close();
      rmSync(directory, { recursive: true });
    },
  };
}

const REMOTE = fileURLToPath(new URL("../remote/", import.meta.url));
const PROGRAM = join(REMOTE, "dist/relay.js");

/** Compiles what `ownProcesses` starts, with the types of the package as it is built. */
export function compileRelay(): void {
  const tsc = fileURLToPath(new URL("../../../node_modules/typescript/bin/tsc", import.meta.url));
  const { status, stdout } = spawnSync(process.execPath, [tsc, "-p", REMOTE], { encoding: "utf8" });
  if (status !== 0) throw new Error(stdout);
}
