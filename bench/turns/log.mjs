// Cases on a log of 100,000 topics: changes of subscriptions, connections and frames that read it or search it.
import { arrayOf } from "../support/target.mjs";

const TOPICS = 100_000;
/** No case has more rounds, the warm-up included: clients that are behind are used up. */
const ROUNDS = 6;
const FLAGS = ["--retention-bytes", "1GiB"];
/** So large that the sockets' own buffers do not hold the log. */
const message = "x".repeat(200);

/** Each matches 100 topics of the log. */
const patterns = arrayOf(1000, (index) => `w.*.${index}`);
/** None matches anything. */
const idle = arrayOf(1000, (index) => `w.*.none.${index}`);
const exact = arrayOf(1000, (index) => `w.${index * 100}.${(index * 100) % 1000}`);
const subscriptions = { "1,000 patterns": patterns, "1,000 idle patterns": idle, ">": [">"], "1,000 topics": exact };

/** A log of 100,000 topics, and clients from before it. */
async function fill(relay) {
  relay.behind = {};
  const pools = { ...subscriptions, nothing: ["nothing"] };
  for (const [name, topics] of Object.entries(pools)) {
    relay.behind[name] = await relay.registerMany(3 * ROUNDS, () => ({ topics }));
  }
  await relay.publishMany(TOPICS, (index) => ({ topic: `w.${index}.${index % 1000}`, message }));
}

/** The relay remembers the audiences of 10,000 topics, until a subscription to them changes: as in a busy relay. */
function remember(relay) {
  return relay.publishMany(10_000, (index) => ({ topic: `w.${index}.${index % 1000}`, message: 1, ttl: 0 }));
}

const patch = (relay, id, body, options) => () => relay.request("PATCH", `/register/${id}`, body, options);

/** A client that is behind by the whole log, and had `topics` until its subscriptions changed at the head. */
async function changedBehind(relay, topics) {
  const id = relay.behind[topics].shift();
  await relay.request("PATCH", `/register/${id}`, { topics: ["something"] });
  return id;
}

const changes = {
  "POST /register: 1,000 patterns": async (relay) => () => relay.register({ user_id: "r", topics: patterns }),
  "PATCH topics: 1,000 patterns, behind": async (relay) =>
    patch(relay, relay.behind.nothing.shift(), { topics: patterns }),
  "PATCH topics: 1,000 patterns, behind with 1,000 patterns before": async (relay) =>
    patch(relay, await changedBehind(relay, "1,000 patterns"), { topics: patterns }),
  "PATCH topics: 1,000 patterns, behind with 1,000 idle patterns before": async (relay) =>
    patch(relay, await changedBehind(relay, "1,000 idle patterns"), { topics: patterns }),
  "PATCH topics: 1,000 patterns, connected": async (relay) => {
    const id = await relay.register({ user_id: "p", topics: ["nothing"] });
    await relay.connect(id);
    return patch(relay, id, { topics: patterns });
  },
  "PATCH add: 1,001 patterns are refused, behind": async (relay) => {
    const id = await changedBehind(relay, "1,000 idle patterns");
    return patch(relay, id, { add: patterns }, { status: "400" });
  },
  "PATCH add: 1,000 patterns are not allowed": async (relay) => {
    const id = await relay.register({ user_id: "p", topics: ["nothing"], allow: { subscribe: ["nothing"] } });
    return patch(relay, id, { add: patterns }, { status: "403" });
  },
  "PATCH allow: takes 1,000 patterns": async (relay) => {
    const id = await relay.register({ user_id: "p", topics: patterns });
    return patch(relay, id, { allow: { subscribe: ["nothing"] } });
  },
  "DELETE /register/ID: 1,000 patterns": async (relay) => {
    const id = await relay.register({ user_id: "d", topics: patterns });
    return () => relay.request("DELETE", `/register/${id}`);
  },
};

function connecting(way, topics, place) {
  return async (relay) => {
    const id =
      place === "behind"
        ? relay.behind[topics].shift()
        : await relay.register({ user_id: "c", topics: subscriptions[topics] });
    return () => relay[way](id, place === "since=0" ? "?since=0" : "");
  };
}

const connections = Object.fromEntries(
  ["connect", "stream"].flatMap((way) =>
    Object.keys(subscriptions).flatMap((topics) =>
      // A stream differs only in how the bytes go out: one place is enough.
      (way === "connect" ? ["since=0", "behind", "at the head"] : ["since=0"]).map((place) => [
        `${way === "connect" ? "/ws/ID" : "/stream/ID"}: ${topics}, ${place}`,
        connecting(way, topics, place),
      ]),
    ),
  ),
);

const LARGEST_FRAME = 384 * 1024;
const topicsFrame = (name, count) => `{"topics":[${arrayOf(count, () => JSON.stringify(name)).join(",")}]}`;
const request = (action, payload) => JSON.stringify({ id: 1, type: "request", action, payload });
const JSON_FORMAT = "?format=json";

/** Sends frames on a connection that is live and has these topics, and waits for so many answers. */
function sending(frames, { topics = ["nothing"], answers = 1 } = {}) {
  return async (relay) => {
    const connection = await relay.connect(await relay.register({ user_id: "f" }), JSON_FORMAT);
    // Not registered with them: to connect with patterns is slow by itself.
    connection.send(JSON.stringify({ topics }));
    await connection.until(2);
    return () => {
      connection.send(...frames);
      return connection.until(2 + answers);
    };
  };
}

const frames = {
  "frame topics: 1,000 patterns, connected": sending([JSON.stringify({ topics: patterns })]),
  "frame topics: 1,000 patterns, behind": async (relay) => {
    const id = await relay.register({ user_id: "f", topics: [">"] });
    const connection = await relay.connect(id, `${JSON_FORMAT}&since=0`);
    connection.pause();
    return async () => {
      connection.send(JSON.stringify({ topics: patterns }));
      connection.resume();
    };
  },
  "frame topics: 130,000 empty strings": sending([topicsFrame("", 130_000)]),
  "frame topics: 98,000 times the same": sending([topicsFrame("a", 98_000)]),
  "frame subscribe: 1,000 patterns": sending([request("subscribe", { topics: patterns.slice(1) })]),
  "frame unsubscribe: 1,000 patterns": sending([request("unsubscribe", { topics: patterns })], { topics: patterns }),
  "frame publish: 10,000 users": sending([
    request("publish", { topic: "own", message: 1, user_ids: arrayOf(10_000, (index) => index) }),
  ]),
  "frame chat: 1,000 rooms": async (relay, round) => {
    if (round === 0) {
      relay.chatter = await relay.register({ user_id: "chat", topics: [] });
      const joining = await relay.connect(relay.chatter);
      const joins = arrayOf(1000, (index) => JSON.stringify({ type: "join", room: `room.${index}` }));
      joining.send(...joins, request("topics"));
      await joining.until(1);
      joining.close();
    }
    const connection = await relay.connect(relay.chatter);
    return () => {
      connection.send(JSON.stringify({ type: "chat", content: "hi" }));
      return connection.until(1000);
    };
  },
  "frame ack: of 10,000 events": async (relay) => {
    const id = await relay.register({ user_id: "a", topics: ["acked"] });
    await relay.publishMany(10_000, (index) => ({ topic: "acked", message: index }));
    const [last] = JSON.parse(await relay.publish([{ topic: "acked", message: 1 }]));
    const connection = await relay.connect(id, "?ack=manual");
    await connection.until(10_001);
    return () => {
      connection.send(request("ack", { id: last.id }));
      return connection.until(10_002);
    };
  },
  "frame of 384 KiB: junk": sending(["x".repeat(LARGEST_FRAME)]),
  "frame of 384 KiB: [": sending(["[".repeat(LARGEST_FRAME)]),
  "1,000 frames at once: ping": sending(
    arrayOf(1000, () => "ping"),
    { answers: 1000 },
  ),
  "200 frames at once: join and leave, with 990 topics of 255 characters": sending(
    arrayOf(200, (index) => JSON.stringify({ type: index % 2 === 0 ? "join" : "leave", room: "room" })),
    { topics: arrayOf(990, (index) => `t${index}.`.padEnd(255, "x")), answers: 200 },
  ),
};

/** 254 characters: with one more, topics of 128 segments. */
const DEEP = "a.".repeat(126);
const deepTopic = (index) => `${DEEP}${(index >> 5).toString(36)}.${(index & 31).toString(36)}`;
const deepPattern = (index) => {
  const segments = arrayOf(126, (place) => ((index >> (place % 10)) & 1 || place === 100 + (index % 20) ? "*" : "a"));
  return `${segments.join(".")}.*.*`;
};
const deepPatterns = arrayOf(1000, deepPattern);
const publishDeep = (relay) => relay.publishMany(1000, (index) => ({ topic: deepTopic(index), message: index }));

const deep = {
  "128 segments: POST /register, 1,000 patterns": async (relay) => () =>
    relay.register({ user_id: "d", topics: deepPatterns }),
  "128 segments: /ws/ID with 1,000 patterns, since=0": async (relay) => {
    const id = await relay.register({ user_id: "d", topics: deepPatterns });
    return () => relay.connect(id, "?since=0");
  },
  "128 segments: POST /publish, 1,000 events to a client of 1,000 patterns": async (relay) => {
    const id = await relay.register({ user_id: "d", topics: deepPatterns });
    return async () => {
      await publishDeep(relay);
      return id;
    };
  },
};

const others = {
  "100 events for 10,000 others each: /ws/ID with >, since=0": async (relay) => {
    const id = await relay.register({ user_id: "alone", topics: [">"] });
    return () => relay.connect(id, "?since=0");
  },
};

async function fillForOthers(relay) {
  const user_ids = arrayOf(10_000, (index) => `user-${index}`);
  for (let event = 0; event < 100; event++) await relay.publish({ topic: "others", message: 1, user_ids });
}

export const groups = [
  { flags: FLAGS, fill, before: remember, cases: { ...changes, ...frames, ...connections } },
  { flags: FLAGS, fill: publishDeep, cases: deep },
  { flags: FLAGS, fill: fillForOthers, cases: others },
];
