// A relay whose turns are measured.
import { setTimeout as sleep } from "node:timers/promises";
import { Target } from "../support/target.mjs";

const probe = new URL("../support/probe.mjs", import.meta.url).href;

/** Milliseconds between two looks at the relay, and how many quiet looks in a row end a case. */
const LOOK_EVERY = 50;
const QUIET_LOOKS = 4;

/** The share of time in which a quiet event loop may do something: the probe itself wakes it 1,000 times a second. */
const QUIET = 0.15;

export class Subject extends Target {
  answers = [];

  static async start(flags, { nodeArgs = [], ...options }) {
    const subject = await super.start(flags, { ...options, nodeArgs: ["--import", probe, ...nodeArgs], ipc: true });
    subject.relay.child.on("message", (state) => subject.answers.shift()?.(state));
    return subject;
  }

  /** Asks the probe. */
  ask(ask, milliseconds) {
    this.relay.child.send({ ask, milliseconds });
    return new Promise((resolve) => this.answers.push(resolve));
  }

  /**
   * Acts, and waits until the event loop is quiet again.
   * @param cut milliseconds after which it waits no more
   * @returns the longest turn and the CPU time in milliseconds, and whether it was cut off
   */
  async measure(act, cut) {
    await this.watch(() => true, cut);
    await this.ask("reset");
    let acted = false;
    let fault;
    act().then(
      () => (acted = true),
      (error) => (fault = error),
    );
    return this.watch(() => {
      if (fault) throw fault;
      return acted;
    }, cut);
  }

  async watch(isOver, cut) {
    const end = performance.now() + cut;
    let heard = performance.now();
    let before;
    let known = { longest: 0, cpu: 0 };
    for (let quiet = 0; quiet < QUIET_LOOKS;) {
      const state = await Promise.race([
        this.ask("read"),
        sleep(Math.max(0, end - performance.now()), undefined, { ref: false }),
      ]);
      const now = performance.now();
      // The turn that is under way is at least as long as it has kept the probe from answering.
      if (!state || now >= end) {
        return { ...known, longest: Math.max(state?.longest ?? known.longest, now - heard), cutOff: true };
      }
      const isQuiet = before && (state.active - before.active) / (state.now - before.now) < QUIET;
      quiet = isOver() && isQuiet ? quiet + 1 : 0;
      [heard, before, known] = [now, state, state];
      await sleep(LOOK_EVERY);
    }
    return { ...known, cutOff: false };
  }
}
