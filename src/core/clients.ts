import { v4 as uuid } from "uuid";
import type { Admission, Elsewhere, Registration } from "./admission.js";
import {
  type ClientId,
  type ClientRecord,
  leftOf,
  type Secret,
  secretOf,
  settled,
  type TopicsChange,
  withClaim,
  withoutUnowed,
  withPosition,
  withProgress,
  withVersion,
} from "./client.js";
import type { Answer, Engine } from "./engine.js";
import { RelayError } from "./errors.js";
import { type UserId, userKey } from "./event.js";
import type { Subscriptions } from "./history.js";
import { compareIds, type EventId, formatId, OWN } from "./id.js";
import type { Log } from "./log.js";
import type { Disconnect } from "./notice.js";
import { Numbers } from "./numbers.js";
import type { Happenings, Observer } from "./observer.js";
import type { Others } from "./others.js";
import { Owed } from "./owed.js";
import type { Permissions } from "./permissions.js";
import { moveOf, type Reader } from "./reader.js";
import type { Registry } from "./registry.js";
import { allInTurns, inTurns } from "./turns.js";

/** Seconds for a client whose life is its connection to get there. */
export const CONNECT_WITHIN = 60;

const NOTHING: readonly never[] = [];

/** Milliseconds until a change that the engine could not take is tried again. */
const RETRY_AFTER = 1000;

/** Clients whose clocks are started at the same time, after their relay is gone. */
const FEW = 1000;

/** What a client becomes; undefined: it is removed. With `OWN` for the id of the change. */
type Change = (record: ClientRecord) => ClientRecord | undefined;

/** The side of the relay that registers: clients come, change and go. Every change is an entry of the log. */
export class Clients {
  private readonly owed: Owed;
  private readonly numbers = new Numbers();
  /** The names of the API keys that there are; undefined: clients need none. */
  private keys: ReadonlySet<string> | undefined;

  constructor(
    private readonly engine: Engine,
    private readonly log: Log,
    private readonly registry: Registry,
    private readonly node: string,
    private readonly others: Others,
    private readonly admission: Admission,
    private readonly observer: Observer,
  ) {
    this.owed = new Owed(log);
  }

  /** @throws {RelayError} as `Admission.admit` */
  async register(registration: Registration): Promise<ClientRecord> {
    const elsewhere = await this.countElsewhere(userKey(registration.userId));
    const topics = this.admission.admit(registration, elsewhere);
    const { userId, ttl, allow, key, until } = registration;
    const id = uuid().replaceAll("-", "");
    const record: ClientRecord = {
      id,
      version: OWN,
      userId,
      subscriptions: [{ from: OWN, topics }],
      rooms: NOTHING,
      allow,
      key,
      until,
      ttl,
      expiresAt: this.engine.now() + (ttl || CONNECT_WITHIN) * 1000,
      cursor: OWN,
      confirmed: OWN,
      received: NOTHING,
      sent: NOTHING,
      narrowed: NOTHING,
      node: this.node,
    };
    this.admission.checkGrowth(undefined, record);
    const { ids } = await this.engine.append({ client: id, record, expect: "absent" });
    this.observer.hears("client.registered")?.({ client: id, userId, topics, ttl });
    return this.found(withVersion(record, ids[0] as EventId));
  }

  /** Registers a client of `/ws`, with a user id that no other client has and no backend can name. */
  async registerAnonymous(ttl: number, key?: string): Promise<ClientRecord> {
    const highest = async (): Promise<number> => {
      const answers = await this.others.ask({ ask: "counts" });
      if (!answers) throw new RelayError("unavailable", "not all relays have answered");
      return Math.max(0, ...answers.map((answer) => answer.anonymous));
    };
    const register = (userId: UserId): Promise<ClientRecord> =>
      this.register({ userId, topics: [], ttl, key, inLobby: true });
    return this.numbers.take(highest, register, (id) => this.remove(id));
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
    return this.found(await this.look(id));
  }

  /** The client whose URL this secret is of. @throws {RelayError} not_found */
  async identify(secret: Secret): Promise<ClientId> {
    const held = this.registry.get(secret)?.record;
    const [record] = held && secretOf(held) === secret ? [held] : await this.engine.find({ secret });
    return this.found(record).id;
  }

  /**
   * Changes what a client may do, and what it is subscribed to. What it may not do any more ends at once.
   * @param allow what it does not say stays as it is
   * @throws {RelayError} not_found; bad_request: too many topics; forbidden
   */
  async change(id: ClientId, change: TopicsChange, allow?: Partial<Permissions>): Promise<ClientRecord> {
    const unowed = await this.checkAndPass(id, change, allow);
    const changed = await this.update(id, (before) => {
      return this.admission.altered(withoutUnowed(before, unowed), change, allow, OWN);
    });
    return this.found(changed);
  }

  /** Removes a client and ends its connection. @returns whether there was one */
  async remove(id: ClientId): Promise<boolean> {
    const removed: ClientRecord[] = [];
    const reader = this.registry.get(id);
    if (reader) this.noteConfirmed(reader);
    await this.update(id, (record) => void removed.push(record));
    const last = removed.at(-1);
    if (last) this.tellEnd("client.removed", last, "request");
    return last !== undefined;
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
    const records = await this.engine.find({ user: userKey(userId) });
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
      (record) => {
        found = true;
        const told = has ? withClaim(record, has, this.log.moment) : record;
        const placed = withPosition(told, locate(record), OWN);
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
    let isParked = false;
    try {
      await this.update(
        id,
        (record) => {
          // Meanwhile it may have connected again, here or elsewhere.
          isParked = record.node === reader.kept.node && !reader.connection;
          if (!isParked) return record;
          return ttl === 0 ? undefined : { ...record, expiresAt };
        },
        false,
      );
      if (isParked && ttl === 0) this.tellEnd("client.expired", reader, "ttl");
    } catch {
      // The engine can not take it now: `expire` comes back to it.
      this.registry.schedule(id, RETRY_AFTER);
    }
  }

  /** Holds a client whose relay is gone. When it had a connection, its clock starts now. @returns whether it had one */
  inherit(record: ClientRecord): boolean {
    const hadConnection = record.expiresAt === undefined;
    this.numbers.note(record);
    this.registry.hold(hadConnection ? { ...record, expiresAt: this.engine.now() + record.ttl * 1000 } : record);
    return hadConnection;
  }

  /** Has the engine know of the clocks that `inherit` has started. Never rejects. */
  async keepClocks(clients: readonly ClientId[]): Promise<void> {
    for (let at = 0; at < clients.length; at += FEW) {
      const readers = clients.slice(at, at + FEW).map((id) => this.registry.get(id));
      await allInTurns(readers, async (reader) => {
        if (reader && !reader.connection && reader.record.ttl > 0) await this.park(reader);
      });
    }
  }

  /** Why a client is gone, as its connections are told. */
  whyGone(record: ClientRecord): Disconnect {
    if (this.isRevoked(record)) return { reason: "revoked" };
    return { reason: isOver(record.until) ? "expired" : "removed" };
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
    let isRemoved = false;
    try {
      await this.swap(id, (known) => {
        isRemoved = this.isGone(known);
        return isRemoved ? undefined : known;
      });
      if (isRemoved && revoked) this.tellEnd("client.removed", reader, "key");
      else if (isRemoved) this.tellEnd("client.expired", reader, isOver(record.until) ? "token" : "ttl");
    } catch {
      this.registry.schedule(id, RETRY_AFTER);
    }
  }

  /** To be called with each client that is new or has changed. */
  note(record: ClientRecord): void {
    this.numbers.note(record);
  }

  /** What this relay tells others of its clients. @param user `userKey` */
  counts(user: string | undefined): Pick<Answer, "clients" | "ofUser" | "anonymous"> {
    const { registry, numbers } = this;
    return { clients: registry.size, ofUser: user === undefined ? 0 : registry.countOf(user), anonymous: numbers.last };
  }

  /** Changes a client that is not gone. @returns as `swap` @param safe as of `AppendOptions` */
  private update(id: ClientId, change: Change, safe = true): Promise<ClientRecord | undefined> {
    this.registry.get(id)?.connection?.settle();
    return this.swap(id, (record) => (this.isGone(record) ? record : change(record)), safe);
  }

  /**
   * Replaces a client's record, from what is known of it here; again from what it is by then, when somebody else has
   * changed it meanwhile. When `change` returns what it got, nothing is appended.
   * @returns the record as it is now; undefined when there is none
   */
  private async swap(id: ClientId, change: Change, safe = true): Promise<ClientRecord | undefined> {
    let known = this.registry.get(id)?.record ?? (await this.look(id));
    while (known) {
      const record = change(known);
      if (record === known) {
        // What it is may not be safe yet all the same.
        if (safe) await this.engine.find({ client: id });
        return known;
      }
      const placed = record !== undefined && compareIds(record.cursor, known.cursor) < 0;
      const draft = { client: id, record, expect: known.version, placed };
      const { ids, conflict } = await this.engine.append(draft, { safe });
      if (!conflict) return record && withVersion(record, ids[0] as EventId);
      const current = conflict.current && settled(conflict.current);
      const reader = this.registry.get(id);
      known = current && reader?.kept.node === current.node ? withProgress(current, reader) : current;
    }
    return undefined;
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

  private async look(id: ClientId): Promise<ClientRecord | undefined> {
    const held = this.registry.get(id)?.record;
    if (held) return held;
    const [found] = await this.engine.find({ client: id });
    return found && settled(found);
  }

  /** What other relays hold. When they do not answer in time, the limits are this relay's own. */
  private async countElsewhere(user: string): Promise<Elsewhere> {
    const answers = (await this.others.ask({ ask: "counts", user })) ?? [];
    const sum = { clients: 0, ofUser: 0 };
    for (const { clients, ofUser } of answers) {
      sum.clients += clients;
      sum.ofUser += ofUser;
    }
    return sum;
  }

  private tellEnd<N extends "client.expired" | "client.removed">(
    name: N,
    { id, userId, cursor }: Pick<ClientRecord, "id" | "userId" | "cursor">,
    reason: Happenings[N]["reason"],
  ): void {
    this.observer.hears(name)?.({ client: id, userId, cursor: formatId(cursor), reason } as Happenings[N]);
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
  private noteConfirmed(reader: Reader): void {
    this.engine.cursors?.move([moveOf(reader)]).catch(() => undefined);
  }
}

/** @param until by the clock on the wall */
function isOver(until: number | undefined): boolean {
  return until !== undefined && until <= Date.now();
}

/** The same for unknown, expired and removed: nothing is to be learnt from the difference. */
export function notFound(): RelayError {
  return new RelayError("not_found", "no such client: it is unknown, expired or was removed");
}
