// Preloaded into a relay's process (`node --import`): measures the turns of its event loop, and answers over IPC.
import { monitorEventLoopDelay, performance } from "node:perf_hooks";

/** Milliseconds between two firings of the histogram's timer when nothing delays it. */
const RESOLUTION = 1;

const delays = monitorEventLoopDelay({ resolution: RESOLUTION });
delays.enable();
let cpu = process.cpuUsage();

function state() {
  const { user, system } = process.cpuUsage(cpu);
  return {
    longest: delays.count === 0 ? 0 : Math.max(0, delays.max / 1e6 - RESOLUTION),
    cpu: (user + system) / 1000,
    active: performance.eventLoopUtilization().active,
    now: performance.now(),
  };
}

process.on("message", ({ ask, milliseconds }) => {
  if (ask === "block") for (const end = performance.now() + milliseconds; performance.now() < end;);
  if (ask === "reset") {
    delays.reset();
    cpu = process.cpuUsage();
  }
  // The histogram does not record the first turn after a reset: that turn has to be over before a case begins.
  if (ask === "reset") setTimeout(() => process.send(state()), 10 * RESOLUTION);
  else process.send(state());
});
// The channel must not keep the process alive.
process.channel.unref();
