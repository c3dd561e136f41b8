import { v4 as uuid } from "uuid";
import {
  BROADCAST,
  type ClientId,
  type ClientRecord,
  isForgotten,
  type TopicsChange,
  withLoss,
  withPosition,
  withProgress,
  withTopics,
} from "./client.js";
import type { Engine } from "./engine.js";
import { RelayError } from "./errors.js";
import { type UserId, userKey } from "./event.js";
import { compareIds, type EventId } from "./id.js";
import type { Log } from "./log.js";
import type { Reader } from "./reader.js";
import type { Registry } from "./registry.js";

const MAX_CLIENTS = 1_000_000;
const MAX_CLIENTS_PER_USER = 1000;

/** Seconds for a client whose life is its connection to get there. */
const CONNECT_WITHIN = 60;

/** Milliseconds until a change that the engine could not take is tried again. */
const RETRY_AFTER = 1000;

export interface Registration {
  readonly userId: UserId;
  readonly topics: readonly string[];
  /** Seconds for which the client is kept without a connection; 0: forgotten when its connection ends. */
  readonly ttl: number;
}

/** Where in the log a client goes on, and whether something is lost by then. */
export interface Place {
  readonly position: EventId;
  readonly gap: boolean;
}

/** The side of the relay that registers: clients come, change and go. Every change is an entry of the log. */
export class Clients {
  private anonymous = 0;

  constructor(
    private readonly engine: Engine,
    private readonly log: Log,
    private readonly registry: Registry,
    private readonly node: string,
  ) {}

  /** @throws {RelayError} too_many: the user's clients, or all */
  async register({ userId, topics, ttl }: Registration): Promise<ClientRecord> {
    const { node, registry } = this;
    if (registry.size >= MAX_CLIENTS) throw new RelayError("too_many", `there are ${MAX_CLIENTS} clients already`);
    if (registry.countOf(userKey(userId)) >= MAX_CLIENTS_PER_USER) {
      throw new RelayError("too_many", `this user has ${MAX_CLIENTS_PER_USER} clients already`);
    }
    const id = uuid().replaceAll("-", "");
    const expiresAt = Date.now() + (ttl || CONNECT_WITHIN) * 1000;
    const record = await this.engine.clients.update(id, (_, at) => ({
      id,
      userId,
      ttl,
      expiresAt,
      node,
      cursor: at,
      confirmed: at,
      lost: [],
      subscriptions: [{ from: at, topics: [...new Set(topics)] }],
      rooms: [],
      gap: false,
    }));
    return found(record);
  }

  /** Registers a client of `/ws`, with a user id that no client here has. */
  async registerAnonymous(ttl: number): Promise<ClientRecord> {
    do this.anonymous++;
    while (this.registry.countOf(userKey(this.anonymous)) > 0);
    return this.register({ userId: this.anonymous, topics: [BROADCAST], ttl });
  }

  /** The client as it stands. @throws {RelayError} not_found */
  async get(id: ClientId): Promise<ClientRecord> {
    const held = this.registry.get(id)?.record;
    return found(held ?? (await this.engine.clients.get(id)));
  }

  /** @throws {RelayError} not_found; bad_request: too many topics */
  async changeTopics(id: ClientId, change: TopicsChange): Promise<ClientRecord> {
    const reader = this.registry.get(id);
    if (reader && !reader.connection) await this.passUnowed(reader);
    return found(await this.update(id, (record, at) => withTopics(record, change, at)));
  }

  /** Removes a client and ends its connection. @returns whether there was one */
  async remove(id: ClientId): Promise<boolean> {
    let was = false;
    const reader = this.registry.get(id);
    // Receipts go on to tell what it had confirmed. When this fails, so does the rest.
    if (reader) this.engine.clients.moveCursors(new Map([[id, reader.confirmed]])).catch(() => undefined);
    await this.update(id, () => {
      was = true;
      return undefined;
    });
    return was;
  }

  /** Removes all of a user's clients. @returns how many */
  async removeUser(userId: UserId): Promise<number> {
    const records = await this.engine.clients.of(userKey(userId));
    const removed = await Promise.all(records.map(({ id }) => this.remove(id)));
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
    let claimed: Place | undefined;
    await this.update(
      id,
      (record) => {
        const { position, gap } = locate(record);
        claimed = { position, gap: gap || record.gap };
        const stays = compareIds(position, record.cursor) === 0;
        if (stays && record.node === node && record.expiresAt === undefined && !record.gap) return record;
        return { ...withPosition(record, position, has), node, expiresAt: undefined, gap: false };
      },
      false,
    );
    if (!claimed) throw notFound();
    return claimed;
  }

  /** Notes that what comes after `after`, up to and with `through`, will not reach the client. */
  async lose(reader: Reader, after: EventId, through: EventId): Promise<void> {
    await this.update(reader.id, (record) => withLoss(record, after, through), false);
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
      this.registry.schedule({ id, expiresAt: Date.now() + RETRY_AFTER });
    }
  }

  /** Removes a client whose time is up. */
  async expire(id: ClientId): Promise<void> {
    const reader = this.registry.get(id);
    if (!reader || reader.connection) return;
    const { expiresAt } = reader.record;
    if (expiresAt === undefined) return this.park(reader);
    // The clock on the wall may have been set back.
    if (expiresAt > Date.now()) return this.registry.schedule({ id, expiresAt });
    try {
      await this.engine.clients.update(id, (record) =>
        record && isForgotten(record, Date.now()) ? undefined : record,
      );
    } catch {
      this.registry.schedule({ id, expiresAt: Date.now() + RETRY_AFTER });
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
        if (!record || isForgotten(record, Date.now())) return record;
        const known = reader ? withProgress(record, reader) : record;
        const changed = change(known, at);
        return changed === known ? record : changed;
      },
      safe,
    );
  }

  /** Moves the cursor of a client that is away over stretches of the log that hold nothing for it. */
  private async passUnowed(reader: Reader): Promise<void> {
    for (;;) {
      const stretch = reader.stretch(reader.cursor);
      if (!stretch.until) return;
      const { events, through } = await this.log.read({ after: reader.cursor, limit: 1, ...stretch });
      if (events.length > 0) return;
      reader.pass(through);
    }
  }
}

function found(record: ClientRecord | undefined): ClientRecord {
  if (!record || isForgotten(record, Date.now())) throw notFound();
  return record;
}

/** The same for unknown, expired and removed: nothing is to be learnt from the difference. */
export function notFound(): RelayError {
  return new RelayError("not_found", "no such client: it is unknown, expired or was removed");
}
