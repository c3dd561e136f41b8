import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import type { Answer, Engine, Question } from "topic-relay";
import { type LogSide, type RelaySide, Wire } from "./wire.js";

/** An engine that has what a relay elsewhere asks of it. */
export type Hosted = Engine & Required<Pick<Engine, "cursors" | "peers" | "replies">>;

/**
 * Hosts a log for relays in other processes: each connection is a relay, and one that ends is a relay that is gone.
 * @param path of the socket
 * @param answerWithin milliseconds for the other relays to answer
 * @returns how to end it, with all connections
 */
export async function serveLog(engine: Hosted, path: string, answerWithin = 2000): Promise<() => Promise<void>> {
  const relays = new Map<Socket, Promise<void>>();
  const server = createServer((socket) => {
    relays.set(
      socket,
      serveRelay(engine, socket, answerWithin).finally(() => relays.delete(socket)),
    );
  });
  server.listen(path);
  await once(server, "listening");
  return async () => {
    server.close();
    for (const socket of relays.keys()) socket.destroy();
    await Promise.all(relays.values());
  };
}

/** @returns when the relay is gone */
async function serveRelay(engine: Hosted, socket: Socket, answerWithin: number): Promise<void> {
  let joined: Promise<() => Promise<void>> | undefined;
  const leave = async (): Promise<void> => {
    const following = joined;
    joined = undefined;
    const leaveEngine = await following;
    await leaveEngine?.();
  };
  const relay: Wire<LogSide, RelaySide> = new Wire<LogSide, RelaySide>(socket, {
    now: () => engine.now(),
    join: async (node) => {
      joined = engine.follow({
        node,
        begin: (bounds) => relay.tell("begin", bounds),
        follow: (entry) => relay.tell("follow", entry),
        trimmed: (floor) => relay.tell("trimmed", floor),
        inherit: (clients) => relay.tell("inherit", clients),
        answer: (question) => relay.ask("answer", question),
      });
      await joined;
    },
    leave,
    append: (what, options) => engine.append(what, options),
    read: (query) => engine.read(query),
    find: (who) => engine.find(who),
    move: (moves) => engine.cursors.move(moves),
    settle: (once, ids, reply) => engine.replies.settle(once, ids, reply),
    ask: (from, question) => askInTime(engine, answerWithin, from, question),
  });
  await relay.closed;
  await leave();
}

async function askInTime(
  engine: Hosted,
  answerWithin: number,
  from: string,
  question: Question,
): Promise<readonly Answer[] | undefined> {
  const wait = question.ask === "confirmed" ? Math.max(0, question.until - engine.now()) : 0;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, wait + answerWithin, undefined);
  });
  // A relay that is gone does not answer.
  const answers = engine.peers.ask(from, question).catch(() => undefined);
  return Promise.race([answers, late]).finally(() => clearTimeout(timer));
}
