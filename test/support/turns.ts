/** A fixed piece of work: some milliseconds. */
function work(): void {
  const numbers = new Map<string, number>();
  for (let index = 0; index < 30_000; index++) numbers.set(`number ${index}`, index);
  let sum = 0;
  for (const [name, value] of numbers) sum += name.length * value;
  if (sum === 0) throw new Error("there is something to sum up");
}

/** Milliseconds of CPU time that this process has taken: others on the same machine do not count. */
function cpuTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

function timeOf(action: () => void): number {
  const start = cpuTime();
  action();
  return cpuTime() - start;
}

/** What the work takes here and now. */
function calibrate(): number {
  return Math.min(...Array.from({ length: 5 }, () => timeOf(work)));
}

/** CPU time of the longest turn of the event loop while an action runs. */
async function longest(action: () => Promise<unknown>): Promise<number> {
  let [last, most, isRunning] = [cpuTime(), 0, true];
  const look = (): void => {
    const now = cpuTime();
    most = Math.max(most, now - last);
    last = now;
    if (isRunning) setImmediate(look);
  };
  await new Promise(setImmediate);
  look();
  await action();
  // What the action still did in its last turn counts too.
  await new Promise(setImmediate);
  isRunning = false;
  look();
  return most;
}

/**
 * The longest turn of the event loop while an action runs: its CPU time, in units of a fixed piece of work that is measured
 * just before, so that it says the same on a slow or a busy machine. Of several rounds the best one counts.
 */
export async function longestTurn(action: () => Promise<unknown>, rounds = 3): Promise<number> {
  let best = Infinity;
  for (let round = 0; round < rounds; round++) {
    const unit = calibrate();
    const most = await longest(action);
    best = Math.min(best, most / unit);
  }
  return best;
}

/** Waits until something holds that no event tells of. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise(setImmediate);
}
