import type { ClientId, ClientRecord } from "./client.js";
import { anonymous, numberOf, type UserId } from "./event.js";

/**
 * The user ids of clients that no backend has registered: `$1`, `$2` … No two clients have the same, on whatever relays of
 * the engine.
 */
export class Numbers {
  /** The highest number that this relay knows of. */
  last = 0;
  /** Users that are being registered here, and the client that came first for each, in the order of the log. */
  private readonly first = new Map<UserId, ClientId | undefined>();

  /**
   * Registers a client with the next number.
   * @param elsewhere the highest number that the other relays know of
   * @param giveUp removes a client whose number another relay has taken at the same moment
   */
  async take(
    elsewhere: () => Promise<number>,
    register: (userId: UserId) => Promise<ClientRecord>,
    giveUp: (id: ClientId) => Promise<unknown>,
  ): Promise<ClientRecord> {
    const others = await elsewhere();
    for (;;) {
      this.last = Math.max(this.last, others) + 1;
      const userId = anonymous(this.last);
      this.first.set(userId, undefined);
      try {
        const record = await register(userId);
        if (this.first.get(userId) === record.id) return record;
        await giveUp(record.id);
      } finally {
        this.first.delete(userId);
      }
    }
  }

  /** To be called with each client that is new, has changed or is inherited. */
  note({ id, userId }: Pick<ClientRecord, "id" | "userId">): void {
    const number = numberOf(userId);
    if (number === undefined) return;
    this.last = Math.max(this.last, number);
    if (this.first.has(userId) && this.first.get(userId) === undefined) this.first.set(userId, id);
  }
}
