import { type ClientId, type ClientRecord, leftOf } from "./client.js";
import type { Change, Changed, ClientStore } from "./client-store.js";
import type { Engine } from "./engine.js";
import { formatId } from "./id.js";
import type { Disconnect } from "./notice.js";
import type { Happenings, Observer } from "./observer.js";
import { moveOf, type Reader } from "./reader.js";
import type { Registry } from "./registry.js";
import { allInTurns, inTurns } from "./turns.js";

/** Milliseconds until a change that the engine could not take is tried again. */
const RETRY_AFTER = 1000;

/** Clients whose clocks are started at the same time, after their relay is gone. */
const FEW = 1000;

/** How long clients live: until their time is up, until their token's is, or until their key is gone. */
export class Lifetimes {
  /** The names of the API keys that there are; undefined: clients need none. */
  private keys: ReadonlySet<string> | undefined;
  /** Clients that had a connection to a relay that is gone: the engine is to know that their clocks run. */
  private inherited: ClientId[] = [];
  private keeping: Promise<void> | undefined;

  constructor(
    private readonly engine: Pick<Engine, "now" | "cursors">,
    private readonly registry: Registry,
    private readonly store: ClientStore,
    private readonly observer: Observer,
  ) {}

  /** Milliseconds until a client goes; Infinity while it has a connection and no end. */
  left(record: Pick<ClientRecord, "expiresAt" | "until">): number {
    return leftOf(record, this.engine.now());
  }

  /** Its time is up, or the key that it came with is there no more. */
  isGone(record: ClientRecord): boolean {
    return this.isRevoked(record) || this.left(record) <= 0;
  }

  /** Why a client is gone, as its connections are told. */
  whyGone(record: ClientRecord): Disconnect {
    if (this.isRevoked(record)) return { reason: "revoked" };
    return { reason: isOver(record.until) ? "expired" : "removed" };
  }

  /** Changes a client that is not gone. @param safe as of `AppendOptions` */
  change(id: ClientId, change: Change, safe?: boolean): Promise<Changed> {
    this.registry.get(id)?.connection?.settle();
    return this.store.change(id, (record) => (this.isGone(record) ? record : change(record)), safe);
  }

  /** Removes a client on request, and ends its connection. @returns whether there was one */
  async remove(id: ClientId): Promise<boolean> {
    const reader = this.registry.get(id);
    if (reader) this.noteConfirmed(reader);
    const { before } = await this.change(id, () => undefined);
    if (before) this.tellEnd("client.removed", before, "request");
    return before !== undefined;
  }

  /** Removes the clients that were registered with keys of other names. */
  async retainKeys(names: ReadonlySet<string>): Promise<void> {
    this.keys = names;
    const revoked: ClientId[] = [];
    await inTurns(this.registry.all(), ({ id, record }) => void (this.isRevoked(record) && revoked.push(id)));
    await allInTurns(revoked, (id) => this.expire(id));
  }

  /** Starts the clock of a client that has lost its connection. */
  async park(reader: Reader): Promise<void> {
    const { id, ttl } = reader.record;
    const expiresAt = this.engine.now() + ttl * 1000;
    const parked = (record: ClientRecord): ClientRecord | undefined => {
      // Meanwhile it may have connected again, here or elsewhere.
      if (record.node !== reader.kept.node || reader.connection) return record;
      return ttl === 0 ? undefined : { ...record, expiresAt };
    };
    try {
      const { before, record } = await this.change(id, parked, false);
      if (before && !record) this.tellEnd("client.expired", before, "ttl");
    } catch {
      // The engine can not take it now: `expire` comes back to it.
      this.registry.schedule(id, RETRY_AFTER);
    }
  }

  /** Holds clients whose relay is gone. The clocks of those that had a connection start now. */
  inherit(clients: readonly ClientRecord[]): void {
    const now = this.engine.now();
    for (const record of clients) {
      if (record.expiresAt === undefined) this.inherited.push(record.id);
      const expiresAt = record.expiresAt ?? now + record.ttl * 1000;
      this.registry.hold(record.expiresAt === undefined ? { ...record, expiresAt } : record);
      // Its life was its connection: nobody is to be told that it still waits.
      if (expiresAt <= now) void this.expire(record.id);
    }
    if (this.inherited.length > 0) this.keeping ??= new Promise(setImmediate).then(() => this.keepClocks());
  }

  /** Removes a client whose time is up. */
  async expire(id: ClientId): Promise<void> {
    const reader = this.registry.get(id);
    if (!reader) return;
    const { record, connection } = reader;
    const revoked = this.isRevoked(record);
    const left = revoked ? 0 : this.left(connection ? { until: record.until } : record);
    if (left === Infinity) return connection ? undefined : this.park(reader);
    // The timer may be early, and the clock on the wall may have been set back.
    if (left > 0) return this.registry.schedule(id, left);
    this.registry.release(reader, this.whyGone(record));
    this.noteConfirmed(reader);
    try {
      const { before } = await this.store.change(id, (known) => (this.isGone(known) ? undefined : known));
      if (before && revoked) this.tellEnd("client.removed", before, "key");
      else if (before) this.tellEnd("client.expired", before, isOver(before.until) ? "token" : "ttl");
    } catch {
      this.registry.schedule(id, RETRY_AFTER);
    }
  }

  /** Resolves when the engine knows of the clocks that `inherit` has started. */
  async clocksKept(): Promise<void> {
    await this.keeping;
  }

  /** Never rejects. */
  private async keepClocks(): Promise<void> {
    while (this.inherited.length > 0) {
      const readers = this.inherited.splice(0, FEW).map((id) => this.registry.get(id));
      await allInTurns(readers, async (reader) => {
        if (reader && !reader.connection && reader.record.ttl > 0) await this.park(reader);
      });
    }
    this.keeping = undefined;
  }

  private isRevoked({ key }: ClientRecord): boolean {
    return key !== undefined && this.keys !== undefined && !this.keys.has(key);
  }

  /** Receipts go on to tell what a client had confirmed that is about to go. When this fails, so does what follows. */
  private noteConfirmed(reader: Reader): void {
    this.engine.cursors?.move([moveOf(reader)]).catch(() => undefined);
  }

  private tellEnd<N extends "client.expired" | "client.removed">(
    name: N,
    { id, userId, cursor }: ClientRecord,
    reason: Happenings[N]["reason"],
  ): void {
    this.observer.hears(name)?.({ client: id, userId, cursor: formatId(cursor), reason } as Happenings[N]);
  }
}

/** @param until by the clock on the wall */
function isOver(until: number | undefined): boolean {
  return until !== undefined && until <= Date.now();
}
