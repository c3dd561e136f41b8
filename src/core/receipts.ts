import { Deque } from "./deque.js";
import { type ClientId, isLost } from "./client.js";
import type { Delivery, DeliveryState, KeptClient, KeptReceipt } from "./engine.js";
import { type Event, type EventHead, headOf } from "./event.js";
import { compareIds, type EventId } from "./id.js";
import type { Reader } from "./reader.js";

/** How many events are remembered for receipts, and how many readers and users (8 bytes each) for all of them. */
const MAX_RECEIPTS = 100_000;
const MAX_READERS = 4_000_000;

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

  /**
   * @param floor what the log no longer has: up to this id
   * @param missed told of each kept event that will not reach a reader
   */
  constructor(
    private readonly floor: () => EventId,
    private readonly missed: (id: EventId, client: ClientId) => void,
  ) {}

  add(event: Event, matched: readonly Reader[]): Receipt {
    const newest = this.receipts.at(this.receipts.length - 1);
    const receipt: Receipt = { head: headOf(event), matched, sent: 0 };
    this.size += (newest?.matched === matched ? 0 : matched.length) + (event.users?.length ?? 0);
    this.receipts.push(receipt);
    this.forgetOldest();
    return receipt;
  }

  get(id: EventId): Receipt | undefined {
    return this.getAll([id])[0];
  }

  /** The receipts of several events, in the order of their ids. */
  getAll(ids: readonly EventId[]): (Receipt | undefined)[] {
    const [first] = ids;
    if (!first) return [];
    let index = this.receipts.search(({ head }) => compareIds(head.id, first) >= 0);
    return ids.map((id) => {
      let receipt = this.receipts.at(index);
      while (receipt && compareIds(receipt.head.id, id) < 0) receipt = this.receipts.at(++index);
      return receipt && compareIds(receipt.head.id, id) === 0 ? receipt : undefined;
    });
  }

  /** Notes that the event will not reach the reader. */
  miss(id: EventId, reader: Reader): void {
    const receipt = this.get(id);
    if (receipt?.head.ttl !== 0) this.missed(id, reader.id);
    if (!receipt) return;
    receipt.missed ??= new Set();
    receipt.missed.add(reader);
    this.size++;
    this.forgetOldest();
  }

  /**
   * Notes that the log does not have the event any more: it will not reach those who do not have it yet.
   * @returns false when it is not known here whom it matched
   */
  unkeep(id: EventId): boolean {
    const receipt = this.get(id);
    if (!receipt) return false;
    for (const reader of receipt.matched) if (!receipt.missed?.has(reader)) this.unkeepFor(receipt.head, reader);
    return true;
  }

  /** As `unkeep`, for one of those whom it matched. */
  unkeepFor(head: EventHead, reader: Reader): void {
    const state = this.stateOf(head, reader);
    if (state === "waiting") this.miss(head.id, reader);
    else if (state === "sent") reader.connection?.unkeep(head.id);
  }

  state({ head, missed }: Receipt, reader: Reader): DeliveryState {
    return missed?.has(reader) ? "expired" : this.stateOf(head, reader);
  }

  deliveries(receipt: Receipt): Delivery[] {
    return receipt.matched.map((reader) => deliveryOf(reader, this.state(receipt, reader)));
  }

  /** Of an event that may be unknown. */
  deliveriesOf(id: EventId): Delivery[] {
    const receipt = this.get(id);
    return receipt ? this.deliveries(receipt) : [];
  }

  /**
   * Of an event that only the engine remembers.
   * @param held the reader of a client that this relay holds
   * @returns undefined when it is not known
   */
  keptDeliveries(
    { head, matched, missed, replaced }: KeptReceipt,
    held: (id: ClientId) => Reader | undefined,
  ): Delivery[] | undefined {
    if (!missed) return undefined;
    return matched?.map((client) => {
      const state = missed.has(client.id) ? "expired" : this.stateOf(head, held(client.id) ?? client);
      return deliveryOf(client, replaced && state === "waiting" ? "expired" : state);
    });
  }

  private stateOf(head: EventHead, who: Reader | KeptClient): DeliveryState {
    const { id, ttl } = head;
    if (isLost(who, head)) return "expired";
    if (compareIds(id, who.confirmed) <= 0) return "confirmed";
    const position = "connection" in who ? who.connection?.position : undefined;
    if (position && compareIds(id, position) <= 0) return "sent";
    const tooLate = ttl !== undefined && id.ms + ttl * 1000 <= Date.now();
    return who.gone || tooLate || compareIds(id, this.floor()) <= 0 ? "expired" : "waiting";
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

function deliveryOf({ id, userId }: Reader | KeptClient, state: DeliveryState): Delivery {
  return { client: id, userId, state };
}
