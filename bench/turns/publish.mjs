// Cases of POST /publish.
import { arrayOf, linesOf } from "../support/target.mjs";

const NDJSON = { type: "application/x-ndjson" };
const MIB8 = 8 * 1024 * 1024;
const COUNT = 10_000;
const message = "x".repeat(100);
const users = arrayOf(10_000, (index) => `user-${index}`);

/** A case that publishes the same bytes each time. */
function publishing(body, options = NDJSON) {
  return async (relay) => {
    const bytes = Buffer.from(body());
    return () => relay.publish(bytes, options);
  };
}

/** As many times as 8 MiB hold. */
function eightMiB(text) {
  return publishing(() => text.repeat(MIB8 / text.length), { status: "4" });
}

const onOne = () => linesOf(COUNT, () => ({ topic: "one", message }));
const keyOf = (round) => ({ ...NDJSON, headers: { "idempotency-key": `key-${round}` } });

/** Publishes `body` to clients that are registered, and connected if they have a query. */
function publishingTo(clients, topics, query, body, options) {
  return async (relay, round) => {
    if (round === 0) relay.clients = await relay.registerMany(clients, () => ({ topics }));
    if (query !== undefined) await relay.connectMany(relay.clients, query, { pongs: true });
    const lines = body(round);
    return () => relay.request("POST", options?.path ?? "/publish", lines, NDJSON);
  };
}

const orders = (round) => linesOf(COUNT, (index) => ({ topic: `orders.${round}-${index}`, message }));

export const groups = [
  {
    cases: {
      "POST /publish: 10,000 on a topic, array": publishing(
        () => JSON.stringify(arrayOf(COUNT, () => ({ topic: "one", message }))),
        {},
      ),
      "POST /publish: 10,000 on a topic, NDJSON": publishing(onOne),
      "POST /publish: 10,000 on 10,000 topics": async (relay, round) => {
        const lines = linesOf(COUNT, (index) => ({ topic: `many.${round}.${index}`, message }));
        return () => relay.publish(lines, NDJSON);
      },
      "POST /publish: 10,000 with keys, each replaces another": publishing(() =>
        linesOf(COUNT, (index) => ({ topic: "keyed", message, key: `key-${index}` })),
      ),
      "POST /publish: 10,000 for 2 users each": publishing(() =>
        linesOf(COUNT, (index) => ({ topic: "own", message, user_ids: [`user-${index}`, `other-${index}`] })),
      ),
      "POST /publish: one event for 10,000 users": publishing(() =>
        linesOf(1, () => ({ topic: "own", message, user_ids: users })),
      ),
      "POST /publish: two events for 10,000 users each, on new topics": async (relay, round) => {
        const lines = linesOf(2, (index) => ({ topic: `own.${round}.${index}`, message, user_ids: users }));
        return () => relay.publish(lines, NDJSON);
      },
      "POST /publish: 8 MiB of 64 KiB messages": publishing(() =>
        linesOf(127, () => ({ topic: "large", message: "x".repeat(65_534) })),
      ),
      "POST /publish: 10,000 with an idempotency key": async (relay, round) => {
        const lines = onOne();
        return () => relay.publish(lines, keyOf(round));
      },
      "POST /publish: 10,000, the duplicate": async (relay, round) => {
        const lines = onOne();
        await relay.publish(lines, keyOf(round));
        return () => relay.publish(lines, keyOf(round));
      },
      "POST /publish: 10,000 CloudEvents": publishing(
        () =>
          JSON.stringify(
            arrayOf(COUNT, (index) => ({
              specversion: "1.0",
              id: `${index}`,
              source: "/bench",
              type: "turn",
              subject: "one",
              data: message,
            })),
          ),
        { type: "application/cloudevents-batch+json" },
      ),
      "POST /publish: 10,000 invalid items": publishing(() => linesOf(COUNT, () => ({ topic: "", nothing: 1 }))),
      "POST /publish: 10,000 invalid items with 20 faults each": publishing(() => {
        const item = JSON.stringify(Object.fromEntries(arrayOf(40, (index) => [`field-${index}`, index])));
        return `${item}\n`.repeat(COUNT);
      }),
      "POST /publish: 8 MiB of [": eightMiB("[["),
      'POST /publish: 8 MiB of {"a":': eightMiB('{"a":'),
      "POST /publish: 8 MiB in a string": publishing(() => `"${"x".repeat(MIB8 - 2)}"`, { status: "4" }),
      "POST /publish: 8 MiB of numbers in a message": publishing(
        () => `{"topic":"one","message":[${"1,".repeat(MIB8 / 2 - 50)}1]}`,
        { status: "413" },
      ),
      "POST /publish: one event to 5,000 connections": publishingTo(5000, ["all"], "", () =>
        linesOf(1, () => ({ topic: "all", message })),
      ),
      "POST /publish?wait=1: 10,000 events to 100 connections": publishingTo(
        100,
        ["all"],
        "",
        () => linesOf(COUNT, () => ({ topic: "all", message: 1 })),
        { path: "/publish?wait=1" },
      ),
      "POST /publish: 10,000 on orders.I, 1,000 clients on orders.>": publishingTo(
        1000,
        ["orders.>"],
        undefined,
        orders,
      ),
      "POST /publish: 10,000 on orders.I, 1,000 connections on orders.>": publishingTo(1000, ["orders.>"], "", orders),
    },
  },
];
