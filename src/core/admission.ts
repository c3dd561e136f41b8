import { checkTopics, type ClientId, type ClientRecord, type TopicsChange, weightOf, withTopics } from "./client.js";
import { RelayError } from "./errors.js";
import { type UserId, userKey } from "./event.js";
import type { EventId } from "./id.js";
import { MultiMap } from "./multimap.js";
import { withAllow } from "./narrowing.js";
import { checkAllowed, coverOf, type Permissions } from "./permissions.js";
import type { Registry } from "./registry.js";
import { BROADCAST } from "./topics.js";

export interface AdmissionSettings {
  /** Clients in all, and of one user. */
  readonly maxClients: number;
  readonly maxClientsPerUser: number;
  /** Bytes of memory that the topics of all clients may take. */
  readonly totalTopics: number;
  /** Topics of a client that names none. */
  readonly defaultTopics: readonly string[];
  /** What a client may do that was registered without saying so. */
  readonly defaultAllow: Permissions;
}

export interface Registration {
  readonly userId: UserId;
  /** Absent: those of the default topics that it may have. */
  readonly topics?: readonly string[] | undefined;
  readonly allow?: Partial<Permissions> | undefined;
  /** The name of the API key that it is registered with. */
  readonly key?: string | undefined;
  /** Unix milliseconds at which it ends. */
  readonly until?: number | undefined;
  /** A connection of `/ws`: it hears what is said to all of them. */
  readonly inLobby?: boolean;
  /** Seconds for which the client is kept without a connection; 0: forgotten when its connection ends. */
  readonly ttl: number;
}

/** How many clients relays hold: all, and those of one user. */
export interface ClientCounts {
  readonly clients: number;
  readonly ofUser: number;
}

/** Who may come, and what they may do. */
export class Admission {
  /** Clients that were admitted, and whose entries this relay has not followed yet, by user. */
  private readonly coming = new MultiMap<string, ClientId>();
  private comers = 0;

  constructor(
    private readonly registry: Registry,
    private readonly settings: AdmissionSettings,
  ) {}

  /** What a client may do. */
  permissionsOf({ allow }: Pick<ClientRecord, "allow">): Permissions {
    return { ...this.settings.defaultAllow, ...allow };
  }

  /**
   * The topics that a new client begins with.
   * @throws {RelayError} too_many: the user's clients, or all; bad_request: too many topics; forbidden
   */
  admit({ userId, topics, allow, inLobby }: Registration, elsewhere: ClientCounts): string[] {
    this.checkRoom(userId, elsewhere);
    const permissions = this.permissionsOf({ allow });
    if (topics) checkAllowed(permissions, "subscribe", topics);
    const covers = coverOf(permissions.subscribe);
    const own = new Set(topics ?? this.settings.defaultTopics.filter(covers));
    checkTopics([...own]);
    return [...(inLobby && covers(BROADCAST) ? [BROADCAST] : []), ...own];
  }

  /** What this relay holds, with those that are about to come. @param user `userKey` */
  count(user: string | undefined): ClientCounts {
    const { registry, coming, comers } = this;
    const ofUser = user === undefined ? 0 : registry.countOf(user) + coming.count(user);
    return { clients: registry.size + comers, ofUser };
  }

  /** A client was admitted, and is about to be appended. */
  expect({ id, userId }: ClientRecord): void {
    this.coming.add(userKey(userId), id);
    this.comers++;
  }

  /** To be called when the relay follows a client's entry; and when a client that was admitted could not be appended. */
  came({ id, userId }: ClientRecord): void {
    if (this.comers > 0 && this.coming.delete(userKey(userId), id)) this.comers--;
  }

  /**
   * The record with other permissions, and then with other topics too.
   * @throws {RelayError} bad_request: too many topics; forbidden
   */
  altered(
    before: ClientRecord,
    change: TopicsChange,
    allow: Partial<Permissions> | undefined,
    at: EventId,
  ): ClientRecord {
    const allowed = allow ? this.allowed(before, allow, at) : before;
    const added = [change.set, change.add, change.join].flatMap((topics) => topics ?? []);
    checkAllowed(this.permissionsOf(allowed), "subscribe", added);
    const isChanged = added.length > 0 || change.set || change.remove || change.leave;
    const after = isChanged ? withTopics(allowed, change, at) : allowed;
    // To take something away is never refused, though what it was is kept for a while.
    if (added.length > 0) this.checkGrowth(before, after);
    return after;
  }

  /** @param before absent: the client is new @throws {RelayError} too_many: the topics of all clients take too much */
  checkGrowth(before: ClientRecord | undefined, after: ClientRecord): void {
    const { totalTopics } = this.settings;
    const growth = weightOf(after) - (before ? weightOf(before) : 0);
    if (growth <= 0 || this.registry.weight + growth <= totalTopics) return;
    const message = `the topics of all clients may take ${totalTopics} bytes of memory: there is no room for more`;
    throw new RelayError("too_many", message, { limit: "total_topics" });
  }

  private allowed(before: ClientRecord, given: Partial<Permissions>, at: EventId): ClientRecord {
    const allow = { ...before.allow, ...given };
    return withAllow(before, allow, coverOf(this.permissionsOf({ allow }).subscribe), at);
  }

  private checkRoom(userId: UserId, { clients, ofUser }: ClientCounts): void {
    const { maxClients, maxClientsPerUser } = this.settings;
    const here = this.count(userKey(userId));
    if (here.clients + clients >= maxClients) {
      throw new RelayError("too_many", `there are ${maxClients} clients already`, { limit: "clients" });
    }
    if (here.ofUser + ofUser >= maxClientsPerUser) {
      const message = `this user has ${maxClientsPerUser} clients already`;
      throw new RelayError("too_many", message, { limit: "clients_per_user" });
    }
  }
}
