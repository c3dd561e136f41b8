import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { CursorStore, Engine, EventId, Follower, Peers, ReplyStore } from "topic-relay";
import { type LogSide, type RelaySide, Wire } from "./wire.js";

/**
 * An engine whose log is in another process, behind a socket. One relay follows it. When the connection ends, the relay
 * can do nothing any more: the log then takes the relay for gone.
 */
export class RemoteEngine implements Engine {
  readonly name = "remote";
  readonly append: Engine["append"] = (what, options) => this.log.ask("append", what, options);
  readonly read: Engine["read"] = (query) => this.log.ask("read", query);
  readonly find: Engine["find"] = (who) => this.log.ask("find", who);
  readonly replies: ReplyStore = { settle: (once, ids, reply) => this.log.ask("settle", once, ids, reply) };
  readonly cursors: CursorStore = { move: (moves) => this.log.ask("move", moves) };
  readonly peers: Peers = { ask: (from, question) => this.log.ask("ask", from, question) };
  private readonly log: Wire<RelaySide, LogSide>;
  private follower: Follower | undefined;
  /** What the log's clock is ahead of this process's time. */
  private ahead = -Infinity;

  private constructor(private readonly socket: Socket) {
    this.log = new Wire<RelaySide, LogSide>(socket, {
      begin: (bounds) => this.follower?.begin(bounds),
      follow: (entry) => {
        this.follower?.follow(entry);
        this.seen(entry.kind === "event" ? entry.event.id : entry.id);
      },
      trimmed: (floor) => this.follower?.trimmed(floor),
      inherit: (clients) => this.follower?.inherit(clients),
      answer: async (question) => {
        if (!this.follower) throw new Error("the relay has left");
        return this.follower.answer(question);
      },
    });
  }

  /** @param path of the log's socket */
  static async open(path: string): Promise<RemoteEngine> {
    const socket = connect(path);
    await once(socket, "connect");
    const engine = new RemoteEngine(socket);
    engine.seen({ ms: await engine.log.ask("now"), seq: 0 });
    return engine;
  }

  now(): number {
    return Math.floor(this.ahead + performance.now());
  }

  async follow(follower: Follower): Promise<() => Promise<void>> {
    this.follower = follower;
    await this.log.ask("join", follower.node);
    return async () => {
      // Without a connection the relay is gone already, as far as the log knows.
      await this.log.ask("leave").catch(() => undefined);
      this.follower = undefined;
    };
  }

  async close(): Promise<void> {
    this.socket.end();
    await this.log.closed;
  }

  /** The log's clock has come this far: it is ahead of this process when it was set forward. */
  private seen({ ms }: EventId): void {
    this.ahead = Math.max(this.ahead, ms - performance.now());
  }
}
