import type { Registered } from "../../support/relay.js";
import type { Frames } from "../../support/socket.js";
import type { SharedRelay, Site } from "./site.js";

/** Two relays on one log. */
export interface Pair {
  readonly site: Site;
  readonly here: SharedRelay;
  readonly there: SharedRelay;
}

export interface EventFrame {
  readonly id: string;
  readonly topic: string;
  readonly message: string;
}

let scenes = 0;

/** Names that no other test on the same relays uses, and what tests do with a client of that user. */
export function scene() {
  const [topic, user] = [`topic-${++scenes}`, `user-${scenes}`];
  return {
    topic,
    user,
    register: (relay: SharedRelay, more: object = {}): Promise<Registered> =>
      relay.register({ user_id: user, topics: [topic], ...more }),
    publish: (relay: SharedRelay, message: string, query?: string, headers?: Record<string, string>) =>
      relay.publish({ topic, message }, query, headers),
    /** @returns the open connection, which has said that it is connected */
    connect: async (relay: SharedRelay, client: Registered, query = ""): Promise<Frames> => {
      const frames = await relay.connect(`${new URL(client.url).pathname}?format=json${query}`);
      await frames.json();
      return frames;
    },
  };
}

/** The events that come, up to and with the one of this message. */
export async function eventsUntil(frames: Frames, last: string): Promise<EventFrame[]> {
  const events: EventFrame[] = [];
  while (events.at(-1)?.message !== last) {
    const frame = await frames.json<EventFrame & { type: string }>();
    if (frame.type === "event") events.push(frame);
  }
  return events;
}

export async function messagesUntil(frames: Frames, last: string): Promise<string[]> {
  return (await eventsUntil(frames, last)).map(({ message }) => message);
}

/** A JSON answer of the relay. */
export async function answerOf<T = Record<string, unknown>>(
  relay: SharedRelay,
  method: string,
  path: string,
  body?: object,
): Promise<T> {
  return (await (await relay.send(method, path, body)).json()) as T;
}

/** Waits until something holds at another relay, of which no event tells the test. */
export async function settled(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** Waits until the log knows that no client of the user has a connection. */
export function areAway(site: Site, user: string): Promise<void> {
  return settled(async () => (await site.clientsOf(user)).every(({ expiresAt }) => expiresAt !== undefined));
}
