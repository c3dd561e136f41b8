import { type ClientId, type ClientRecord, type Progress, withProgress } from "../core/client.js";
import type { ClientChange, ClientStore, Entry } from "../core/engine.js";
import type { EventId } from "../core/id.js";
import type { ClientTable } from "./client-table.js";
import type { Journal } from "./journal.js";

/** Gives a change its place in the log, and hands it on if there is one. */
export type ClientOrder = (make: (id: EventId) => Entry | undefined) => void;

/** All clients, in memory; and in the journal, if there is one. */
export class LocalClients implements ClientStore {
  constructor(
    private readonly order: ClientOrder,
    private readonly journal: Journal | undefined,
    private readonly records: ClientTable,
  ) {}

  async get(id: ClientId): Promise<ClientRecord | undefined> {
    return this.records.get(id);
  }

  async of(user: string): Promise<ClientRecord[]> {
    return this.records.of(user);
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
        if (old) this.records.replace(record);
        else this.records.add(record);
        this.journal?.putClient(record, at);
        return { kind: "client", id: at, record };
      }
      if (old) {
        this.records.delete(old);
        this.journal?.removeClient(old, at);
      }
      return { kind: "removed", id: at, client: id };
    });
    // When nothing has changed, what it is may not be safe yet all the same.
    if (safe) await (changed ? this.journal?.saved() : this.journal?.savedClient(id));
    return record;
  }

  async move(clients: ReadonlyMap<ClientId, Progress>): Promise<void> {
    // Also while the disk refuses writes: the next commit that succeeds brings it.
    for (const [id, progress] of clients) {
      const record = this.records.get(id);
      if (!record) continue;
      const moved = withProgress(record, progress);
      this.records.replace(moved);
      this.journal?.moveClient(moved);
    }
    await this.journal?.saved();
  }
}
