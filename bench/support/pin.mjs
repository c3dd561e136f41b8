import { execFileSync } from "node:child_process";

/** Keeps this process, the load, to one core. @returns whether that can be done */
export function pin(core) {
  try {
    execFileSync("taskset", ["-a", "-c", "-p", `${core}`, `${process.pid}`], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}
