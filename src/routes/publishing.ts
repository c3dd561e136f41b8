import { createHash } from "node:crypto";
import type { Once } from "../core/engine.js";
import { RelayError } from "../core/errors.js";
import type { EventDraft } from "../core/event.js";
import { formatId, parseId } from "../core/id.js";
import type { PublishOptions } from "../core/publisher.js";
import { inTurns } from "../core/turns.js";
import { type EventRecord, MAX_KEY, type Problem, type Receipt, type Receipts } from "../protocol.js";
import type { Context } from "./context.js";
import { InvalidInput, problemOf, tellLimit } from "./problems.js";
import { Malformed, type ManyItems } from "./publication.js";

/** Events in one request. */
const MAX_BATCH = 10_000;

/** Wrong fields that are told of each item among many. */
const ITEM_ERRORS = 3;

/** Users that the events of one request may name, taken together: each has its own place in the log. */
const MAX_USERS_IN_ALL = 20_000;

/** Seconds (product section 3). */
const MAX_WAIT = 30;

/** What a request asks for besides its events. */
export interface Asked extends Pick<PublishOptions, "wait" | "signal"> {
  /** Of its idempotency key. */
  readonly name: Pick<Once, "owner" | "key"> | undefined;
}

/**
 * @param wait seconds
 * @param owner of the idempotency key
 * @param nameOfKey how the publisher knows the field of the idempotency key
 * @throws {InvalidInput}
 */
export function checkAsked(wait: unknown, key: unknown, owner: string, nameOfKey: string): Asked {
  if (wait !== undefined && !(typeof wait === "number" && wait >= 0 && wait <= MAX_WAIT)) {
    throw new InvalidInput([{ path: "wait", message: `must be seconds, from 0 to ${MAX_WAIT}` }]);
  }
  if (key !== undefined && !(typeof key === "string" && key !== "" && key.length <= MAX_KEY)) {
    throw new InvalidInput([{ path: nameOfKey, message: `must have 1 to ${MAX_KEY} characters` }]);
  }
  return { name: key === undefined ? undefined : { owner, key }, wait: wait === undefined ? undefined : wait * 1000 };
}

/** The events of a request with many items; and for each item, which of the events it is, or what is wrong with it. */
interface Batch {
  readonly drafts: EventDraft[];
  readonly outcomes: (number | Problem)[];
}

/** Publishes what requests bring, over HTTP and in process, and tells what became of it. */
export class Publishing {
  constructor(private readonly context: Pick<Context, "startup" | "observer">) {}

  /**
   * @param charge called with what the event counts in its publisher's rate, before it is published: an event that is
   *   refused counts too, as in a batch
   * @throws {RelayError} what is wrong with the event; as `Publisher.publish`
   */
  async one(draft: () => EventDraft, asked: Asked, charge: (cost: number) => void): Promise<Receipt> {
    const drafts = [readOne(draft, charge)];
    charge(costOf(drafts));
    const [receipt] = await this.publish(drafts, asked);
    return receipt as Receipt;
  }

  /** As `one`, for many. Each item by itself: what is wrong with one does not touch the others. */
  async many<T>(items: ManyItems<T>, asked: Asked, charge: (cost: number) => void): Promise<Receipts> {
    const { drafts, outcomes } = await this.read(items);
    charge(costOf(drafts) + outcomes.length - drafts.length);
    const receipts = drafts.length > 0 ? await this.publish(drafts, asked) : [];
    return outcomes.map((outcome) => (typeof outcome === "number" ? (receipts[outcome] as Receipt) : outcome));
  }

  /**
   * @param idOf how a client's id is shown
   * @throws {RelayError} not_found; unavailable
   */
  async receipt(text: string, idOf: (client: string) => string): Promise<EventRecord> {
    const id = parseId(text);
    if (!id) throw new RelayError("not_found", "no such event: an id is <milliseconds>-<sequence>");
    const { event, deliveries } = await this.context.startup.relay.publisher.receipt(id);
    const { time, topic, users, ttl, key } = event;
    const head = {
      id: formatId(id),
      topic,
      time: new Date(time).toISOString(),
      ...(users && (users.length === 1 ? { user_id: users[0] } : { user_ids: users })),
      ttl,
      key,
    };
    if (!deliveries) return head;
    const counts = { sent: 0, confirmed: 0, waiting: 0, expired: 0 };
    const clients = deliveries.map(({ client, userId, state }) => {
      // Where one state is not known, there are no deliveries.
      const known = state as keyof typeof counts;
      counts[known]++;
      return { id: idOf(client), user_id: userId, state: known };
    });
    return { ...head, matched: deliveries.length, ...counts, clients };
  }

  private async publish(drafts: readonly EventDraft[], { name, wait, signal }: Asked): Promise<Receipt[]> {
    const once = name && { ...name, fingerprint: await digest(drafts) };
    return this.context.startup.relay.publisher.publish(drafts, { wait, once, signal });
  }

  private async read<T>({ items, draft }: ManyItems<T>): Promise<Batch> {
    const drafts: EventDraft[] = [];
    const outcomes: Batch["outcomes"] = [];
    await inTurns(items, (item) => {
      if (outcomes.length >= MAX_BATCH) throw tooMany();
      try {
        outcomes.push(drafts.push(draft(item)) - 1);
      } catch (error) {
        if (error instanceof Malformed) throw error.reason;
        tellLimit(this.context.observer, error);
        outcomes.push(problemOf(error instanceof InvalidInput ? error.shortened(ITEM_ERRORS) : error));
      }
    });
    checkUsers(drafts);
    return { drafts, outcomes };
  }
}

function readOne(draft: () => EventDraft, charge: (cost: number) => void): EventDraft {
  try {
    return draft();
  } catch (error) {
    charge(1);
    throw error;
  }
}

function tooMany(): RelayError {
  return new RelayError("too_large", `a request may have ${MAX_BATCH} events: this one has more`, {
    limit: "batch_events",
  });
}

/** What events count in their publisher's rate: each user that one names has its own place in the log. */
function costOf(drafts: readonly EventDraft[]): number {
  return drafts.reduce((sum, { users }) => sum + (users?.length ?? 1), 0);
}

function checkUsers(drafts: readonly EventDraft[]): void {
  const count = drafts.reduce((sum, { users }) => sum + (users?.length ?? 0), 0);
  if (count <= MAX_USERS_IN_ALL) return;
  const message = `the events of a request may name ${MAX_USERS_IN_ALL} users: these name ${count}`;
  throw new RelayError("too_large", message, { limit: "batch_users" });
}

/** Of the JSON list of them. */
async function digest(drafts: readonly EventDraft[]): Promise<string> {
  const hash = createHash("sha256");
  let separator = "[";
  await inTurns(drafts, (draft) => {
    hash.update(separator).update(JSON.stringify(draft));
    separator = ",";
  });
  return hash.update("]").digest("base64");
}
