// Cases of /register, /users and /events, but for those that a large log makes worse: they are in log.mjs.
import { arrayOf, longTopic } from "../support/target.mjs";

const longTopics = arrayOf(1000, longTopic);

/** 1,000 topics that 100 patterns allow. */
const allowed = arrayOf(1000, (index) => `a${index % 100}.${index}`);
const allow = {
  subscribe: arrayOf(100, (index) => `a${index}.>`),
  publish: arrayOf(100, (index) => `b${index}.*`.padEnd(255, "x")),
};

export const groups = [
  {
    cases: {
      "POST /register: 1,000 topics of 255 characters": async (relay) => () =>
        relay.register({ user_id: 1, topics: longTopics }),
      "POST /register: 1,000 topics, 100 + 100 allow patterns": async (relay) => () =>
        relay.register({ user_id: 1, topics: allowed, allow }),
      "POST /register: 1 MiB of invalid topics": async (relay) => {
        const body = `{"user_id":1,"topics":[${arrayOf(340_000, () => '""').join(",")}]}`;
        return () => relay.request("POST", "/register", body, { status: "400" });
      },
      "GET /register/ID: 1,000 topics of 255 characters": async (relay) => {
        const id = await relay.register({ user_id: 1, topics: longTopics });
        return () => relay.request("GET", `/register/${id}`);
      },
      "DELETE /users/USER: 1,000 clients of 100 topics": async (relay) => {
        await relay.registerMany(1000, () => ({ user_id: "many", topics: allowed.slice(0, 100) }));
        return () => relay.request("DELETE", "/users/many");
      },
      "GET /events/ID: 10,000 clients": async (relay, round) => {
        if (round === 0) await relay.registerMany(10_000, () => ({ topics: ["all"] }));
        const { id } = JSON.parse(await relay.publish({ topic: "all", message: 1 }));
        return () => relay.request("GET", `/events/${id}`);
      },
      "GET /events/ID: 10,000 users": async (relay) => {
        const event = { topic: "all", message: 1, user_ids: arrayOf(10_000, (index) => `user-${index}`) };
        const { id } = JSON.parse(await relay.publish(event));
        return () => relay.request("GET", `/events/${id}`);
      },
    },
  },
];
