import { Backlog } from "./backlog.js";
import { type ClientId, type ClientRecord, lostEnd, withPosition } from "./client.js";
import type { Clients } from "./clients.js";
import { Connection, type Shared } from "./connection.js";
import { Cursors } from "./cursors.js";
import type { Encoder } from "./encoder.js";
import type { Engine } from "./engine.js";
import { compareIds, type EventId, laterOf } from "./id.js";
import type { Lifetimes } from "./lifetimes.js";
import type { Log, Reach, Since } from "./log.js";
import type { Disconnect } from "./notice.js";
import type { Others } from "./others.js";
import type { Flusher, Sink } from "./outbox.js";
import type { Reader } from "./reader.js";
import type { Registry } from "./registry.js";
import { refuse } from "./refuse.js";
import { Replacements, type ReplacementSettings } from "./replacements.js";
import { Wheel } from "./wheel.js";

export interface ConnectionSettings extends ReplacementSettings {
  /** Bytes that may wait for one connection, and for all together. */
  readonly maxBuffer: number;
  readonly totalBuffer: number;
  /** Milliseconds between signs of life on a connection. */
  readonly pingInterval: number;
  /** Events that one connection may get over again. */
  readonly maxReplay: number;
}

/** Shutting down spreads the reconnects: this many clients are to come back in each second, over a second at least. */
const RECONNECTS_PER_SECOND = 2000;

export interface OpenOptions {
  /** Where to go on; absent: at the client's cursor. */
  readonly since?: Since | undefined;
  /** Only `ack` moves the cursor. */
  readonly manualAck?: boolean | undefined;
  /** The client has been told of a gap that `preview` found. */
  readonly gapSaid?: boolean | undefined;
  /**
   * Called with true when the sink has to wait before it takes over from another connection, and with false after that.
   */
  readonly waiting?: ((waits: boolean) => void) | undefined;
}

/** The side of the relay that clients connect to. */
export class Connections {
  private readonly shared: Shared;
  private readonly backlog: Backlog;
  private readonly cursors: Cursors;
  /** Connections that are being opened, by client. */
  private readonly opening = new Map<ClientId, Promise<Connection | undefined>>();
  private readonly replacements: Replacements;
  private stopped = false;

  constructor(
    private readonly engine: Engine,
    private readonly log: Log,
    private readonly registry: Registry,
    private readonly clients: Clients,
    private readonly lifetimes: Lifetimes,
    private readonly others: Others,
    flusher: Flusher,
    private readonly settings: ConnectionSettings,
  ) {
    const { maxBuffer, totalBuffer, observer } = settings;
    this.cursors = new Cursors(engine, log, registry);
    this.replacements = new Replacements(settings);
    this.backlog = new Backlog(maxBuffer, totalBuffer, () =>
      observer.hears("limit.reached")?.({ limit: "total_buffer" }),
    );
    this.shared = {
      log,
      flusher,
      pings: new Wheel<Connection>(100, (connection) => connection.ping()),
      beats: new Wheel<Connection>(Math.min(1000, settings.pingInterval / 4), (connection) => this.beat(connection)),
      backlog: this.backlog,
      maxReplay: settings.maxReplay,
      observer,
      moved: (reader) => this.cursors.note(reader),
    };
  }

  /** How many connections are open here. */
  get count(): number {
    return this.registry.connections;
  }

  /** Bytes that wait for slow connections. */
  get buffered(): number {
    return this.backlog.bytes;
  }

  /** Where the client would go on, and whether something is lost by then. @throws {RelayError} not_found */
  async preview(id: ClientId, since?: Since): Promise<Reach> {
    return this.reach(await this.clients.get(id), since);
  }

  /** Whether the client's connections replace each other so often that newer ones wait. */
  isContested(id: ClientId): boolean {
    return this.replacements.isContested(id);
  }

  /**
   * Gives a client its connection; an older one of the same client is closed. While the client is contested, this waits
   * before it takes over from an open connection.
   * @returns undefined when the sink did not become the connection: it has gone away or was closed meanwhile
   * @throws {RelayError} not_found
   */
  async open(id: ClientId, sink: Sink, encoder: Encoder, options: OpenOptions = {}): Promise<Connection | undefined> {
    const isTaken = this.registry.get(id)?.connection?.open === true || this.opening.has(id);
    if (isTaken && !this.stopped && this.isContested(id)) {
      options.waiting?.(true);
      if (!(await this.replacements.wait(id, sink, encoder))) return undefined;
      options.waiting?.(false);
    }
    // Those that still wait are older than this one.
    else this.replacements.refuse(id, { reason: "replaced" });
    // Open the connections of one client one after the other, so that each closes the one before it.
    const before = this.opening.get(id);
    const connection = (async () => {
      await before?.catch(() => undefined);
      return this.openNext(id, sink, encoder, options);
    })();
    this.opening.set(id, connection);
    try {
      return await connection;
    } finally {
      if (this.opening.get(id) === connection) this.opening.delete(id);
    }
  }

  private async openNext(
    id: ClientId,
    sink: Sink,
    encoder: Encoder,
    options: OpenOptions,
  ): Promise<Connection | undefined> {
    const { since, manualAck = false, gapSaid = false } = options;
    await this.clients.get(id);
    if (!this.registry.get(id)) await this.others.ask({ ask: "progress", client: id });
    // Before anything is said of where to go on: what ends leaves its own word on that.
    const replaced = this.registry.get(id);
    if (replaced?.connection?.open) {
      // The newcomer has gone away meanwhile: the present connection stays.
      if (!sink.open) return undefined;
      this.replacements.note(id, replaced.userId);
    }
    if (replaced) this.registry.release(replaced, { reason: "replaced" });
    const reach = await this.claim(id, since).catch((error: unknown) => {
      if (!this.stopped) throw error;
    });
    if (!reach) {
      refuse(sink, encoder, { reason: "restarting", retryAfter: 0 });
      return undefined;
    }
    const { position, gap } = reach;
    const reader = this.registry.get(id);
    if (!reader) {
      // Another relay has claimed it at the same moment; or it is gone, which this throws.
      await this.clients.get(id);
      refuse(sink, encoder, { reason: "replaced" });
      return undefined;
    }
    // A gap that can not be said here is found again by reading from the cursor on.
    const isSaid = gap && (gapSaid || encoder.notice({ event: "gap", cursor: "" }) !== undefined);
    const start = gap && !isSaid ? reader.cursor : laterOf(position, reader.cursor);
    const connection = new Connection(reader, start, sink, encoder, this.shared, manualAck);
    this.registry.attach(reader, connection);
    this.shared.beats.add(connection, this.settings.pingInterval);
    connection.contested = this.isContested(id);
    this.settings.observer.hears("client.connected")?.(connection.about);
    connection.start(isSaid, reader.topics);
    if (this.stopped) connection.close({ reason: "restarting", retryAfter: 0 });
    // An older connection may have ended meanwhile, and have started the clock.
    if (reader.record.expiresAt !== undefined) await this.clients.stopClock(id);
    return connection;
  }

  /**
   * To be called when a connection's transport is gone: the client's clock starts.
   * @param answered the other end has answered that the relay closed it
   */
  async closed(connection: Connection, answered = false): Promise<void> {
    connection.end();
    if (answered) connection.closingAnswered();
    const { reader, about, endedBecause: reason } = connection;
    this.settings.observer.hears("client.disconnected")?.({ ...about, reason });
    if (reader.connection !== connection) return;
    this.registry.detach(reader);
    // The client does not lose its connection when another one waits for it.
    if (this.replacements.letIn(reader.id)) return;
    // The relay ends: the clock starts when another relay inherits the client.
    if (this.stopped) return;
    await this.lifetimes.park(reader);
  }

  /** Has the engine told how far a client is. */
  note(reader: Reader): void {
    this.cursors.note(reader);
  }

  /** Closes the connections that wait for a client. To be called when this relay no longer holds it. */
  refuse(id: ClientId, disconnect: Disconnect): void {
    this.replacements.refuse(id, disconnect);
  }

  /** Ends all connections, each with its own time to come back. */
  async stop(): Promise<void> {
    this.stopped = true;
    const readers = [...this.registry.connected()];
    for (const { connection } of readers) if (connection instanceof Connection) this.cursors.noteQuiet(connection);
    const spread = 1000 * Math.max(1, readers.length / RECONNECTS_PER_SECOND);
    const disconnect = (): Disconnect => ({ reason: "restarting", retryAfter: Math.round(Math.random() * spread) });
    for (const reader of readers) {
      reader.connection?.close(disconnect());
      // The client may confirm what was on its way when it comes back.
      if (reader.sent.length > 0) this.cursors.note(reader);
    }
    this.replacements.stop(disconnect);
    this.cursors.stop();
    this.shared.pings.stop();
    this.shared.beats.stop();
    await this.keepProgress();
  }

  /** Has the engine know how far a client is, if this relay holds it. Never rejects. */
  tellProgress(id: ClientId): Promise<void> {
    const reader = this.registry.get(id);
    reader?.connection?.settle();
    if (reader) this.cursors.note(reader);
    return this.cursors.keep();
  }

  /** Hands on to the engine how far clients have confirmed. Never rejects. */
  keepProgress(): Promise<void> {
    return this.cursors.keep();
  }

  private async claim(id: ClientId, since: Since | undefined): Promise<Reach> {
    try {
      const reach = await this.preview(id, since);
      // It may go back: `Clients.claim` knows how far it was, and the engine is not to be told of that any more.
      this.cursors.forget(id);
      await this.clients.claim(id, (record) => this.locate(record, since) ?? record.cursor, this.claimed(since));
      return reach;
    } catch (error) {
      // It has lost its connection and did not get another.
      const reader = this.registry.get(id);
      if (reader && !reader.connection) await this.lifetimes.park(reader);
      throw error;
    }
  }

  private locate({ cursor }: ClientRecord, since: Since | undefined): EventId | undefined {
    return since === undefined ? cursor : this.log.locate(since);
  }

  /** Where a client goes on, and whether something is lost by then. */
  private async reach(record: ClientRecord, since: Since | undefined): Promise<Reach> {
    // Another relay may have sent an event that this one has not followed yet.
    if (!this.locate(record, since)) await this.engine.find({ client: record.id });
    const cursor = this.locate(record, since);
    if (!cursor) return { position: this.log.head, gap: true };
    const placed = withPosition(record, cursor, this.log.head);
    const { position, gap } = await this.log.reach(placed, placed.cursor);
    // There is a gap, too, when a part of the client's history is lost, and when there is no room to go back.
    const isLess = lostEnd(placed) !== undefined || compareIds(placed.cursor, cursor) !== 0;
    return { position, gap: gap || isLess };
  }

  /** Up to where a client says that it has everything; not beyond what the log has given out. */
  private claimed(since: Since | undefined): EventId | undefined {
    const id = typeof since === "object" && "id" in since ? since.id : undefined;
    return id && compareIds(id, this.log.head) <= 0 ? id : undefined;
  }

  private beat(connection: Connection): void {
    this.cursors.noteQuiet(connection);
    const { pingInterval } = this.settings;
    if (connection.beat(pingInterval)) this.shared.beats.add(connection, pingInterval);
    else connection.close({ reason: "silent" });
  }
}
