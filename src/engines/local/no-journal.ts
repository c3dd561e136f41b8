import type { Query } from "../../core/engine.js";
import type { EventId } from "../../core/id.js";
import type { Journal } from "./journal.js";
import type { KeyStore } from "./keys.js";
import type { Window } from "./window.js";

/** Nothing outlives the process: the log is what is in the window. */
export class NoJournal implements Journal {
  constructor(
    readonly keys: KeyStore,
    private readonly window: Window,
  ) {}

  get floor(): EventId {
    return this.window.floor;
  }

  trimmed(query: Query): boolean {
    return this.window.trimmed(query);
  }

  /** Never asked for: nothing is below the window. */
  async read(): Promise<{ events: []; asOf: EventId }> {
    return { events: [], asOf: this.floor };
  }

  begin(): void {}
  check(): void {}
  addEvent(): void {}
  replace(): void {}
  putClient(): void {}
  moveClient(): void {}
  removeClient(): void {}
  note(): void {}
  trim(): void {}
  async saved(): Promise<void> {}
  async savedClient(): Promise<void> {}
  async probe(): Promise<void> {}
  async close(): Promise<void> {}
  open = (): number => 0;
  hold = (): (() => void) => () => undefined;
  replacedBy = (): undefined => undefined;
  receipt = (): undefined => undefined;
  gone = (): undefined => undefined;
}
