import { readFileSync } from "node:fs";

/** Files that are kept for all else than connections: the relay has about 25 open at all times. */
const RESERVE = 100;

/** How many files the process may have open, sockets included; undefined where the system does not tell (not Linux). */
export function openFilesLimit(): number | undefined {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
    return limit === undefined ? undefined : Number(limit);
  } catch {
    return undefined;
  }
}

/** How many connections fit below a limit on open files. */
export function connectionsWithin(limit: number): number {
  return limit - Math.min(RESERVE, Math.floor(limit / 2));
}
