import type { ClientId } from "./client.js";
import type { Connection } from "./connection.js";
import type { Engine, Move } from "./engine.js";
import { compareIds } from "./id.js";
import type { Log } from "./log.js";
import { moveOf, type Reader } from "./reader.js";
import type { Registry } from "./registry.js";
import { withoutTrimmed } from "./sent.js";

/** How often the progress of clients is handed to the engine, in milliseconds. */
const PROGRESS_EVERY = 1000;

/** Hands on to the engine how far clients have confirmed. */
export class Cursors {
  private readonly moved = new Map<ClientId, Move>();
  private readonly timer = setInterval(() => void this.keep(), PROGRESS_EVERY).unref();

  constructor(
    private readonly engine: Pick<Engine, "cursors">,
    private readonly log: Log,
    private readonly registry: Registry,
  ) {}

  /** The reader has confirmed something, or has been sent something that it may confirm when it comes back. */
  note(reader: Reader): void {
    reader.noted = reader.cursor;
    this.registry.prune(reader);
    reader.received = withoutTrimmed(reader.received, this.log.floor);
    this.moved.set(reader.id, moveOf(reader));
  }

  /** A client that is owed nothing goes along with the log, though nobody asks it to confirm that. */
  noteQuiet(connection: Connection): void {
    const { reader } = connection;
    connection.settle();
    if (compareIds(reader.cursor, reader.noted) > 0) this.note(reader);
  }

  /** What was noted of a client is not to be handed on any more. */
  forget(id: ClientId): void {
    this.moved.delete(id);
  }

  /** Hands on what was noted. Never rejects. */
  async keep(): Promise<void> {
    if (this.moved.size === 0) return;
    const moves = [...this.moved.values()];
    this.moved.clear();
    try {
      await this.engine.cursors?.move(moves);
    } catch {
      // The engine has taken it, and writes it with the next commit that succeeds.
    }
  }

  stop(): void {
    clearInterval(this.timer);
  }
}
