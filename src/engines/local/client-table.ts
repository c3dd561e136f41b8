import { type ClientId, type ClientRecord, type Secret, secretOf } from "../../core/client.js";
import { userKey } from "../../core/event.js";
import { MultiMap } from "../../core/multimap.js";
import { inTurns } from "../../core/turns.js";

/** Client records in memory, by id and by user. */
export class ClientTable {
  private readonly records = new Map<ClientId, ClientRecord>();
  /** Of those that have a secret besides their id. */
  private readonly secrets = new Map<Secret, ClientId>();
  /** Made when somebody asks for the first time: a relay starts sooner without. */
  private users: MultiMap<string, ClientId> | undefined;
  private indexed: Promise<void> | undefined;

  get size(): number {
    return this.records.size;
  }

  get(id: ClientId): ClientRecord | undefined {
    return this.records.get(id);
  }

  bySecret(secret: Secret): ClientRecord | undefined {
    const record = this.records.get(this.secrets.get(secret) ?? secret);
    return record && secretOf(record) === secret ? record : undefined;
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

  /** A client that is new, or as it is now. */
  put(record: ClientRecord): void {
    const { id, secret } = record;
    const before = this.records.get(id);
    if (!before) this.users?.add(userKey(record.userId), id);
    else if (before.secret !== undefined) this.secrets.delete(before.secret);
    if (secret !== undefined) this.secrets.set(secret, id);
    this.records.set(id, record);
  }

  /** Moves the deadline of a client that no relay has seen yet. In place: at a start there may be a million of them. */
  postpone(record: ClientRecord, milliseconds: number): void {
    const own = record as { -readonly [Field in keyof ClientRecord]: ClientRecord[Field] };
    if (own.expiresAt !== undefined) own.expiresAt += milliseconds;
  }

  delete({ id, userId, secret }: ClientRecord): void {
    this.records.delete(id);
    this.users?.delete(userKey(userId), id);
    if (secret !== undefined) this.secrets.delete(secret);
  }

  private async index(): Promise<void> {
    const users = new MultiMap<string, ClientId>();
    this.users = users;
    await inTurns(this.all(), ({ id, userId }) => users.add(userKey(userId), id));
  }
}
