import type { Subscriptions } from "./history.js";
import { compareIds } from "./id.js";
import type { Log } from "./log.js";
import type { Reader } from "./reader.js";

/** Entries of a client's history from which on the relay looks for those under which nothing is owed. */
const LONG = 64;

/** What clients that are behind are still owed. Where that is nothing, what they were subscribed to need not be kept. */
export class Owed {
  /** Entries under which something was owed when the relay looked: it looks once. */
  private readonly owing = new WeakSet<Subscriptions>();

  constructor(private readonly log: Log) {}

  /** Moves the cursor of a client that is away over stretches of the log that hold nothing for it. */
  async pass(reader: Reader): Promise<void> {
    for (;;) {
      const { cursor } = reader;
      const stretch = reader.stretch(cursor);
      // Where it may have had other topics, it is not known what it was owed.
      if (!stretch.until || (stretch.since && compareIds(cursor, stretch.since) < 0)) return;
      const { position, gap } = await this.log.reach(reader.record, cursor);
      // What is gone was owed: that is to be said.
      if (gap) return;
      const { events, through, asOf } = await this.log.read({ after: position, limit: 1, ...stretch });
      // A read of the tail resolves in the same turn, so give others theirs here.
      await new Promise(setImmediate);
      // Meanwhile the client may have connected, and have gone back.
      if (events.length > 0 || reader.connection || compareIds(reader.cursor, cursor) !== 0) return;
      reader.pass(through, [{ after: cursor, through, ...this.log.readAt(asOf) }]);
    }
  }

  /** @returns the entries of a long history under which nothing is owed */
  async unowed(reader: Reader): Promise<ReadonlySet<Subscriptions>> {
    const { record, user } = reader;
    const { subscriptions } = record;
    const unowed = new Set<Subscriptions>();
    if (subscriptions.length < LONG) return unowed;
    for (const [index, entry] of subscriptions.slice(0, -1).entries()) {
      const { from, topics } = entry;
      if (topics.length === 0 || this.owing.has(entry)) continue;
      const until = subscriptions[index + 1]?.from;
      // Below the floor, nothing is found: what may be lost is to be said.
      const { events, through } = await this.log.read({ after: from, until, topics, user, limit: 1 });
      const isRead = until !== undefined && compareIds(through, until) >= 0 && compareIds(from, this.log.floor) >= 0;
      if (events.length > 0 || !isRead) this.owing.add(entry);
      else unowed.add(entry);
      await new Promise(setImmediate);
    }
    return unowed;
  }
}
