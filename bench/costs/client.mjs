// The URL of one client, whose backend allows it to subscribe to everything and to publish everywhere.
import { textFrame } from "../support/frames.mjs";
import { arrayOf, longTopic } from "../support/target.mjs";
import { withKeys } from "./scenario.mjs";

/** Frames a second that the relay takes from a connection, and some room. */
const ALLOWED = 990;

const careless = { user_id: 1, topics: ["start"], allow: { subscribe: [">"], publish: [">"] } };

/** A client, to be attacked with the same frames all the time. */
function flood(textsOf, { query = "", fields = {}, ...options } = {}) {
  return {
    prepare: async (target) => ({
      id: await target.register({ ...careless, ...fields }),
      frames: textsOf().map(textFrame),
    }),
    attack: (attack, _target, { id, frames }) =>
      attack.frames(`/ws/${id}${query}`, (number) => frames[number % frames.length], options),
  };
}

/** The same, with an event that the client does not confirm: so it is behind, and reads with what it had before. */
function floodBehind(textsOf, options = {}) {
  const scenario = flood(textsOf, { query: "?ack=manual&format=json", ...options });
  return {
    ...scenario,
    prepare: async (target) => {
      const prepared = await scenario.prepare(target);
      await target.publish({ topic: "start", message: 1 });
      return prepared;
    },
  };
}

const request = (action, payload) => JSON.stringify({ id: 1, type: "request", action, payload });
const topicsFrame = (topics) => JSON.stringify({ topics });

/** Letters of two bytes: 1,000 patterns of 127 segments with one letter each are just small enough for a frame. */
const LETTERS = arrayOf(336, (index) => String.fromCodePoint(0x100 + index));

/** 1,000 patterns that differ from those of other rounds. */
function deepPatterns(round) {
  const letter = (index, depth) => LETTERS[(index * 7 + depth * 11 + round * 131) % LETTERS.length];
  return arrayOf(1000, (index) =>
    arrayOf(127, (depth) => (depth === 1 ? "*" : letter(index + depth * Math.floor(index / 48), depth))).join("."),
  );
}

/** Patterns that match nothing, over a log of 50,000 topics. */
const idlePatterns = arrayOf(1000, (index) => `w.*.none.${index}`);

async function fillLog(target) {
  await target.publishMany(50_000, (index) => ({ topic: `w.${index}.${index % 100}`, message: index }));
  return target.register({ ...careless, topics: idlePatterns });
}

/** Connects again as soon as it is connected. */
async function reconnect(attack, _target, id) {
  const again = async () => {
    while (!attack.isOver) {
      const wire = await attack.connectFrames(`/ws/${id}?since=0`);
      if (wire) attack.made++;
      wire?.socket.destroy();
    }
  };
  await Promise.all(arrayOf(8, again));
}

/** Some messages that are as large as frames may be, and the answers are not read. */
const largeEcho = request("echo", { message: "x".repeat(300_000) });

export const scenarios = {
  "frames of 130,000 empty topics": flood(() => [topicsFrame(arrayOf(130_000, () => ""))]),
  "frames of 1,000 times the same topic": flood(() => [topicsFrame(arrayOf(1000, () => "a"))], { perSecond: ALLOWED }),
  "frames as fast as possible": flood(() => ["ping"]),
  "join and leave, with 990 topics of 255 characters, behind": floodBehind(
    () => arrayOf(2, (index) => JSON.stringify({ type: index === 0 ? "join" : "leave", room: "x" })),
    { query: "?ack=manual", perSecond: ALLOWED, fields: { topics: ["start", ...arrayOf(989, longTopic)] } },
  ),
  "60 changes to 999 other topics of 255 characters, behind": floodBehind(
    () => arrayOf(60, (round) => topicsFrame(["start", ...arrayOf(999, (index) => longTopic(`${round}.${index}`))])),
    { times: 60 },
  ),
  "changes to 999 other topics of 255 characters, behind": floodBehind(() =>
    arrayOf(200, (round) => topicsFrame(["start", ...arrayOf(999, (index) => longTopic(`${round}.${index}`))])),
  ),
  "changes to 1,000 other patterns of 127 segments": flood(() =>
    arrayOf(40, (round) => topicsFrame(deepPatterns(round))),
  ),
  "echo of 300 KB, never read": flood(() => [largeEcho], { reads: false }),
  "echo of 300 KB": flood(() => [largeEcho]),
  "echo of small messages, never read": flood(() => [request("echo", { message: "x" })], {
    reads: false,
    perSecond: ALLOWED,
  }),
  "reconnect with since=0 and 1,000 idle patterns, 50,000 topics": {
    flags: () => withKeys("--publish-rate", "1000000"),
    prepare: fillLog,
    attack: reconnect,
  },
  "publish of small events": flood(() => [request("publish", { topic: "x", message: "x" })], { perSecond: ALLOWED }),
  "publish of 60 KB events": flood(() => [request("publish", { topic: "x", message: "x".repeat(60_000) })], {
    perSecond: ALLOWED,
  }),
};
