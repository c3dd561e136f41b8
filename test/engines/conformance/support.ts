import { onTestFinished } from "vitest";
import { type ClientRecord, withVersion } from "../../../src/core/client.js";
import type {
  Answer,
  Appended,
  Bounds,
  ClientDraft,
  Engine,
  Entry,
  Follower,
  Query,
  Question,
  Who,
} from "../../../src/core/engine.js";
import type { Event } from "../../../src/core/event.js";
import type { EventId } from "../../../src/core/id.js";
import type { Retention } from "../../../src/engines/local/window.js";
import { clientRecord, hasTrimmed, readAll as readOn } from "../../support/engine.js";

/** A log that relays share. */
export interface SharedLog {
  /** What one more relay uses: the same engine each time, or another one on the same log. */
  readonly open: () => Promise<Engine>;
  readonly close: () => Promise<void>;
}

/** Makes a log with storage of its own. @param retention where it differs from one that trims nothing */
export type MakeLog = (retention?: Partial<Retention>) => Promise<SharedLog>;

/** The log ends with the test. */
export async function openLog(make: MakeLog, retention?: Partial<Retention>): Promise<SharedLog["open"]> {
  const log = await make(retention);
  onTestFinished(log.close);
  return log.open;
}

/** The optional powers of an engine. Those of `kept receipts` outlive its relays. */
export type Power = "kept receipts" | "replies" | "cursors" | "peers";

/** What an engine has to have that does not say that it lacks it. */
export function present<Optional>(found: Optional | undefined): Optional {
  if (found === undefined) throw new Error("the engine does not have it");
  return found;
}

/** A follower that keeps what it is told. */
export class Listener implements Follower {
  /** What the engine called, in order. */
  readonly calls: string[] = [];
  readonly bounds: Bounds[] = [];
  readonly entries: Entry[] = [];
  readonly floors: EventId[] = [];
  readonly inherited: ClientRecord[] = [];
  readonly questions: Question[] = [];
  private readonly waiting = new Set<() => void>();

  constructor(
    readonly node: string,
    private readonly answered: Partial<Answer> = {},
  ) {}

  /** A relay that follows an engine. */
  static async on(engine: Engine, node: string, answered?: Partial<Answer>) {
    const listener = new Listener(node, answered);
    return { listener, leave: await engine.follow(listener) };
  }

  begin(bounds: Bounds): void {
    this.bounds.push(bounds);
    this.note("begin");
  }

  follow(entry: Entry): void {
    this.entries.push(entry);
    this.note("follow");
  }

  trimmed(floor: EventId): void {
    this.floors.push(floor);
    this.note("trimmed");
  }

  inherit(clients: readonly ClientRecord[]): void {
    this.inherited.push(...clients);
    this.note("inherit");
  }

  async answer(question: Question): Promise<Answer> {
    this.questions.push(question);
    return { connections: 0, clients: 0, ofUser: 0, anonymous: 0, deliveries: [], ...this.answered };
  }

  /** The ids of the entries. */
  get ids(): EventId[] {
    return this.entries.map((entry) => (entry.kind === "event" ? entry.event.id : entry.id));
  }

  /** Resolves when something holds about what this follower was told. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) await new Promise<void>((resolve) => this.waiting.add(resolve));
  }

  private note(call: string): void {
    this.calls.push(call);
    for (const wake of this.waiting) wake();
    this.waiting.clear();
  }
}

// Clients: UUIDs as 32 hex digits.
export const [C1, C2, C3] = ["a", "b", "c"].map((digit) => digit.repeat(32)) as [string, string, string];

export function draft(topic: string, message = '"m"'): { topic: string; message: string } {
  return { topic, message };
}

/** A new client, as a relay appends it. */
export function newClient(id: string, more: Partial<ClientRecord> = {}): ClientRecord {
  return clientRecord({ id, topics: ["a"], node: "here", ...more });
}

/** Appends a client that there is not yet. @returns as the engine is to have it */
export async function addClient(engine: Engine, record: ClientRecord): Promise<ClientRecord> {
  return withVersion(record, await changeClient(engine, { client: record.id, record, expect: "absent" }));
}

/** @returns the id of the entry. @throws when the client is not what was expected */
export async function changeClient(engine: Engine, change: ClientDraft): Promise<EventId> {
  const { ids, conflict } = await engine.append(change);
  const [id] = ids;
  if (conflict || !id) throw new Error("the client is not what was expected");
  return id;
}

/** The clients as they are. An engine may leave it to the relay to resolve `OWN`. */
export async function find(engine: Engine, who: Who): Promise<ClientRecord[]> {
  return (await engine.find(who)).map(resolved);
}

export function resolved(record: ClientRecord): ClientRecord {
  return withVersion(record, record.version);
}

export function onlyId({ ids }: Appended): EventId {
  return ids[0] as EventId;
}

type Asked = Partial<Omit<Query, "after">>;

/** All that a query asks for, in as many reads as that takes. */
export function readAll(engine: Engine, after: EventId, asked: Asked = {}): Promise<Event[]> {
  return readOn(engine, { after, topics: [">"], user: "nobody", limit: 1000, ...asked });
}

export async function topicsAfter(...args: Parameters<typeof readAll>): Promise<string[]> {
  return (await readAll(...args)).map(({ topic }) => topic);
}

export function hasGap(engine: Engine, topics: readonly string[], after: EventId, user = "1"): Promise<boolean> {
  return hasTrimmed(engine, { topics, user, after });
}
