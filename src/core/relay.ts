import { randomUUID } from "node:crypto";
import { Admission, type AdmissionSettings } from "./admission.js";
import { ClientStore } from "./client-store.js";
import { Clients } from "./clients.js";
import { Connections, type ConnectionSettings } from "./connections.js";
import type { Answer, ClientEntry, Delivery, Engine, Entry, EventEntry, Follower, Question } from "./engine.js";
import { type ClientRecord, settled } from "./client.js";
import { compareIds, type EventId, formatId } from "./id.js";
import type { Loading } from "./loading.js";
import { Lifetimes } from "./lifetimes.js";
import { Log } from "./log.js";
import type { Disconnect } from "./notice.js";
import { Others } from "./others.js";
import { Flusher } from "./outbox.js";
import { Publisher, type PublisherSettings } from "./publisher.js";
import { Receipts } from "./receipts.js";
import { Registry } from "./registry.js";

export type RelaySettings = AdmissionSettings & ConnectionSettings & PublisherSettings;

/**
 * The relay: follows the log, and hands each entry to those whom it concerns. Its three sides are `clients` (register),
 * `connections` (connect) and `publisher` (publish).
 */
export class Relay {
  readonly clients: Clients;
  readonly lifetimes: Lifetimes;
  readonly connections: Connections;
  readonly publisher: Publisher;
  private readonly node = randomUUID();
  private readonly log: Log;
  private readonly receipts: Receipts;
  private readonly registry = new Registry(
    () => this.engine.now(),
    (id) => void this.lifetimes.expire(id),
  );
  private readonly others: Others;
  private readonly store: ClientStore;
  private leave: (() => Promise<void>) | undefined;

  private constructor(
    private readonly engine: Engine,
    private readonly settings: RelaySettings,
  ) {
    const { registry, node } = this;
    const others = new Others(engine, node);
    const log = new Log(engine);
    const receipts = new Receipts(log);
    this.log = log;
    this.receipts = receipts;
    this.others = others;
    const flusher = new Flusher();
    const admission = new Admission(registry, settings);
    const { observer } = settings;
    const store = new ClientStore(engine, registry);
    this.store = store;
    this.lifetimes = new Lifetimes(engine, registry, store, observer);
    this.clients = new Clients(node, log, registry, store, this.lifetimes, others, admission, observer);
    this.connections = new Connections(engine, log, registry, this.clients, this.lifetimes, others, flusher, settings);
    this.publisher = new Publisher(engine, receipts, registry, flusher, others, settings);
  }

  /** Joins a relay to the engine. */
  static async start(engine: Engine, settings: RelaySettings, loading?: Loading): Promise<Relay> {
    const relay = new Relay(engine, settings);
    const follower: Follower = {
      node: relay.node,
      begin: (bounds) => relay.log.begin(bounds),
      follow: (entry) => relay.follow(entry),
      trimmed: (floor) => relay.log.trimmed(floor),
      inherit: (clients) => relay.inherit(clients),
      answer: (question) => relay.answer(question),
    };
    try {
      relay.leave = await engine.follow(follower, loading);
    } catch (error) {
      await relay.stop();
      throw error;
    }
    return relay;
  }

  /** Resolves when the engine keeps what it is given. @throws {RelayError} unavailable: it can not */
  async probe(): Promise<void> {
    await this.engine.append([]);
  }

  /** How many connections are open, on all relays of the engine; undefined when that is not known. */
  async countConnections(): Promise<number | undefined> {
    const others = await this.others.ask({ ask: "counts" });
    return others?.reduce((sum, { connections }) => sum + connections, this.registry.connections);
  }

  /** Answers what is under way, ends all connections, and leaves the engine. */
  async stop(): Promise<void> {
    this.publisher.stop();
    await this.connections.stop();
    await this.lifetimes.clocksKept();
    this.registry.stop();
    this.store.stop();
    await this.leave?.();
  }

  private follow(entry: Entry): void {
    const { log } = this;
    const before = log.head;
    log.head = entry.kind === "event" ? entry.event.id : entry.id;
    if (entry.kind === "event") this.deliver(entry, before);
    else if (entry.kind === "client") this.hold(entry);
    else this.drop(entry.client, true);
  }

  private hold({ record, placed }: ClientEntry): void {
    const { registry, node } = this;
    this.clients.note(record);
    // A client that this relay has inherited goes by the name of the relay that it came from until it connects.
    const held = registry.get(record.id)?.kept;
    const isHere = record.node === node || held?.node === record.node;
    if (!isHere) return this.drop(record.id, false);
    // Its clock goes on, of which another relay that changes it may not know yet.
    const expiresAt = record.expiresAt ?? (record.node === node ? undefined : held?.expiresAt);
    const isLate = expiresAt !== record.expiresAt;
    const reader = registry.hold(settled(isLate ? { ...record, expiresAt } : record), placed);
    if (compareIds(reader.cursor, record.cursor) > 0) this.connections.note(reader);
    // The clock was started for a connection before this one.
    if (reader.connection && record.expiresAt !== undefined) void this.clients.stopClock(record.id);
  }

  private inherit(clients: readonly ClientRecord[]): void {
    this.receipts.lose(this.log.head);
    const settledClients = clients.map(settled);
    for (const record of settledClients) this.clients.note(record);
    this.lifetimes.inherit(settledClients);
  }

  /** Lets go of a client: it was removed, or another relay holds it now. */
  private drop(client: string, removed: boolean): void {
    const reader = this.registry.get(client);
    if (!reader) return;
    if (removed) reader.remove();
    else reader.moved = true;
    const why: Disconnect = removed ? this.lifetimes.whyGone(reader.record) : { reason: "replaced" };
    this.registry.release(reader, why);
    this.connections.refuse(client, why);
    this.registry.drop(reader);
  }

  private deliver({ event, replaces }: EventEntry, before: EventId): void {
    const { all, connected } = this.registry.match(event);
    const audience = event.ttl === 0 ? connected : all;
    this.log.note(event, replaces);
    const receipt = this.receipts.add(event, audience);
    for (const reader of connected.clients) {
      if (reader.connection?.deliver(event, before)) receipt.sent++;
    }
    if (replaces) this.receipts.replace(replaces, event.id);
    this.engine.receipts?.note(event.id, audience);
    if (receipt.sent > 0) {
      this.settings.observer.hears("event.delivered")?.({ id: formatId(event.id), count: receipt.sent });
    }
  }

  private async answer(question: Question): Promise<Answer> {
    if (question.ask === "confirmed") await this.publisher.confirmed(question.events, question.until);
    if (question.ask === "progress") await this.connections.tellProgress(question.client);
    return {
      connections: this.registry.connections,
      ...this.clients.counts(question.ask === "counts" ? question.user : undefined),
      deliveries: this.deliveries(question),
    };
  }

  private deliveries(question: Question): Delivery[][] {
    const { receipts, registry } = this;
    if (question.ask === "deliveries") return question.events.map((id) => receipts.deliveriesOf(id));
    if (question.ask !== "states") return [];
    const readers = question.clients.flatMap((id) => registry.get(id) ?? []);
    return [receipts.deliveriesTo(readers, question.event, question.replacedBy)];
  }
}
