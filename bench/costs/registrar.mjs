// A key with the scope `register`.
import { Requests } from "../support/requests.mjs";
import { arrayOf, longTopic } from "../support/target.mjs";
import { withKey } from "./scenario.mjs";

const headers = withKey("registrar");

/** Requests under way at a time. */
const LANES = 4;

/** Clients that a user may have. */
const PER_USER = 1000;

const requests = (attack, requestOf) => Promise.all(arrayOf(LANES, () => attack.requests(requestOf, { depth: 1 })));

const topicsOf = (round) => arrayOf(1000, (index) => longTopic(`${round}.${index}`));

function register(fields) {
  const text = JSON.stringify({ ttl: 3600, ...fields }).slice(1);
  return (number) =>
    Requests.make("/register", `{"user_id":${Math.floor(number / PER_USER)},${text}`, undefined, { headers });
}

const each = ({ memory, written, answers: { 200: taken = 0 } }) =>
  `each keeps ${(memory / 1024 / taken).toFixed(1)} KiB of memory and writes ${(written / 1024 / taken).toFixed(1)} KiB`;

export const scenarios = {
  "small clients": {
    attack: (attack) => requests(attack, register({ topics: ["a"] })),
    sum: each,
  },
  "clients with 1,000 topics of 255 characters, the same ones": {
    attack: (attack) => requests(attack, register({ topics: topicsOf(0) })),
    sum: each,
  },
  "clients with 1,000 topics of 255 characters, new ones": {
    attack: (attack) => requests(attack, (number) => register({ topics: topicsOf(number) })(number)),
    sum: each,
  },
  "PATCH of a client to 1,000 other topics of 255 characters": {
    prepare: (target) => target.register({ user_id: 1, topics: ["a"] }),
    attack: (attack, _target, id) => {
      const bodies = arrayOf(20, (round) =>
        Requests.make(`/register/${id}`, JSON.stringify({ topics: topicsOf(round) }), undefined, {
          method: "PATCH",
          headers,
        }),
      );
      return requests(attack, (number) => bodies[number % bodies.length]);
    },
    sum: each,
  },
};
