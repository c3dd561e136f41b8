import { v4 as uuid } from "uuid";
import type { Admission, Registration } from "./admission.js";
import {
  type ClientId,
  type ClientRecord,
  type Secret,
  type TopicsChange,
  withClaim,
  withoutUnowed,
  withPosition,
} from "./client.js";
import type { ClientStore } from "./client-store.js";
import type { Answer } from "./engine.js";
import { RelayError } from "./errors.js";
import { type UserId, userKey } from "./event.js";
import type { Subscriptions } from "./history.js";
import { compareIds, type EventId, OWN } from "./id.js";
import type { Lifetimes } from "./lifetimes.js";
import type { Log } from "./log.js";
import { Numbers } from "./numbers.js";
import type { Observer } from "./observer.js";
import type { Others } from "./others.js";
import { Owed } from "./owed.js";
import type { Permissions } from "./permissions.js";
import type { Registry } from "./registry.js";
import { allInTurns } from "./turns.js";

/** Seconds for a client whose life is its connection to get there. */
export const CONNECT_WITHIN = 60;

const NOTHING: readonly never[] = [];

/** The side of the relay that registers: clients come, change and go. Every change is an entry of the log. */
export class Clients {
  private readonly owed: Owed;
  private readonly numbers = new Numbers();

  /** @param node the name of this relay */
  constructor(
    private readonly node: string,
    private readonly log: Log,
    private readonly registry: Registry,
    private readonly store: ClientStore,
    private readonly lifetimes: Lifetimes,
    private readonly others: Others,
    private readonly admission: Admission,
    private readonly observer: Observer,
  ) {
    this.owed = new Owed(log);
  }

  /** @throws {RelayError} as `Admission.admit` */
  async register(registration: Registration): Promise<ClientRecord> {
    const elsewhere = await this.others.count(userKey(registration.userId));
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
      expiresAt: this.log.moment.at + (ttl || CONNECT_WITHIN) * 1000,
      cursor: OWN,
      confirmed: OWN,
      received: NOTHING,
      sent: NOTHING,
      narrowed: NOTHING,
      node: this.node,
    };
    this.admission.checkGrowth(undefined, record);
    this.admission.expect(record);
    const added = await this.store.add(record).finally(() => this.admission.came(record));
    this.observer.hears("client.registered")?.({ client: id, userId, topics, ttl });
    return this.found(added);
  }

  /** Registers a client of `/ws`, with a user id that no other client has and no backend can name. */
  async registerAnonymous(ttl: number, key?: string): Promise<ClientRecord> {
    const register = (userId: UserId): Promise<ClientRecord> =>
      this.register({ userId, topics: [], ttl, key, inLobby: true });
    return this.numbers.take(
      () => this.others.highestNumber(),
      register,
      (id) => this.remove(id),
    );
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
    return this.found(await this.current(await this.store.get(id)));
  }

  /** The client whose URL this secret is of. @throws {RelayError} not_found */
  async identify(secret: Secret): Promise<ClientId> {
    return this.found(await this.current(await this.store.bySecret(secret))).id;
  }

  /**
   * Changes what a client may do, and what it is subscribed to. What it may not do any more ends at once.
   * @param allow what it does not say stays as it is
   * @throws {RelayError} not_found; bad_request: too many topics; forbidden
   */
  async change(id: ClientId, change: TopicsChange, allow?: Partial<Permissions>): Promise<ClientRecord> {
    const unowed = await this.checkAndPass(id, change, allow);
    const { record } = await this.lifetimes.change(id, (before) => {
      return this.admission.altered(withoutUnowed(before, unowed), change, allow, OWN);
    });
    return this.found(record);
  }

  /** Removes a client and ends its connection. @returns whether there was one */
  remove(id: ClientId): Promise<boolean> {
    return this.lifetimes.remove(id);
  }

  /** Removes all of a user's clients. @returns how many */
  async removeUser(userId: UserId): Promise<number> {
    const records = await this.store.ofUser(userKey(userId));
    const removed = await allInTurns(records, ({ id }) => this.remove(id));
    return removed.filter(Boolean).length;
  }

  /**
   * Makes this relay the one that holds the client, stops its clock, and has it go on where `locate` says.
   * @param has up to where the client says that it has everything; absent: it says nothing
   * @throws {RelayError} not_found
   */
  async claim(id: ClientId, locate: (record: ClientRecord) => EventId, has?: EventId): Promise<void> {
    const { node, log } = this;
    const claimed = (record: ClientRecord): ClientRecord => {
      const told = has ? withClaim(record, has, log.moment) : record;
      // Also when that is how the client is known here: another relay may have claimed it, which this one has not followed.
      return { ...withPosition(told, locate(record), OWN), node, expiresAt: undefined };
    };
    this.found((await this.lifetimes.change(id, claimed, false)).record);
  }

  /** Stops the clock of a client that has a connection here. Never rejects: when this fails, the client comes back in time. */
  async stopClock(id: ClientId): Promise<void> {
    await this.claim(id, ({ cursor }) => cursor).catch(() => undefined);
  }

  /** To be called with each client that is new, has changed or is inherited. */
  note(record: ClientRecord): void {
    this.numbers.note(record);
    this.admission.came(record);
  }

  /** What this relay tells others of its clients. @param user `userKey` */
  counts(user: string | undefined): Pick<Answer, "clients" | "ofUser" | "anonymous"> {
    return { ...this.admission.count(user), anonymous: this.numbers.last };
  }

  /** Looks at what a client is owed that is behind: of its history, only that is kept. @returns as `Owed.unowed` */
  private async checkAndPass(
    id: ClientId,
    change: TopicsChange,
    allow: Partial<Permissions> | undefined,
  ): Promise<ReadonlySet<Subscriptions>> {
    const reader = this.registry.get(id);
    if (!reader || this.lifetimes.isGone(reader.record)) return new Set();
    // Refuse before reading the log for a change that is not allowed.
    this.admission.altered(reader.record, change, allow, this.log.head);
    if (!reader.connection) await this.owed.pass(reader);
    // What is taken from a client is to be taken at once.
    return allow ? new Set() : this.owed.unowed(reader);
  }

  /** A client that seems to be gone may have come back at another relay, which this one has not followed yet. */
  private async current(known: ClientRecord | undefined): Promise<ClientRecord | undefined> {
    if (!known || !this.lifetimes.isGone(known)) return known;
    const found = await this.store.find({ client: known.id });
    return found && compareIds(found.version, known.version) !== 0 ? found : known;
  }

  private found(record: ClientRecord | undefined): ClientRecord {
    if (!record || this.lifetimes.isGone(record)) throw notFound();
    return record;
  }
}

/** The same for unknown, expired and removed: nothing is to be learnt from the difference. */
export function notFound(): RelayError {
  return new RelayError("not_found", "no such client: it is unknown, expired or was removed");
}
