import { type ClientId, type ClientRecord, withProgress } from "../core/client.js";
import type { ClientChange, ClientStore, Entry } from "../core/engine.js";
import { userKey } from "../core/event.js";
import type { EventId } from "../core/id.js";
import type { Journal } from "./journal.js";

/** Gives a change its place in the log, and hands it on if there is one. */
export type ClientOrder = (make: (id: EventId) => Entry | undefined) => void;

/** All clients, in memory; and in the journal, if there is one. */
export class LocalClients implements ClientStore {
  private readonly records = new Map<ClientId, ClientRecord>();
  private readonly users = new Map<string, Set<ClientId>>();

  constructor(
    private readonly order: ClientOrder,
    private readonly journal: Journal | undefined,
    restored: Iterable<ClientRecord>,
  ) {
    for (const record of restored) this.adopt(record);
  }

  /** Takes a record in without an entry. */
  adopt(record: ClientRecord): void {
    this.records.set(record.id, record);
    this.index(record);
  }

  all(): Iterable<ClientRecord> {
    return [...this.records.values()];
  }

  find(id: ClientId): ClientRecord | undefined {
    return this.records.get(id);
  }

  async get(id: ClientId): Promise<ClientRecord | undefined> {
    return this.find(id);
  }

  async of(user: string): Promise<ClientRecord[]> {
    return [...(this.users.get(user) ?? [])].flatMap((id) => this.records.get(id) ?? []);
  }

  async update(id: ClientId, change: ClientChange, safe = true): Promise<ClientRecord | undefined> {
    const old = this.records.get(id);
    let record: ClientRecord | undefined;
    let changed = false;
    this.order((at) => {
      record = change(old, at);
      changed = record !== old;
      if (!changed) return undefined;
      if (safe) this.journal?.check();
      if (record) {
        this.adopt(record);
        this.journal?.putClient(record, at);
        return { kind: "client", id: at, record };
      }
      if (old) this.remove(old, at);
      return { kind: "removed", id: at, client: id };
    });
    if (changed && safe) await this.journal?.saved();
    return record;
  }

  async moveCursors(cursors: ReadonlyMap<ClientId, EventId>): Promise<void> {
    this.journal?.check();
    for (const [id, cursor] of cursors) {
      const record = this.records.get(id);
      if (!record) continue;
      const moved = withProgress(record, { cursor, confirmed: cursor });
      this.records.set(id, moved);
      this.journal?.moveClient(moved);
    }
    await this.journal?.saved();
  }

  private remove(record: ClientRecord, at: EventId): void {
    this.records.delete(record.id);
    this.index(record);
    this.journal?.removeClient(record, at);
  }

  private index({ id, userId }: ClientRecord): void {
    const user = userKey(userId);
    const ids = this.users.get(user) ?? new Set();
    if (this.records.has(id)) ids.add(id);
    else ids.delete(id);
    if (ids.size > 0) this.users.set(user, ids);
    else this.users.delete(user);
  }
}
