import type { ClientId } from "./client.js";
import { Crowd } from "./crowd.js";
import { type Appended, type Delivery, type Engine, type Once, onceName } from "./engine.js";
import { RelayError } from "./errors.js";
import type { EventDraft, EventHead } from "./event.js";
import { compareIds, type EventId, formatId } from "./id.js";
import type { Observer } from "./observer.js";
import type { Others } from "./others.js";
import type { Flusher } from "./outbox.js";
import type { Reader } from "./reader.js";
import type { Receipts } from "./receipts.js";
import type { Registry } from "./registry.js";
import { atIndex, count, duplicates, merge, type PublishReply, repliesOf, replyOf } from "./replies.js";
import { inTurns } from "./turns.js";

/** How long an idempotency key is known, in milliseconds (product section 3). */
const KEY_WINDOW = 600_000;

export interface PublishOptions {
  /** Milliseconds to wait for the confirmation of those in `sent`. */
  readonly wait?: number | undefined;
  readonly once?: Omit<Once, "until"> | undefined;
  /**
   * Ends the wait, as when nobody is there any more to be answered. When requests with the same idempotency key share a
   * wait, it ends when the signals of all of them are aborted.
   */
  readonly signal?: AbortSignal | undefined;
}

/** The first request with an idempotency key. */
interface Pending {
  readonly fingerprint: string;
  /** Those who wait for its confirmations; undefined when it does not wait for any. */
  readonly crowd: Crowd | undefined;
  readonly replies: Promise<PublishReply[]>;
}

export interface PublisherSettings {
  /** Requests that may wait for confirmations at the same time. */
  readonly maxWaits: number;
  readonly observer: Observer;
}

/** The side of the relay that publishers see: append, count, wait, look up. */
export class Publisher {
  /** Requests with an idempotency key that are under way. */
  private readonly pending = new Map<string, Pending>();
  /** How to end each wait for confirmations that is under way. */
  private readonly waits = new Set<() => void>();
  private waiting = 0;
  private stopped = false;

  constructor(
    private readonly engine: Engine,
    private readonly receipts: Receipts,
    private readonly registry: Registry,
    private readonly flusher: Flusher,
    private readonly others: Others,
    private readonly settings: PublisherSettings,
  ) {}

  /**
   * Publishes events, in order; resolves when they are as safe as the engine promises.
   * @throws {RelayError} idempotency_key_reused; unavailable; too_many: others wait already
   */
  async publish(drafts: readonly EventDraft[], options: PublishOptions = {}): Promise<PublishReply[]> {
    if (options.wait === undefined) return this.publishNow(drafts, options);
    const { maxWaits } = this.settings;
    if (this.waiting >= maxWaits) {
      const message = `${maxWaits} requests wait for confirmations already: publish without wait, or try again`;
      throw new RelayError("too_many", message, { limit: "waits" });
    }
    this.waiting++;
    try {
      return await this.publishNow(drafts, options);
    } finally {
      this.waiting--;
    }
  }

  private async publishNow(
    drafts: readonly EventDraft[],
    { once, wait, signal }: PublishOptions,
  ): Promise<PublishReply[]> {
    if (!once) {
      const { ids } = await this.append(drafts);
      return this.replies(ids, wait, signal);
    }
    const name = onceName(once);
    const first = this.pending.get(name);
    if (first?.fingerprint === once.fingerprint) {
      if (wait !== undefined) first.crowd?.add(signal);
      return duplicates(await first.replies);
    }
    const crowd = wait === undefined ? undefined : new Crowd(signal);
    const replies = this.publishOnce(drafts, { ...once, until: this.engine.now() + KEY_WINDOW }, wait, crowd?.gone);
    if (first) return replies;
    this.pending.set(name, { fingerprint: once.fingerprint, crowd, replies });
    try {
      return await replies;
    } finally {
      this.pending.delete(name);
    }
  }

  /**
   * The event's head and what became of it for each client that it matched; undefined where that is not known.
   * @throws {RelayError} not_found; unavailable
   */
  async receipt(id: EventId): Promise<{ event: EventHead; deliveries: Delivery[] | undefined }> {
    const receipt = this.receipts.get(id);
    if (!receipt) return this.keptReceipt(id);
    const others = await this.ask([id]);
    if (!others) throw new RelayError("unavailable", "not all relays have answered");
    // Meanwhile a relay may have gone whose clients it matched: then nobody has answered for them.
    if (!this.receipts.get(id)) return this.keptReceipt(id);
    const deliveries = merge([this.receipts.deliveries(receipt), ...others.map(([theirs]) => theirs ?? [])]);
    const { head, replacedBy } = receipt;
    return { event: head, deliveries: ifKnown(await this.further(deliveries, head, replacedBy)) };
  }

  /** Resolves when the clients here that were sent the events have confirmed them, or at `until` (by the engine's clock). */
  async confirmed(ids: readonly EventId[], until: number, signal?: AbortSignal): Promise<void> {
    // In the order of their ids: who has confirmed the last one that it was sent has confirmed all.
    const sent = new Map<Reader, EventId>();
    await inTurns(ids, (id) => {
      const receipt = this.receipts.get(id);
      for (const reader of receipt?.audience.clients ?? []) {
        if (receipt && reader.connection && this.receipts.state(receipt, reader) === "sent") sent.set(reader, id);
      }
    });
    const last = [...sent].filter(([reader, id]) => !reader.gone && compareIds(id, reader.confirmed) > 0);
    if (last.length === 0 || this.stopped || signal?.aborted) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => end(), until - this.engine.now());
      const left = new Map(last.map(([reader, id]) => [reader, reader.awaitConfirmed(id, () => done(reader))]));
      const done = (reader: Reader): void => {
        left.get(reader)?.();
        if (left.delete(reader) && left.size === 0) end();
      };
      const end = (): void => {
        clearTimeout(timer);
        this.waits.delete(end);
        signal?.removeEventListener("abort", end);
        for (const giveUp of left.values()) giveUp();
        resolve();
      };
      this.waits.add(end);
      signal?.addEventListener("abort", end);
    });
  }

  /** What others answer, as long as somebody waits for it; then undefined. */
  private async unlessLeft<T>(answer: Promise<T | undefined>, signal?: AbortSignal): Promise<T | undefined> {
    let leave = (): void => undefined;
    const left = new Promise<undefined>((resolve) => (leave = () => resolve(undefined)));
    this.waits.add(leave);
    signal?.addEventListener("abort", leave);
    // Without other relays, the answer is there before that.
    if (this.stopped || signal?.aborted) setImmediate(leave);
    try {
      return await Promise.race([answer, left]);
    } finally {
      this.waits.delete(leave);
      signal?.removeEventListener("abort", leave);
    }
  }

  /** Answers all who wait for confirmations with what stands. */
  stop(): void {
    this.stopped = true;
    for (const end of this.waits) end();
  }

  private async append(drafts: readonly EventDraft[], once?: Once): Promise<Appended> {
    const appended = await this.engine.append(drafts, { once });
    const tell = appended.duplicate ? undefined : this.settings.observer.hears("event.published");
    for (const [index, id] of tell ? appended.ids.entries() : []) {
      const { topic, users } = drafts[index] as EventDraft;
      tell?.({ id: formatId(id), topic, users });
    }
    return appended;
  }

  private async publishOnce(
    drafts: readonly EventDraft[],
    once: Once,
    wait: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<PublishReply[]> {
    const { ids, duplicate } = await this.append(drafts, once);
    if (duplicate?.reply) return duplicates(repliesOf(ids, duplicate.reply));
    const replies = await this.replies(ids, wait, signal);
    if (duplicate) return duplicates(replies);
    await this.engine.replies?.settle(once, ids, replies);
    return replies;
  }

  /** Where a client has moved since the event came, the relay that holds it now knows what became of the event. */
  private async further(
    deliveries: Delivery[],
    event: EventHead,
    replacedBy: EventId | undefined,
  ): Promise<Delivery[]> {
    const moved = deliveries.filter(({ state }) => state === "unknown").map(({ client }) => client);
    if (moved.length === 0) return deliveries;
    const answers = (await this.others.ask({ ask: "states", event, replacedBy, clients: moved })) ?? [];
    const here = moved.flatMap((client) => this.registry.get(client) ?? []);
    const known = this.receipts.deliveriesTo(here, event, replacedBy);
    const now = merge([known, ...answers.flatMap((answer) => answer.deliveries)]);
    const states = new Map(now.map((delivery) => [delivery.client, delivery]));
    return deliveries.map((delivery) => states.get(delivery.client) ?? delivery);
  }

  /** Of an event that this relay has forgotten, that was published before it started, or that a relay followed that is gone. */
  private async keptReceipt(id: EventId): Promise<{ event: EventHead; deliveries: Delivery[] | undefined }> {
    const kept = await this.engine.receipts?.find(id);
    const head = kept ? undefined : this.receipts.headOf(id);
    if (head) return { event: head, deliveries: undefined };
    if (!kept) throw new RelayError("not_found", `no receipt for ${formatId(id)}: it is unknown or too old`);
    const others = await this.ask([id]);
    const held = (client: ClientId): Reader | undefined => this.registry.get(client);
    const deliveries = this.receipts.keptDeliveries(kept, held, others?.length === 0);
    const further = deliveries && (await this.further(deliveries, kept.head, kept.replacedBy));
    return { event: kept.head, deliveries: ifKnown(further) };
  }

  /** What the other relays know of the events: for each relay, a list for each event. */
  private async ask(events: readonly EventId[]): Promise<(readonly (readonly Delivery[])[])[] | undefined> {
    const others = await this.others.ask({ ask: "deliveries", events });
    return others?.map(({ deliveries }) => deliveries);
  }

  private async replies(ids: readonly EventId[], wait?: number, signal?: AbortSignal): Promise<PublishReply[]> {
    const until = this.engine.now() + (wait ?? 0);
    // What counts as sent has been written by then; and publishers do not hurry ahead of subscribers.
    await this.flusher.written();
    const elsewhere = await this.ask(ids);
    const receipts = this.receipts.getAll(ids);
    const replies = ids.map((id, index) => replyOf(id, receipts[index], atIndex(elsewhere, index)));
    if (wait === undefined) return replies;
    const [others] = await Promise.all([
      this.unlessLeft(this.others.ask({ ask: "confirmed", events: ids, until }), signal),
      this.confirmed(ids, until, signal),
    ]);
    const now = others && (await this.ask(ids));
    const confirmed: PublishReply[] = [];
    await inTurns(replies.entries(), ([index, reply]) => {
      confirmed.push(this.withConfirmed(reply, ids[index] as EventId, atIndex(now, index)));
    });
    return confirmed;
  }

  private withConfirmed(
    reply: PublishReply,
    id: EventId,
    elsewhere: readonly (readonly Delivery[])[] | undefined,
  ): PublishReply {
    const receipt = this.receipts.get(id);
    if (!receipt || !elsewhere) return reply;
    if (elsewhere.length > 0) {
      const all = ifKnown(merge([this.receipts.deliveries(receipt), ...elsewhere]));
      return all ? { ...reply, confirmed: count(all, "confirmed") } : reply;
    }
    const confirmed = this.receipts.countConfirmed(receipt);
    return confirmed === undefined ? reply : { ...reply, confirmed };
  }
}

/** Where one state is not known, none is said. */
function ifKnown(deliveries: Delivery[] | undefined): Delivery[] | undefined {
  return deliveries?.some(({ state }) => state === "unknown") ? undefined : deliveries;
}
