// A key with the scope `publish`.
import { setTimeout as sleep } from "node:timers/promises";
import { Frames, textFrame } from "../support/frames.mjs";
import { Requests } from "../support/requests.mjs";
import { arrayOf, linesOf } from "../support/target.mjs";
import { innocentEvent, withKey, withKeys } from "./scenario.mjs";

/** Requests under way at a time. */
const LANES = 4;

/** Most events in a request, and most users of an event. */
const MOST = 10_000;

/** Idempotency keys live for ten minutes: longer than it takes to fill the room for them. */
const FILL = 90;

const publisher = withKey("publisher");

function publish(body, { type, query = "", headers } = {}) {
  return Requests.make(`/publish${query}`, body, type, { headers: { ...publisher, ...headers } });
}

const requests = (attack, requestOf, lanes = LANES) =>
  Promise.all(arrayOf(lanes, () => attack.requests(requestOf, { depth: 1 })));

/** Ends the attack with the first answer of this status. */
async function until(attack, status) {
  while (!attack.isOver && attack.had(status) === 0) await sleep(20);
  attack.end();
}

/** Requests that each have a new idempotency key, until no more of them are taken. */
function withKeysOfTheirOwn(body, type, lanes) {
  return async (attack) => {
    const requestOf = (number) => publish(body, { type, headers: { "idempotency-key": `key-${number}` } });
    await Promise.all([requests(attack, requestOf, lanes), until(attack, "503")]);
  };
}

/** Whether another key's idempotent publish goes through. */
async function innocentWithKey(_attack, target) {
  const headers = { ...withKey("innocent"), "idempotency-key": "of-the-innocent" };
  const answer = await target.request("POST", "/publish", innocentEvent, { headers, status: "" });
  return answer.includes('"id"')
    ? "another key's idempotent publish goes through"
    : `another key gets ${codeOf(answer)}`;
}

function codeOf(answer) {
  return JSON.parse(answer).status;
}

/** What one of the keys that were taken costs. */
function sumOf({ memory, written, seconds, answers: { 200: taken = 0 } }) {
  const [kept, wrote] = [memory, written].map((bytes) => (bytes / 1024 / taken).toFixed(1));
  return `${taken} keys in ${seconds.toFixed(1)} s: each keeps ${kept} KiB of memory and writes ${wrote} KiB`;
}

const batch = linesOf(MOST, () => ({ topic: "x", message: 1 }));
const ndjson = "application/x-ndjson";
const orderEvent = JSON.stringify({ topic: "orders.x", message: 1 });
const oneEvent = publish(orderEvent);
const forUsers = publish(
  JSON.stringify({ topic: "x", message: 1, user_ids: arrayOf(MOST, (index) => `user-${index}`) }),
);
const manyTopics = publish(
  linesOf(MOST, (index) => ({ topic: `orders.${index}`, message: 1 })),
  { type: ndjson },
);

const subscribe = (target) => target.registerMany(5000, () => ({ topics: ["orders.>"] }));

/** 100 events a second for 5,000 clients. @param changes whether one more client joins and leaves all the time */
function audience(changes) {
  return {
    prepare: async (target) => {
      await subscribe(target);
      return target.register({ user_id: "other", topics: [], allow: { subscribe: [">"] } });
    },
    attack: (attack, _target, id) => {
      const frames = ["subscribe", "unsubscribe"].map((action) =>
        textFrame(JSON.stringify({ id: 1, type: "request", action, payload: { topics: ["orders.>"] } })),
      );
      return Promise.all([
        attack.requests(() => oneEvent, { perSecond: 100 }),
        changes && attack.frames(`/ws/${id}`, (number) => frames[number % 2], { perSecond: 990 }),
      ]);
    },
  };
}

/** Requests that wait for a confirmation which does not come. @returns a remark on whether another key may wait then */
async function waits(attack, target) {
  const id = await target.register({ user_id: "silent", topics: ["orders.x"] });
  target.open.push(await Frames.open(target.port, `/ws/${id}?ack=manual`));
  const waiting = publish(orderEvent, { query: "?wait=30" });
  const lanes = arrayOf(LANES, () => attack.requests(() => waiting, { depth: 1000 }));
  while (!attack.isOver && attack.had("429") === 0) await sleep(20);
  const headers = withKey("innocent");
  const answer = await target.request("POST", "/publish?wait=1", orderEvent, { headers, status: "" });
  const isLate = attack.isOver;
  await Promise.all(lanes);
  if (isLate) return "another key was answered only after the attack";
  return answer.includes('"id"') ? "another key may wait" : `another key's ?wait=1 gets ${codeOf(answer)}`;
}

const registeredManyTopics = (engine) => ({
  flags: () => withKeys("--engine", engine),
  prepare: (target) => subscribe(target),
  attack: (attack) => requests(attack, () => manyTopics),
});

export const scenarios = {
  "batches of 10,000, each with an idempotency key": {
    seconds: FILL,
    attack: withKeysOfTheirOwn(batch, ndjson, 1),
    after: innocentWithKey,
    sum: sumOf,
  },
  "single events, each with an idempotency key": {
    seconds: FILL,
    attack: withKeysOfTheirOwn(JSON.stringify({ topic: "x", message: 1 }), undefined, 32),
    after: innocentWithKey,
    sum: sumOf,
  },
  "events for 10,000 users": { attack: (attack) => requests(attack, () => forUsers) },
  "10,000 events on 10,000 topics, 5,000 clients on orders.>, memory": registeredManyTopics("memory"),
  "10,000 events on 10,000 topics, 5,000 clients on orders.>, lmdb": registeredManyTopics("lmdb"),
  "?wait=30 as often as possible": { seconds: 15, attack: waits },
  "100 events a second for 5,000 clients": audience(false),
  "100 events a second for 5,000 clients, one more joins and leaves": audience(true),
};
