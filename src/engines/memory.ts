import { Clock } from "../core/clock.js";
import { ClientTable } from "./local/client-table.js";
import { LocalEngine } from "./local/local-engine.js";
import { MemoryKeys } from "./local/memory-keys.js";
import { NoJournal } from "./local/no-journal.js";
import { Trimmed, trimmedRoom } from "./local/trimmed.js";
import { type Retention, Window } from "./local/window.js";

/** Everything in this process, and gone with it: the reference of what an engine is. */
export class MemoryEngine extends LocalEngine {
  /** @param keyRoom bytes for the idempotency keys of each owner */
  constructor(retention: Retention, keyRoom?: number) {
    // A new process knows nothing of what an earlier one gave out: its log begins now, above the ids before.
    const clock = new Clock(0);
    const origin = { ms: clock.now(), seq: 0 };
    const window = new Window(retention, origin, undefined, new Trimmed(origin, trimmedRoom(retention)));
    const restored = { clock, origin, head: origin, clients: new ClientTable() };
    super("memory", window, restored, new NoJournal(new MemoryKeys(clock, keyRoom), window));
  }
}
