import { v4 as uuid } from "uuid";
import type { Admission, Registration } from "./admission.js";
import {
  type ClientId,
  type ClientRecord,
  leftOf,
  type TopicsChange,
  withoutUnowed,
  withPosition,
  withProgress,
  withClaim,
} from "./client.js";
import type { Engine } from "./engine.js";
import { RelayError } from "./errors.js";
import { anonymous, type UserId, userKey } from "./event.js";
import type { Subscriptions } from "./history.js";
import type { EventId } from "./id.js";
import type { Log } from "./log.js";
import { type Disconnect, EXPIRED, REMOVED, REVOKED } from "./notice.js";
import { Owed } from "./owed.js";
import type { Permissions } from "./permissions.js";
import type { Reader } from "./reader.js";
import type { Registry } from "./registry.js";
import { allInTurns, inTurns } from "./turns.js";

/** Seconds for a client whose life is its connection to get there. */
export const CONNECT_WITHIN = 60;

const NOTHING: readonly never[] = [];

/** Milliseconds until a change that the engine could not take is tried again. */
const RETRY_AFTER = 1000;

/** The side of the relay that registers: clients come, change and go. Every change is an entry of the log. */
export class Clients {
  private readonly owed: Owed;
  private anonymous = 0;
  /** The names of the API keys that there are; undefined: clients need none. */
  private keys: ReadonlySet<string> | undefined;

  constructor(
    private readonly engine: Engine,
    private readonly log: Log,
    private readonly registry: Registry,
    private readonly node: string,
    private readonly admission: Admission,
  ) {
    this.owed = new Owed(log);
  }

  /** @throws {RelayError} as `Admission.admit` */
  async register(registration: Registration): Promise<ClientRecord> {
    const topics = this.admission.admit(registration);
    const { node } = this;
    const { userId, ttl, allow, key, until } = registration;
    const id = uuid().replaceAll("-", "");
    const expiresAt = this.engine.now() + (ttl || CONNECT_WITHIN) * 1000;
    const record = await this.engine.clients.update(id, (_, at) => {
      const made: ClientRecord = {
        id,
        userId,
        ttl,
        expiresAt,
        node,
        cursor: at,
        confirmed: at,
        received: NOTHING,
        sent: NOTHING,
        narrowed: NOTHING,
        subscriptions: [{ from: at, topics }],
        rooms: [],
        allow,
        key,
        until,
      };
      this.admission.checkGrowth(undefined, made);
      return made;
    });
    return this.found(record);
  }

  /** Registers a client of `/ws`, with a user id that no client here has and no backend can name. */
  async registerAnonymous(ttl: number, key?: string): Promise<ClientRecord> {
    let userId: UserId;
    do userId = anonymous(++this.anonymous);
    while (this.registry.countOf(userKey(userId)) > 0);
    return this.register({ userId, topics: [], ttl, key, inLobby: true });
  }

  /** Milliseconds until a client goes; Infinity while it has a connection and no end. */
  left(record: Pick<ClientRecord, "expiresAt" | "until">): number {
    return leftOf(record, this.engine.now());
  }

  /** What a client may do. */
  permissionsOf(record: Pick<ClientRecord, "allow">): Permissions {
    return this.admission.permissionsOf(record);
  }

  /** How many clients this relay holds. */
  get count(): number {
    return this.registry.size;
  }

  /** About how many bytes of memory their topics take. */
  get weight(): number {
    return this.registry.weight;
  }

  /** The client as it stands. @throws {RelayError} not_found */
  async get(id: ClientId): Promise<ClientRecord> {
    const held = this.registry.get(id)?.record;
    return this.found(held ?? (await this.engine.clients.get(id)));
  }

  /**
   * Changes what a client may do, and what it is subscribed to. What it may not do any more ends at once.
   * @param allow what it does not say stays as it is
   * @throws {RelayError} not_found; bad_request: too many topics; forbidden
   */
  async change(id: ClientId, change: TopicsChange, allow?: Partial<Permissions>): Promise<ClientRecord> {
    const unowed = await this.checkAndPass(id, change, allow);
    const changed = await this.update(id, (before, at) => {
      return this.admission.altered(withoutUnowed(before, unowed), change, allow, at);
    });
    return this.found(changed);
  }

  /** Removes a client and ends its connection. @returns whether there was one */
  async remove(id: ClientId): Promise<boolean> {
    let was = false;
    const reader = this.registry.get(id);
    if (reader) this.noteConfirmed(reader);
    await this.update(id, () => {
      was = true;
      return undefined;
    });
    return was;
  }

  /** Removes the clients that were registered with keys of other names. */
  async retainKeys(names: ReadonlySet<string>): Promise<void> {
    this.keys = names;
    const revoked: ClientId[] = [];
    await inTurns(this.registry.all(), ({ id, record }) => void (this.isRevoked(record) && revoked.push(id)));
    await allInTurns(revoked, (id) => this.expire(id));
  }

  /** Removes all of a user's clients. @returns how many */
  async removeUser(userId: UserId): Promise<number> {
    const records = await this.engine.clients.of(userKey(userId));
    const removed = await allInTurns(records, ({ id }) => this.remove(id));
    return removed.filter(Boolean).length;
  }

  /**
   * Makes this relay the one that holds the client, stops its clock, and has it go on where `locate` says.
   * @param has up to where the client says that it has everything; absent: it says nothing
   * @throws {RelayError} not_found
   */
  async claim(id: ClientId, locate: (record: ClientRecord) => EventId, has?: EventId): Promise<void> {
    const { node } = this;
    let found = false;
    await this.update(
      id,
      (record, at) => {
        found = true;
        const told = has ? withClaim(record, has, this.log.moment) : record;
        const placed = withPosition(told, locate(record), at);
        return placed === record && record.node === node && record.expiresAt === undefined
          ? record
          : { ...placed, node, expiresAt: undefined };
      },
      false,
    );
    if (!found) throw notFound();
  }

  /** Starts the clock of a client that has lost its connection. */
  async park(reader: Reader): Promise<void> {
    const { id, ttl } = reader.record;
    const expiresAt = this.engine.now() + ttl * 1000;
    try {
      await this.update(
        id,
        (record) => {
          // Meanwhile it may have connected again, here or elsewhere.
          if (record.node !== this.node || reader.connection) return record;
          return ttl === 0 ? undefined : { ...record, expiresAt };
        },
        false,
      );
    } catch {
      // The engine can not take it now: `expire` comes back to it.
      this.registry.schedule(id, RETRY_AFTER);
    }
  }

  /** Why a client is gone, as its connections are told. */
  whyGone(record: ClientRecord): Disconnect {
    if (this.isRevoked(record)) return REVOKED;
    return record.until !== undefined && record.until <= Date.now() ? EXPIRED : REMOVED;
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
      await this.engine.clients.update(id, (known) => (known && this.isGone(known) ? undefined : known));
    } catch {
      this.registry.schedule(id, RETRY_AFTER);
    }
  }

  /** Changes a client that exists, from what is known of it here. @param safe as of `ClientStore.update` */
  update(
    id: ClientId,
    change: (record: ClientRecord, at: EventId) => ClientRecord | undefined,
    safe = true,
  ): Promise<ClientRecord | undefined> {
    const reader = this.registry.get(id);
    reader?.connection?.settle();
    return this.engine.clients.update(
      id,
      (record, at) => {
        if (!record || this.isGone(record)) return record;
        const known = reader ? withProgress(record, reader) : record;
        const changed = change(known, at);
        return changed === known ? record : changed;
      },
      safe,
    );
  }

  /** Looks at what a client is owed that is behind: of its history, only that is kept. @returns as `Owed.unowed` */
  private async checkAndPass(
    id: ClientId,
    change: TopicsChange,
    allow: Partial<Permissions> | undefined,
  ): Promise<ReadonlySet<Subscriptions>> {
    const reader = this.registry.get(id);
    if (!reader) return new Set();
    // Refuse before reading the log for a change that is not allowed.
    this.admission.altered(this.found(reader.record), change, allow, this.log.head);
    if (!reader.connection) await this.owed.pass(reader);
    // What is taken from a client is to be taken at once.
    return allow ? new Set() : this.owed.unowed(reader);
  }

  private found(record: ClientRecord | undefined): ClientRecord {
    if (!record || this.isGone(record)) throw notFound();
    return record;
  }

  /** Its time is up, or the key that it came with is there no more. */
  private isGone(record: ClientRecord): boolean {
    return this.isRevoked(record) || this.left(record) <= 0;
  }

  private isRevoked({ key }: ClientRecord): boolean {
    return key !== undefined && this.keys !== undefined && !this.keys.has(key);
  }

  /** Receipts go on to tell what a client had confirmed that is about to go. When this fails, so does what follows. */
  private noteConfirmed({ id, cursor, confirmed, received, sent }: Reader): void {
    this.engine.clients.move(new Map([[id, { cursor, confirmed, received, sent }]])).catch(() => undefined);
  }
}

/** The same for unknown, expired and removed: nothing is to be learnt from the difference. */
export function notFound(): RelayError {
  return new RelayError("not_found", "no such client: it is unknown, expired or was removed");
}
