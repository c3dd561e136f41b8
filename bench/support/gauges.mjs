// What a process takes from its machine, as Linux counts it in /proc.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

/** Ticks of the CPU time in /proc, which Linux fixes for all programs. */
const TICKS_PER_SECOND = 100;

export class Gauges {
  constructor(pid) {
    this.pid = pid;
  }

  /** Measures from now on. */
  reset() {
    // Linux sets the highest resident memory so far to what it is now.
    writeFileSync(`/proc/${this.pid}/clear_refs`, "5");
    this.before = this.read();
    this.mostFiles = 0;
  }

  /** Looks at what is not counted by Linux itself. @returns resident memory in bytes */
  look() {
    try {
      this.mostFiles = Math.max(this.mostFiles, this.files);
      return this.read().memory;
    } catch (error) {
      // The process has ended, which others are told of by its exit.
      if (error.code === "ENOENT" || error.code === "ESRCH") return 0;
      throw error;
    }
  }

  /** @returns seconds of CPU, seconds `delayed` because others had the core, and bytes: what was added since the reset */
  get taken() {
    const now = this.read();
    return {
      cpu: now.cpu - this.before.cpu,
      delayed: now.delayed - this.before.delayed,
      peak: now.peak - this.before.memory,
      memory: now.memory - this.before.memory,
      written: now.written - this.before.written,
      files: this.mostFiles,
    };
  }

  /** Seconds of CPU so far, of all threads. */
  get cpu() {
    // The name of the process comes before, in brackets, and may have spaces.
    const fields = readFileSync(`/proc/${this.pid}/stat`, "latin1").split(") ").at(-1).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  }

  get files() {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  read() {
    const status = readFileSync(`/proc/${this.pid}/status`, "latin1");
    const io = readFileSync(`/proc/${this.pid}/io`, "latin1");
    const schedule = readFileSync(`/proc/${this.pid}/schedstat`, "latin1").split(" ");
    const kilobytes = (name) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)[1]) * 1024;
    return {
      cpu: this.cpu,
      delayed: Number(schedule[1]) / 1e9,
      memory: kilobytes("VmRSS"),
      peak: kilobytes("VmHWM"),
      written: Number(/^write_bytes: (\d+)/m.exec(io)[1]),
    };
  }
}
