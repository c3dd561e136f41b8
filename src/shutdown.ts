import closeWithGrace from "close-with-grace";
import type { FastifyInstance } from "fastify";

/** Milliseconds in which a process that was told to stop has to be gone. */
const GRACE = 10_000;

/** Signals that people and supervisors stop a process with. */
const STOP = ["SIGINT", "SIGTERM"] as const;

/**
 * Milliseconds within which another such signal counts as the same one. Under `npm start` a Ctrl-C reaches the relay
 * twice: the terminal sends it to npm and to the relay, and npm forwards its own copy to the relay.
 */
const SAME_SIGNAL = 1000;

/**
 * Closes the server when the process is told to stop, or after an error that nothing caught. The process then ends.
 * @param reload a signal that stops the process, unless the server has something to read again on it
 * @returns how to leave the process alone again
 */
export function closeOnSignals(app: FastifyInstance, reload: "SIGHUP" | undefined): () => void {
  const skip = [...STOP, ...(reload ? [reload] : [])];
  const { close, uninstall } = closeWithGrace({ delay: GRACE, logger: app.log, skip }, async ({ signal, err }) => {
    if (err) app.log.error({ err }, "ending after an error");
    else if (signal) app.log.info({ signal }, "ending");
    await app.close();
  });
  let stoppedAt: number | undefined;
  // Not left to close-with-grace: it ends the process at once on the second signal.
  const stop = (signal: NodeJS.Signals): void => {
    const now = performance.now();
    if (stoppedAt === undefined) {
      stoppedAt = now;
      app.log.info({ signal }, "ending");
      close();
    } else if (now - stoppedAt > SAME_SIGNAL) {
      app.log.error({ signal }, "a second signal: ending at once");
      process.exit(1);
    }
  };
  for (const signal of STOP) process.on(signal, stop);
  return () => {
    uninstall();
    for (const signal of STOP) process.off(signal, stop);
  };
}
