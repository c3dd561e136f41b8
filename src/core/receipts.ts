import { Deque } from "./deque.js";
import type { Delivery, DeliveryState } from "./engine.js";
import type { Event } from "./event.js";
import { compareIds, type EventId } from "./id.js";
import type { Reader } from "./reader.js";

/** How many events are remembered for receipts, and how many readers and users (8 bytes each) for all of them. */
const MAX_RECEIPTS = 100_000;
const MAX_READERS = 4_000_000;

/** What is remembered of an event: all but its message. */
export type EventHead = Pick<Event, "id" | "topic" | "users" | "ttl" | "key">;

/** Which of this relay's readers one event matched, and the few that it will not reach. */
export interface Receipt {
  readonly head: EventHead;
  /** Often shared with the receipts of other events: never changed. */
  readonly matched: readonly Reader[];
  /** How many of them took it when it was published. */
  sent: number;
  /** Readers that were matched and that the event passed by. */
  missed?: Set<Reader>;
}

/** What became of the newest events. States are not written down: they follow from how far each reader is. */
export class Receipts {
  private readonly receipts = new Deque<Receipt>();
  private size = 0;

  /** @param floor what the log no longer has: up to this id */
  constructor(private readonly floor: () => EventId) {}

  add({ id, topic, users, ttl, key }: Event, matched: readonly Reader[]): Receipt {
    const newest = this.receipts.at(this.receipts.length - 1);
    const receipt: Receipt = { head: { id, topic, users, ttl, key }, matched, sent: 0 };
    this.size += (newest?.matched === matched ? 0 : matched.length) + (users?.length ?? 0);
    this.receipts.push(receipt);
    this.forgetOldest();
    return receipt;
  }

  get(id: EventId): Receipt | undefined {
    const receipt = this.receipts.at(this.receipts.search(({ head }) => compareIds(head.id, id) >= 0));
    return receipt && compareIds(receipt.head.id, id) === 0 ? receipt : undefined;
  }

  /** Notes that the event will not reach the reader. */
  miss(id: EventId, reader: Reader): void {
    const receipt = this.get(id);
    if (!receipt) return;
    receipt.missed ??= new Set();
    receipt.missed.add(reader);
    this.size++;
    this.forgetOldest();
  }

  /** Notes that the log does not have the event any more: it will not reach those who do not have it yet. */
  unkeep(id: EventId): void {
    const receipt = this.get(id);
    if (!receipt) return;
    for (const reader of receipt.matched) {
      const state = this.state(receipt, reader);
      if (state === "waiting") this.miss(id, reader);
      else if (state === "sent") reader.connection?.unkeep(id);
    }
  }

  state({ head, missed }: Receipt, reader: Reader): DeliveryState {
    const { id, ttl } = head;
    if (missed?.has(reader) || reader.lost(id)) return "expired";
    if (compareIds(id, reader.confirmed) <= 0) return "confirmed";
    if (reader.connection && compareIds(id, reader.connection.position) <= 0) return "sent";
    const tooLate = ttl !== undefined && id.ms + ttl * 1000 <= Date.now();
    return reader.gone || tooLate || compareIds(id, this.floor()) <= 0 ? "expired" : "waiting";
  }

  deliveries(receipt: Receipt): Delivery[] {
    return receipt.matched.map((reader) => ({
      client: reader.id,
      userId: reader.userId,
      state: this.state(receipt, reader),
    }));
  }

  private forgetOldest(): void {
    while (this.receipts.length > MAX_RECEIPTS || (this.size > MAX_READERS && this.receipts.length > 1)) {
      const oldest = this.receipts.shift();
      if (!oldest) return;
      this.size -= (oldest.head.users?.length ?? 0) + (oldest.missed?.size ?? 0);
      // The list is free once the last receipt that shares it is gone.
      if (this.receipts.at(0)?.matched !== oldest.matched) this.size -= oldest.matched.length;
    }
  }
}
