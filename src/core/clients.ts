import { v4 as uuid } from "uuid";
import type { Admission, Registration } from "./admission.js";
import {
  type ClientId,
  type ClientRecord,
  endOf,
  isForgotten,
  type Loss,
  topicsOf,
  type TopicsChange,
  withLoss,
  withPosition,
  withProgress,
} from "./client.js";
import type { Engine } from "./engine.js";
import { RelayError } from "./errors.js";
import { anonymous, type UserId, userKey } from "./event.js";
import { compareIds, type EventId, laterOf } from "./id.js";
import type { Log } from "./log.js";
import { EXPIRED, REVOKED } from "./notice.js";
import type { Permissions } from "./permissions.js";
import type { Reader } from "./reader.js";
import type { Registry } from "./registry.js";
import { allInTurns, inTurns } from "./turns.js";

/** Seconds for a client whose life is its connection to get there. */
const CONNECT_WITHIN = 60;

/** Milliseconds until a change that the engine could not take is tried again. */
const RETRY_AFTER = 1000;

/** Where in the log a client goes on, and whether something is lost by then. */
export interface Place {
  readonly position: EventId;
  readonly gap: boolean;
}

/** The side of the relay that registers: clients come, change and go. Every change is an entry of the log. */
export class Clients {
  private anonymous = 0;
  /** The names of the API keys that there are; undefined: clients need none. */
  private keys: ReadonlySet<string> | undefined;

  constructor(
    private readonly engine: Engine,
    private readonly log: Log,
    private readonly registry: Registry,
    private readonly node: string,
    private readonly admission: Admission,
  ) {}

  /** @throws {RelayError} as `Admission.admit` */
  async register(registration: Registration): Promise<ClientRecord> {
    const topics = this.admission.admit(registration);
    const { node } = this;
    const { userId, ttl, allow, key, until } = registration;
    const id = uuid().replaceAll("-", "");
    const expiresAt = Date.now() + (ttl || CONNECT_WITHIN) * 1000;
    const record = await this.engine.clients.update(id, (_, at) => {
      const made: ClientRecord = {
        id,
        userId,
        ttl,
        expiresAt,
        node,
        cursor: at,
        confirmed: at,
        lost: [],
        subscriptions: [{ from: at, topics }],
        rooms: [],
        gap: false,
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
    const reader = this.registry.get(id);
    if (reader && !reader.connection) {
      // Refuse before reading the log for a change that is not allowed.
      const { record } = reader;
      this.admission.altered(this.found(record), change, allow, this.log.head, record.cursor);
      await this.passUnowed(reader);
    }
    const connection = reader?.connection;
    const changed = await this.update(id, (before, at) => {
      const sent = connection ? (connection.live ? at : laterOf(connection.position, before.cursor)) : before.cursor;
      const { allowed, after } = this.admission.altered(before, change, allow, at, sent);
      // What was taken from it can not be read again, should it not have arrived.
      const isLess = topicsOf(allowed).length < topicsOf(before).length;
      if (isLess) connection?.narrow({ through: sent, except: topicsOf(allowed) });
      return after;
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
   * @returns where it goes on, and whether it is to be told of a gap (which counts as told now)
   * @throws {RelayError} not_found
   */
  async claim(id: ClientId, locate: (record: ClientRecord) => Place, has?: EventId): Promise<Place> {
    const { node } = this;
    let claimed: { position: EventId; gap: boolean } | undefined;
    await this.update(
      id,
      (record) => {
        const { position, gap } = locate(record);
        claimed = { position, gap: gap || record.gap };
        const stays = compareIds(position, record.cursor) === 0;
        if (stays && record.node === node && record.expiresAt === undefined && !record.gap) return record;
        const placed = withPosition(record, position, has);
        claimed.gap ||= placed.gap;
        return { ...placed, node, expiresAt: undefined, gap: false };
      },
      false,
    );
    if (!claimed) throw notFound();
    return claimed;
  }

  /** Notes what will not reach the client. */
  async lose(reader: Reader, loss: Loss): Promise<void> {
    await this.update(reader.id, (record) => withLoss(record, loss), false);
  }

  /** Starts the clock of a client that has lost its connection. */
  async park(reader: Reader): Promise<void> {
    const { id, ttl } = reader.record;
    const expiresAt = Date.now() + ttl * 1000;
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
      this.registry.schedule(id, Date.now() + RETRY_AFTER);
    }
  }

  /** Removes a client whose time is up. */
  async expire(id: ClientId): Promise<void> {
    const reader = this.registry.get(id);
    if (!reader) return;
    const { record, connection } = reader;
    const revoked = this.isRevoked(record);
    const end = revoked ? 0 : connection ? record.until : endOf(record);
    if (end === undefined) return connection ? undefined : this.park(reader);
    // The clock on the wall may have been set back.
    if (end > Date.now()) return this.registry.schedule(id, end);
    this.registry.release(reader, revoked ? REVOKED : EXPIRED);
    this.noteConfirmed(reader);
    try {
      await this.engine.clients.update(id, (known) => (known && this.isGone(known) ? undefined : known));
    } catch {
      this.registry.schedule(id, Date.now() + RETRY_AFTER);
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

  private found(record: ClientRecord | undefined): ClientRecord {
    if (!record || this.isGone(record)) throw notFound();
    return record;
  }

  /** Its time is up, or the key that it came with is there no more. */
  private isGone(record: ClientRecord): boolean {
    return this.isRevoked(record) || isForgotten(record, Date.now());
  }

  private isRevoked({ key }: ClientRecord): boolean {
    return key !== undefined && this.keys !== undefined && !this.keys.has(key);
  }

  /** Receipts go on to tell what a client had confirmed that is about to go. When this fails, so does what follows. */
  private noteConfirmed({ id, confirmed }: Reader): void {
    this.engine.clients.moveCursors(new Map([[id, confirmed]])).catch(() => undefined);
  }

  /** Moves the cursor of a client that is away over stretches of the log that hold nothing for it. */
  private async passUnowed(reader: Reader): Promise<void> {
    for (;;) {
      const { cursor } = reader;
      const stretch = reader.stretch(cursor);
      // What is gone may have been owed: that is to be said as a gap.
      if (!stretch.until || this.log.isGap(cursor)) return;
      const { events, through } = await this.log.read({ after: cursor, limit: 1, ...stretch });
      // A read from the window resolves in the same turn, so give others theirs here.
      await new Promise(setImmediate);
      // Meanwhile the client may have connected, and have gone back.
      if (events.length > 0 || reader.connection || compareIds(reader.cursor, cursor) !== 0) return;
      reader.pass(through);
    }
  }
}

/** The same for unknown, expired and removed: nothing is to be learnt from the difference. */
export function notFound(): RelayError {
  return new RelayError("not_found", "no such client: it is unknown, expired or was removed");
}
