import { type Retention, Window } from "../core/window.js";
import { ClientTable } from "./client-table.js";
import { LocalEngine } from "./local.js";

/** Everything in this process, and gone with it: the reference of what an engine is. */
export class MemoryEngine extends LocalEngine {
  constructor(retention: Retention) {
    // A new process knows nothing of what an earlier one gave out: its log begins now, above the ids before.
    const origin = { ms: Date.now(), seq: 0 };
    super("memory", new Window(retention, origin), { origin, head: origin, clients: new ClientTable(), keys: [] });
  }
}
