import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Receipts } from "../protocol.js";
import { keyOf } from "./access.js";
import { type Context, noStore, shortId } from "./context.js";
import { checkEncoding } from "./json.js";
import { bodyOf } from "./publication.js";
import { type Asked, checkAsked, Publishing } from "./publishing.js";

/** Bytes of a request with many events; a single event is bounded by the `max-message` setting. */
export const MAX_BATCH_BYTES = 8 * 1024 * 1024;

/** `/publish` and `/events`: events come in, and publishers learn what became of them. */
export function publishRoutes(app: FastifyInstance, context: Context): void {
  const { settings, limits } = context;
  const publishing = new Publishing(context);

  const config = { access: { scope: "publish" } } as const;

  app.post("/publish", { config, bodyLimit: MAX_BATCH_BYTES }, async (request, reply) => {
    noStore(reply);
    limits.checkPublish(request);
    const body = bodyOf(request, settings.maxMessage);
    const asked = askedOf(request);
    const options = asked.wait === undefined ? asked : { ...asked, signal: goneSignal(reply) };
    const charge = (cost: number): void => limits.publish(request, cost);
    if (body.form === "single") return publishing.one(body.draft, options, charge);
    const replies = await publishing.many(body, options, charge);
    if (body.form === "array") return replies;
    void reply.type("application/x-ndjson");
    return replies.map(lineOf).join("");
  });

  app.get<{ Params: { id: string } }>("/events/:id", { config }, async (request, reply) => {
    noStore(reply);
    // Whoever has a client's id can connect as that client: only those who may register learn it whole.
    const key = keyOf(request);
    const idOf = key && !key.scopes.has("register") ? shortId : (id: string): string => id;
    return publishing.receipt(request.params.id, idOf);
  });
}

/** A reply as a line of JSON: what most of them are is put together by hand, as there may be thousands of them. */
function lineOf(item: Receipts[number]): string {
  if (!("id" in item) || item.matched === undefined || item.confirmed !== undefined || item.duplicate) {
    return `${JSON.stringify(item)}\n`;
  }
  return `{"id":"${item.id}","matched":${item.matched},"sent":${item.sent},"waiting":${item.waiting}}\n`;
}

function askedOf(request: FastifyRequest): Asked {
  const { wait } = request.query as { wait?: unknown };
  const isNumber = typeof wait === "string" && /^\d+(?:\.\d+)?$/.test(wait);
  // Idempotency keys of one backend mean nothing to another.
  const owner = keyOf(request)?.name ?? "";
  return checkAsked(isNumber ? Number(wait) : wait, request.headers["idempotency-key"], owner, "Idempotency-Key");
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

/** Hands every body on as bytes: `/publish` tells itself what it takes. */
export function acceptAnyBody(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, async ({ headers }: FastifyRequest, body: Buffer) => {
    checkEncoding(headers);
    return body;
  });
}
