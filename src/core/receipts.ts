import type { Delivery, DeliveryState } from "./engine.js";
import type { Event } from "./event.js";
import { compareIds, formatId, type EventId } from "./id.js";
import type { Reader } from "./reader.js";

/** How many events, and matched readers of theirs (8 bytes each), are remembered for receipts. */
const MAX_RECEIPTS = 100_000;
const MAX_MATCHED = 4_000_000;

/** Which of this relay's readers one event matched, and the few that it will not reach. */
export interface Receipt {
  readonly event: Event;
  /** Often shared with the receipts of other events: never changed. */
  readonly matched: readonly Reader[];
  /** Readers that were matched and that the event passed by. */
  readonly missed: Set<Reader>;
  /** How many of them took it when it was published. */
  sent: number;
}

/** What became of the newest events. States are not written down: they follow from how far each reader is. */
export class Receipts {
  private readonly byId = new Map<string, Receipt>();
  private matched = 0;
  private newest: Receipt | undefined;

  add(event: Event, matched: readonly Reader[]): Receipt {
    const receipt = { event, matched, missed: new Set<Reader>(), sent: 0 };
    if (this.newest?.matched !== matched) this.matched += matched.length;
    this.newest = receipt;
    this.byId.set(formatId(event.id), receipt);
    this.forgetOldest();
    return receipt;
  }

  get(id: EventId): Receipt | undefined {
    return this.byId.get(formatId(id));
  }

  /** Notes that the event will not reach the reader. */
  miss(id: EventId, reader: Reader): void {
    this.get(id)?.missed.add(reader);
  }

  /** Notes that the event will not reach those who do not have it yet. */
  missRest(id: EventId): void {
    const receipt = this.get(id);
    for (const reader of receipt?.matched ?? []) {
      if (receipt && stateOf(receipt, reader) === "waiting") receipt.missed.add(reader);
    }
  }

  private forgetOldest(): void {
    const receipts = this.byId.entries();
    while (this.byId.size > MAX_RECEIPTS || this.matched > MAX_MATCHED) {
      const oldest = receipts.next().value;
      if (!oldest || this.byId.size === 1) return;
      this.byId.delete(oldest[0]);
      // The list is free once the last receipt that shares it is gone.
      if (this.byId.values().next().value?.matched !== oldest[1].matched) this.matched -= oldest[1].matched.length;
    }
  }
}

export function stateOf({ event, missed }: Receipt, reader: Reader): DeliveryState {
  if (missed.has(reader) || reader.lost(event.id)) return "expired";
  if (compareIds(event.id, reader.confirmed) <= 0) return "confirmed";
  if (reader.connection && compareIds(event.id, reader.connection.position) <= 0) return "sent";
  return reader.gone ? "expired" : "waiting";
}

export function deliveriesOf(receipt: Receipt): Delivery[] {
  return receipt.matched.map((reader) => ({
    client: reader.id,
    userId: reader.userId,
    state: stateOf(receipt, reader),
  }));
}
