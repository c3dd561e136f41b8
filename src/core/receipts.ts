import type { Audience } from "./audience.js";
import { Deque } from "./deque.js";
import { type ClientId, isOwed } from "./client.js";
import type { Delivery, DeliveryState, KeptClient, KeptReceipt } from "./engine.js";
import { type Event, type EventHead, expiryOf, headOf } from "./event.js";
import { compareIds, earlierOf, type EventId, ZERO } from "./id.js";
import type { Log } from "./log.js";
import { type Drop, isDroppedAt } from "./moment.js";
import { takenAt } from "./narrowing.js";
import type { Reader } from "./reader.js";
import { isSent } from "./sent.js";

/** How many events are remembered for receipts, and how many readers and users (8 bytes each) for all of them. */
const MAX_RECEIPTS = 100_000;
const MAX_READERS = 4_000_000;

/** Which of this relay's readers one event matched. */
export interface Receipt {
  readonly head: EventHead;
  readonly audience: Audience;
  /** How many of them took it when it was published. */
  sent: number;
  /** The event that has taken its place. */
  replacedBy?: EventId;
}

/** What became of the newest events. States are not written down: they follow from how far each reader is. */
export class Receipts {
  private readonly receipts = new Deque<Receipt>();
  private size = 0;
  /** Whom relays matched up to here that are gone, nobody knows any more. */
  private partial: EventId = ZERO;

  constructor(private readonly log: Log) {}

  add(event: Event, audience: Audience): Receipt {
    const newest = this.receipts.at(this.receipts.length - 1);
    const receipt: Receipt = { head: headOf(event), audience, sent: 0 };
    this.size += (newest?.audience === audience ? 0 : audience.clients.length) + (event.users?.length ?? 0);
    this.receipts.push(receipt);
    this.forgetOldest();
    return receipt;
  }

  /** To be called when another relay is gone. @param head the last id that it may have followed */
  lose(head: EventId): void {
    this.partial = head;
  }

  /** What this relay remembers of the event itself. */
  headOf(id: EventId): EventHead | undefined {
    return this.own(id)?.head;
  }

  /** Undefined: whom the event matched is not known, or not any more. */
  get(id: EventId): Receipt | undefined {
    return this.getAll([id])[0];
  }

  /** The receipts of several events, in the order of their ids. */
  getAll(ids: readonly EventId[]): (Receipt | undefined)[] {
    const known = this.ownOf(ids);
    return known.map((receipt) => (receipt && compareIds(receipt.head.id, this.partial) > 0 ? receipt : undefined));
  }

  private own(id: EventId): Receipt | undefined {
    return this.ownOf([id])[0];
  }

  private ownOf(ids: readonly EventId[]): (Receipt | undefined)[] {
    const [first] = ids;
    if (!first) return [];
    let index = this.receipts.search(({ head }) => compareIds(head.id, first) >= 0);
    return ids.map((id) => {
      let receipt = this.receipts.at(index);
      while (receipt && compareIds(receipt.head.id, id) < 0) receipt = this.receipts.at(++index);
      return receipt && compareIds(receipt.head.id, id) === 0 ? receipt : undefined;
    });
  }

  /** Notes that a later event has taken the place of another one. */
  replace(id: EventId, by: EventId): void {
    const receipt = this.own(id);
    if (receipt) receipt.replacedBy = by;
  }

  state({ head, replacedBy }: Receipt, reader: Reader): DeliveryState {
    return this.stateOf(head, replacedBy, reader);
  }

  deliveries(receipt: Receipt): Delivery[] {
    return receipt.audience.clients.map((reader) => deliveryOf(reader, this.state(receipt, reader)));
  }

  /** How many clients have confirmed the event; undefined when that is not known. */
  countConfirmed(receipt: Receipt): number | undefined {
    let confirmed = 0;
    for (const reader of receipt.audience.clients) {
      const state = this.state(receipt, reader);
      if (state === "unknown") return undefined;
      if (state === "confirmed") confirmed++;
    }
    return confirmed;
  }

  /** To this relay's clients; of an event that may be unknown. */
  deliveriesOf(id: EventId): Delivery[] {
    const receipt = this.own(id);
    return receipt ? this.deliveries(receipt) : [];
  }

  /**
   * Of an event that only the engine remembers.
   * @param held the reader of a client that this relay holds
   * @param isAlone no other relay shares the engine
   * @returns undefined when it is not known
   */
  keptDeliveries(
    { head, matched, replacedBy }: KeptReceipt,
    held: (id: ClientId) => Reader | undefined,
    isAlone: boolean,
  ): Delivery[] | undefined {
    return matched?.map((client) => {
      const reader = held(client.id);
      const state = this.stateOf(head, replacedBy, reader ?? client);
      // A relay that holds the client knows more than the engine.
      const isSure = reader !== undefined || isAlone || !client.place || state === "confirmed";
      return deliveryOf(client, isSure ? state : "unknown");
    });
  }

  /** Of an event that this relay may not have matched with the clients. */
  deliveriesTo(readers: readonly Reader[], head: EventHead, replacedBy: EventId | undefined): Delivery[] {
    return readers.map((reader) => deliveryOf(reader, this.stateOf(head, replacedBy, reader)));
  }

  /** What became of an event for a client that it matched: it follows from what the client was sent, and when. */
  stateOf(head: EventHead, replacedBy: EventId | undefined, who: Reader | KeptClient): DeliveryState {
    const { log } = this;
    const { id } = head;
    const drop = dropOf(head, replacedBy, who);
    const isReceived = isSent(who.received, id, drop);
    if (isReceived) return "confirmed";
    if ("moved" in who && who.moved) return "unknown";
    const isUnderWay = "connection" in who && who.connection ? isSent(who.connection.sent, id, drop) : false;
    if (isUnderWay !== false) return isUnderWay ? "sent" : "unknown";
    const isDropped = compareIds(id, log.floor) <= 0 || isDroppedAt(drop, log.moment);
    if (!isDropped && who.place && isOwed(who.place, head)) return "waiting";
    return isReceived === false ? "expired" : "unknown";
  }

  private forgetOldest(): void {
    while (this.receipts.length > MAX_RECEIPTS || (this.size > MAX_READERS && this.receipts.length > 1)) {
      const oldest = this.receipts.shift();
      if (!oldest) return;
      this.size -= oldest.head.users?.length ?? 0;
      // An audience is free once the last receipt that shares it is gone.
      if (this.receipts.at(0)?.audience !== oldest.audience) this.size -= oldest.audience.clients.length;
    }
  }
}

/** What drops an event for a client. One of `ttl` 0 is dropped as soon as it is published. */
function dropOf(head: EventHead, replacedBy: EventId | undefined, { narrowed }: Pick<KeptClient, "narrowed">): Drop {
  if (head.ttl === 0) return { by: head.id };
  const taken = narrowed.length > 0 ? takenAt(narrowed, head) : undefined;
  return { by: taken && replacedBy ? earlierOf(taken, replacedBy) : (taken ?? replacedBy), at: expiryOf(head) };
}

function deliveryOf({ id, userId }: Reader | KeptClient, state: DeliveryState): Delivery {
  return { client: id, userId, state };
}
