import { randomUUID } from "node:crypto";
import { Admission, type AdmissionSettings } from "./admission.js";
import { Clients } from "./clients.js";
import { Connections, type ConnectionSettings } from "./connections.js";
import type { Answer, Engine, Entry, EventEntry, Follower, Matched, Question } from "./engine.js";
import type { EventId } from "./id.js";
import type { Loading } from "./loading.js";
import { Log } from "./log.js";
import { REPLACED } from "./notice.js";
import { Flusher } from "./outbox.js";
import { Publisher, type PublisherSettings } from "./publisher.js";
import { Receipts } from "./receipts.js";
import { Registry } from "./registry.js";

/** How often old events are dropped when nothing new pushes them out, in milliseconds. */
const TRIM_EVERY = 1000;

export type RelaySettings = AdmissionSettings & ConnectionSettings & PublisherSettings;

/**
 * The relay: follows the log, and hands each entry to those whom it concerns. Its three sides are `clients` (register),
 * `connections` (connect) and `publisher` (publish).
 */
export class Relay {
  readonly clients: Clients;
  readonly connections: Connections;
  readonly publisher: Publisher;
  private readonly node = randomUUID();
  private readonly log: Log;
  private readonly receipts: Receipts;
  private readonly registry = new Registry(
    () => this.engine.now(),
    (id) => void this.clients.expire(id),
  );
  private readonly timer: NodeJS.Timeout;
  private leave: (() => Promise<void>) | undefined;
  /** The last entry that was followed. */
  private followed: EventId;

  private constructor(
    private readonly engine: Engine,
    settings: RelaySettings,
  ) {
    const { registry, node } = this;
    const log = new Log(engine);
    const receipts = new Receipts(log);
    this.log = log;
    this.receipts = receipts;
    const flusher = new Flusher();
    this.clients = new Clients(engine, log, registry, node, new Admission(registry, settings));
    this.connections = new Connections(engine, log, registry, this.clients, flusher, settings);
    this.publisher = new Publisher(engine, receipts, registry, flusher, node, settings);
    this.followed = engine.head;
    this.timer = setInterval(() => engine.trim(engine.now()), TRIM_EVERY).unref();
  }

  /** Joins a relay to the engine. */
  static async start(engine: Engine, settings: RelaySettings, loading?: Loading): Promise<Relay> {
    const relay = new Relay(engine, settings);
    const follower: Follower = {
      node: relay.node,
      follow: (entry) => relay.follow(entry),
      answer: (question) => relay.answer(question),
    };
    try {
      relay.leave = await engine.join(follower, loading);
    } catch (error) {
      await relay.stop();
      throw error;
    }
    return relay;
  }

  /** Resolves when the engine keeps what it is given. @throws {RelayError} unavailable: it can not */
  probe(): Promise<void> {
    return this.engine.probe();
  }

  /** How many connections are open, on all relays of the engine; undefined when that is not known. */
  async countConnections(): Promise<number | undefined> {
    const others = await this.engine.ask(this.node, { ask: "connections" });
    return others?.reduce((sum, { connections }) => sum + connections, this.registry.connections);
  }

  /** Answers what is under way, ends all connections, and leaves the engine. */
  async stop(): Promise<void> {
    clearInterval(this.timer);
    this.publisher.stop();
    await this.connections.stop();
    this.registry.stop();
    await this.leave?.();
  }

  private follow(entry: Entry): readonly Matched[] {
    const before = this.followed;
    this.followed = entry.kind === "event" ? entry.event.id : entry.id;
    if (entry.kind === "event") return this.deliver(entry, before);
    if (entry.kind === "removed") this.drop(entry.client, true);
    else if (entry.record.node === this.node) this.registry.hold(entry.record);
    else this.drop(entry.record.id, false);
    return [];
  }

  /** Lets go of a client: it was removed, or another relay holds it now. */
  private drop(client: string, removed: boolean): void {
    const reader = this.registry.get(client);
    if (!reader) return;
    if (removed) reader.remove();
    const why = removed ? this.clients.whyGone(reader.record) : REPLACED;
    this.registry.release(reader, why);
    this.connections.refuse(client, why);
    this.registry.drop(reader);
  }

  private deliver({ event, replaces }: EventEntry, before: EventId): readonly Matched[] {
    const { readers, connected } = this.registry.match(event);
    this.log.note(event);
    const receipt = this.receipts.add(event, event.ttl === 0 ? connected : readers);
    for (const reader of connected) {
      if (reader.connection?.deliver(event, before)) receipt.sent++;
    }
    if (replaces) this.receipts.replace(replaces.id, event.id);
    return receipt.matched;
  }

  private async answer(question: Question): Promise<Answer> {
    const { connections } = this.registry;
    if (question.ask === "confirmed") await this.publisher.confirmed(question.events, question.until);
    if (question.ask !== "deliveries") return { connections, deliveries: [] };
    return { connections, deliveries: question.events.map((id) => this.receipts.deliveriesOf(id)) };
  }
}
