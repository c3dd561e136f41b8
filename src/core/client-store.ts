import {
  type ClientId,
  type ClientRecord,
  type Secret,
  secretOf,
  settled,
  withProgress,
  withVersion,
} from "./client.js";
import type { Engine, Who } from "./engine.js";
import { RelayError } from "./errors.js";
import { compareIds, type EventId } from "./id.js";
import type { Registry } from "./registry.js";

/** What a client becomes; undefined: it is removed. With `OWN` for the id of the change. */
export type Change = (record: ClientRecord) => ClientRecord | undefined;

export interface Changed {
  /** The client as it is now; undefined: there is none. */
  readonly record: ClientRecord | undefined;
  /** As it was before the change; undefined: nothing has changed. */
  readonly before?: ClientRecord;
}

/** The clients as the engine keeps them, and as this relay knows of those that it holds. */
export class ClientStore {
  private stopped = false;

  constructor(
    private readonly engine: Pick<Engine, "append" | "find">,
    private readonly registry: Registry,
  ) {}

  /** As this relay knows it, or else as the engine does. */
  async get(id: ClientId): Promise<ClientRecord | undefined> {
    return this.registry.get(id)?.record ?? this.find({ client: id });
  }

  async bySecret(secret: Secret): Promise<ClientRecord | undefined> {
    const held = this.registry.get(secret)?.record;
    return held && secretOf(held) === secret ? held : this.find({ secret });
  }

  /** As the engine knows it. */
  async find(who: Who): Promise<ClientRecord | undefined> {
    const [found] = await this.engine.find(who);
    return found && settled(found);
  }

  /** @param user `userKey` */
  ofUser(user: string): Promise<readonly ClientRecord[]> {
    return this.engine.find({ user });
  }

  /** Takes no more changes: nobody would hold what is changed now. */
  stop(): void {
    this.stopped = true;
  }

  /** Adds a client that is new. @returns it, with the id of its entry where it says `OWN` @throws {RelayError} unavailable */
  async add(record: ClientRecord): Promise<ClientRecord> {
    this.checkStopped();
    const { ids } = await this.engine.append({ client: record.id, record, expect: "absent" });
    return withVersion(record, ids[0] as EventId);
  }

  /**
   * Changes a client, from what is known of it here; again from what it is by then, when somebody else has changed it
   * meanwhile. When `change` returns what it got, nothing is appended.
   * @param safe as of `AppendOptions`
   * @throws {RelayError} unavailable
   */
  async change(id: ClientId, change: Change, safe = true): Promise<Changed> {
    let known = this.registry.get(id)?.record ?? (await this.get(id));
    while (known) {
      const record = change(known);
      if (record === known) {
        if (!safe) return { record };
        // What it is may not be safe yet all the same, and this relay may not have followed yet what it is.
        const [current] = await this.engine.find({ client: id });
        if (!current || compareIds(current.version, known.version) === 0) return { record: current && record };
        known = this.withOwnProgress(settled(current));
        continue;
      }
      this.checkStopped();
      const placed = record !== undefined && compareIds(record.cursor, known.cursor) < 0;
      const draft = { client: id, record, expect: known.version, placed };
      const { ids, conflict } = await this.engine.append(draft, { safe });
      if (!conflict) return { record: record && withVersion(record, ids[0] as EventId), before: known };
      known = conflict.current && this.withOwnProgress(settled(conflict.current));
    }
    return { record: undefined };
  }

  private checkStopped(): void {
    if (this.stopped) throw new RelayError("unavailable", "the relay is ending");
  }

  /** While this relay holds the client, nobody knows better how far it is. */
  private withOwnProgress(record: ClientRecord): ClientRecord {
    const reader = this.registry.get(record.id);
    return reader?.kept.node === record.node ? withProgress(record, reader) : record;
  }
}
