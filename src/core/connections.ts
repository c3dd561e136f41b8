import { type ClientId, type ClientRecord } from "./client.js";
import { type Clients, notFound } from "./clients.js";
import { Connection, type Encoder, type Shared } from "./connection.js";
import type { Engine } from "./engine.js";
import type { EventId } from "./id.js";
import type { Log, Since } from "./log.js";
import { type Disconnect, REPLACED, SILENT } from "./notice.js";
import type { Flusher, Sink } from "./outbox.js";
import type { Reader } from "./reader.js";
import type { Receipts } from "./receipts.js";
import type { Registry } from "./registry.js";
import { Wheel } from "./wheel.js";

export interface ConnectionSettings {
  /** Bytes that may wait for one connection. */
  readonly maxBuffer: number;
  /** Milliseconds between signs of life on a connection. */
  readonly pingInterval: number;
}

/** How often confirmed cursors are handed to the engine, in milliseconds (product section 7: at most a second behind). */
const CURSORS_EVERY = 1000;

/** Shutting down spreads the reconnects: this many clients are to come back in each second, over a second at least. */
const RECONNECTS_PER_SECOND = 2000;

export interface OpenOptions {
  /** Where to go on; absent: at the client's cursor. */
  readonly since?: Since | undefined;
  /** Only `ack` moves the cursor. */
  readonly manualAck?: boolean | undefined;
}

/** The side of the relay that clients connect to. */
export class Connections {
  private readonly shared: Shared;
  private readonly moved = new Map<ClientId, EventId>();
  private readonly timer: NodeJS.Timeout;

  constructor(
    private readonly engine: Engine,
    private readonly log: Log,
    private readonly registry: Registry,
    private readonly clients: Clients,
    receipts: Receipts,
    flusher: Flusher,
    private readonly settings: ConnectionSettings,
  ) {
    this.shared = {
      log,
      receipts,
      flusher,
      pings: new Wheel<Connection>(100, (connection) => connection.ping()),
      beats: new Wheel<Connection>(Math.min(1000, settings.pingInterval / 4), (connection) => this.beat(connection)),
      maxBuffer: settings.maxBuffer,
      moved: ({ id, cursor }) => void this.moved.set(id, cursor),
    };
    this.timer = setInterval(() => void this.keepCursors(), CURSORS_EVERY).unref();
  }

  /** Where the client would go on, and whether something is lost by then. @throws {RelayError} not_found */
  async preview(id: ClientId, since?: Since): Promise<{ gap: boolean }> {
    const record = await this.clients.get(id);
    const owed = record.gap || this.registry.get(id)?.owesGap === true;
    return { gap: owed || this.locate(record, since).gap };
  }

  /**
   * Gives a client its connection; an older one of the same client is closed.
   * @throws {RelayError} not_found
   */
  async open(id: ClientId, sink: Sink, encoder: Encoder, options: OpenOptions = {}): Promise<Connection> {
    const { since, manualAck = false } = options;
    const owed = await this.clients.claim(id);
    const reader = this.registry.get(id);
    if (!reader) throw notFound();
    release(this.registry, reader, REPLACED);
    const { position, gap } = this.locate(reader.record, since);
    reader.goOn(position, typeof since === "object" && "id" in since);
    this.shared.moved(reader);
    const connection = new Connection(reader, sink, encoder, this.shared, manualAck);
    this.registry.attach(reader, connection);
    this.shared.beats.add(connection, Date.now() + this.settings.pingInterval);
    connection.start(gap || owed || reader.owesGap, reader.topics);
    reader.owesGap = false;
    return connection;
  }

  /** To be called when a connection's transport is gone: the client's clock starts. */
  async closed(connection: Connection): Promise<void> {
    connection.end();
    const { reader } = connection;
    if (reader.connection !== connection) return;
    this.registry.detach(reader);
    await this.clients.park(reader);
  }

  /** Ends all connections, each with its own time to come back. */
  async stop(): Promise<void> {
    const readers = [...this.registry.connected()];
    const spread = 1000 * Math.max(1, readers.length / RECONNECTS_PER_SECOND);
    for (const { connection } of readers) {
      const retry = Math.round(Math.random() * spread);
      const reason = `restarting, retry after ${retry} ms`;
      connection?.close({ code: 1012, reason, reconnect: true, retry_after_ms: retry });
    }
    clearInterval(this.timer);
    this.shared.pings.stop();
    this.shared.beats.stop();
    await this.keepCursors();
  }

  private locate(record: ClientRecord, since: Since | undefined): { position: EventId; gap: boolean } {
    return this.log.locate(since ?? { id: record.cursor });
  }

  private beat(connection: Connection): void {
    if (connection.beat()) this.shared.beats.add(connection, Date.now() + this.settings.pingInterval);
    else connection.close(SILENT);
  }

  private async keepCursors(): Promise<void> {
    if (this.moved.size === 0) return;
    const moved = new Map(this.moved);
    this.moved.clear();
    await this.engine.clients.moveCursors(moved);
  }
}

/** Takes a client's connection from it and ends it. */
export function release(registry: Registry, reader: Reader, disconnect: Disconnect): void {
  const { connection } = reader;
  if (!connection) return;
  registry.detach(reader);
  connection.close(disconnect);
}
