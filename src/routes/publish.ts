import { createHash } from "node:crypto";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Once } from "../core/engine.js";
import { RelayError } from "../core/errors.js";
import type { EventDraft } from "../core/event.js";
import { formatId, parseId } from "../core/id.js";
import type { PublishOptions } from "../core/publisher.js";
import { inTurns } from "../core/turns.js";
import { type EventRecord, MAX_KEY, type Problem, type Receipt, type Receipts } from "../protocol.js";
import { keyOf } from "./access.js";
import { type Context, noStore, shortId } from "./context.js";
import { checkEncoding } from "./json.js";
import { InvalidInput, problemOf, tellLimit } from "./problems.js";
import { bodyOf, Malformed, type ManyItems } from "./publication.js";

/** Bytes of a request with many events; a single event is bounded by the `max-message` setting. */
export const MAX_BATCH_BYTES = 8 * 1024 * 1024;

/** Events in one request. */
const MAX_BATCH = 10_000;

/** Wrong fields that are told of each item among many. */
const ITEM_ERRORS = 3;

/** Users that the events of one request may name, taken together: each has its own place in the log. */
const MAX_USERS_IN_ALL = 20_000;

/** Seconds (product section 3). */
const MAX_WAIT = 30;

/** `/publish` and `/events`: events come in, and publishers learn what became of them. */
export function publishRoutes(app: FastifyInstance, { startup, settings, limits, observer }: Context): void {
  const { maxMessage } = settings;

  const config = { access: { scope: "publish" } } as const;

  app.post("/publish", { config, bodyLimit: MAX_BATCH_BYTES }, async (request, reply) => {
    noStore(reply);
    limits.checkPublish(request);
    const body = bodyOf(request, maxMessage);
    const asked = optionsOf(request);
    const options = asked.wait === undefined ? asked : { ...asked, signal: goneSignal(reply) };
    if (body.form === "single") {
      const drafts = [readOne(request, body.draft)];
      limits.publish(request, costOf(drafts));
      const [receipt] = await publish(drafts, options);
      return receipt satisfies Receipt | undefined;
    }
    const batch = await readBatch(body);
    limits.publish(request, costOf(batch.drafts) + batch.outcomes.length - batch.drafts.length);
    const replies = await publishBatch(batch, options);
    if (body.form === "array") return replies;
    void reply.type("application/x-ndjson");
    return replies.map(lineOf).join("");
  });

  app.get<{ Params: { id: string } }>("/events/:id", { config }, async (request, reply) => {
    noStore(reply);
    const id = parseId(request.params.id);
    if (!id) throw new RelayError("not_found", "no such event: an id is <milliseconds>-<sequence>");
    const { event, deliveries } = await startup.relay.publisher.receipt(id);
    const { time, topic, users, ttl, key: replacementKey } = event;
    const head = {
      id: formatId(id),
      topic,
      time: new Date(time).toISOString(),
      ...(users && (users.length === 1 ? { user_id: users[0] } : { user_ids: users })),
      ttl,
      key: replacementKey,
    };
    if (!deliveries) return head satisfies EventRecord;
    const counts = { sent: 0, confirmed: 0, waiting: 0, expired: 0 };
    // Whoever has a client's id can connect as that client: only those who may register learn it whole.
    const key = keyOf(request);
    const idOf = key && !key.scopes.has("register") ? shortId : (id: string): string => id;
    const clients = deliveries.map(({ client, userId, state }) => {
      // Where one state is not known, there are no deliveries.
      const known = state as keyof typeof counts;
      counts[known]++;
      return { id: idOf(client), user_id: userId, state: known };
    });
    return { ...head, matched: deliveries.length, ...counts, clients } satisfies EventRecord;
  });

  async function publish(drafts: readonly EventDraft[], { name, wait, signal }: Asked) {
    const once = name && { ...name, fingerprint: await digest(drafts) };
    return startup.relay.publisher.publish(drafts, { wait, once, signal });
  }

  /** An event that is refused counts too, as in a batch: it was read. */
  function readOne(request: FastifyRequest, draft: () => EventDraft): EventDraft {
    try {
      return draft();
    } catch (error) {
      limits.publish(request, 1);
      throw error;
    }
  }

  /** Each item by itself: what is wrong with one does not touch the others. */
  async function readBatch({ items, draft }: ManyItems): Promise<Batch> {
    const drafts: EventDraft[] = [];
    const outcomes: Batch["outcomes"] = [];
    await inTurns(items, (item) => {
      if (outcomes.length >= MAX_BATCH) throw tooMany();
      try {
        outcomes.push(drafts.push(draft(item)) - 1);
      } catch (error) {
        if (error instanceof Malformed) throw error.reason;
        tellLimit(observer, error);
        outcomes.push(problemOf(error instanceof InvalidInput ? error.shortened(ITEM_ERRORS) : error));
      }
    });
    checkUsers(drafts);
    return { drafts, outcomes };
  }

  async function publishBatch({ drafts, outcomes }: Batch, options: Asked): Promise<Receipts> {
    const receipts = drafts.length > 0 ? await publish(drafts, options) : [];
    return outcomes.map((outcome) => (typeof outcome === "number" ? (receipts[outcome] as Receipt) : outcome));
  }
}

/** The events of a request with many items; and for each item, which of the events it is, or what is wrong with it. */
interface Batch {
  readonly drafts: EventDraft[];
  readonly outcomes: (number | Problem)[];
}

/** A reply as a line of JSON: what most of them are is put together by hand, as there may be thousands of them. */
function lineOf(item: Receipts[number]): string {
  if (!("id" in item) || item.matched === undefined || item.confirmed !== undefined || item.duplicate) {
    return `${JSON.stringify(item)}\n`;
  }
  return `{"id":"${item.id}","matched":${item.matched},"sent":${item.sent},"waiting":${item.waiting}}\n`;
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

/** What a request asks for besides its events. */
interface Asked extends Pick<PublishOptions, "wait" | "signal"> {
  /** Of its idempotency key. */
  readonly name: Pick<Once, "owner" | "key"> | undefined;
}

function optionsOf(request: FastifyRequest): Asked {
  const { wait } = request.query as { wait?: unknown };
  const key = request.headers["idempotency-key"];
  const seconds = typeof wait === "string" && /^\d+(?:\.\d+)?$/.test(wait) ? Number(wait) : undefined;
  if (wait !== undefined && (seconds === undefined || seconds > MAX_WAIT)) {
    throw new InvalidInput([{ path: "wait", message: `must be seconds, from 0 to ${MAX_WAIT}` }]);
  }
  if (Array.isArray(key) || key === "" || (key?.length ?? 0) > MAX_KEY) {
    throw new InvalidInput([{ path: "Idempotency-Key", message: `must have 1 to ${MAX_KEY} characters` }]);
  }
  // Those of one backend mean nothing to another.
  const name = key === undefined ? undefined : { owner: keyOf(request)?.name ?? "", key };
  return { name, wait: seconds === undefined ? undefined : seconds * 1000 };
}

/** Aborted when nobody can be answered any more. */
function goneSignal({ raw }: FastifyReply): AbortSignal {
  const gone = new AbortController();
  const { socket } = raw;
  const abort = (): void => gone.abort();
  socket?.once("end", abort);
  raw.once("close", () => {
    socket?.off("end", abort);
    abort();
  });
  return gone.signal;
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

/** Hands every body on as bytes: `/publish` tells itself what it takes. */
export function acceptAnyBody(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, async ({ headers }: FastifyRequest, body: Buffer) => {
    checkEncoding(headers);
    return body;
  });
}
