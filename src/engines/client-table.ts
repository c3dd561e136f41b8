import { type ClientId, type ClientRecord, NOBODY } from "../core/client.js";
import { userKey } from "../core/event.js";
import { MultiMap } from "../core/multimap.js";
import { inTurns } from "../core/turns.js";

/** Client records in memory, by id and by user. */
export class ClientTable {
  private readonly records = new Map<ClientId, ClientRecord>();
  /** Made when somebody asks for the first time: a relay starts sooner without. */
  private users: MultiMap<string, ClientId> | undefined;
  private indexed: Promise<void> | undefined;

  get size(): number {
    return this.records.size;
  }

  get(id: ClientId): ClientRecord | undefined {
    return this.records.get(id);
  }

  /** All clients of a user, by `userKey`. */
  async of(user: string): Promise<ClientRecord[]> {
    await (this.indexed ??= this.index());
    return [...(this.users?.get(user) ?? [])].flatMap((id) => this.records.get(id) ?? []);
  }

  /** All clients; those that come and go meanwhile may be among them or not. */
  all(): Iterable<ClientRecord> {
    return this.records.values();
  }

  /** A client that is new. */
  add(record: ClientRecord): void {
    this.records.set(record.id, record);
    this.users?.add(userKey(record.userId), record.id);
  }

  /** A client that is there already, as it is now. */
  replace(record: ClientRecord): void {
    this.records.set(record.id, record);
  }

  /** Gives a client to a relay that holds it from now on. */
  take(record: ClientRecord, node: string, expiresAt: number): ClientRecord {
    if (record.node !== NOBODY) {
      const taken = { ...record, node, expiresAt };
      this.replace(taken);
      return taken;
    }
    // No relay has seen it yet, so it can be changed in place: at a start there may be a million of them.
    const own = record as { -readonly [Field in keyof ClientRecord]: ClientRecord[Field] };
    own.node = node;
    own.expiresAt = expiresAt;
    return own;
  }

  delete({ id, userId }: ClientRecord): void {
    this.records.delete(id);
    this.users?.delete(userKey(userId), id);
  }

  private async index(): Promise<void> {
    const users = new MultiMap<string, ClientId>();
    this.users = users;
    await inTurns(this.all(), ({ id, userId }) => users.add(userKey(userId), id));
  }
}
