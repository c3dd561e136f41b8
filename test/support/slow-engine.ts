import type { CursorStore, Engine, Follower, Peers, ReplyStore } from "../../src/core/engine.js";
import type { LocalEngine } from "../../src/engines/local/local-engine.js";

type Task = () => void;

/** One direction of a connection: what goes in comes out later, in order. */
class Channel {
  private readonly queue: Task[] = [];
  private isRunning = false;
  private isHeld = false;
  private isClosed = false;

  constructor(private readonly delay: () => Promise<unknown>) {}

  send(task: Task): void {
    this.queue.push(task);
    void this.run();
  }

  /** Nothing comes out until `release`. */
  hold(): void {
    this.isHeld = true;
  }

  /** What was held comes out at once, as the lines of one chunk do. */
  release(): void {
    this.isHeld = false;
    for (const task of this.queue.splice(0)) task();
  }

  close(): void {
    this.isClosed = true;
    this.queue.length = 0;
  }

  private async run(): Promise<void> {
    if (this.isRunning) return;
    this.isRunning = true;
    while (!this.isHeld && !this.isClosed && this.queue.length > 0) {
      await this.delay();
      if (!this.isHeld && !this.isClosed) this.queue.shift()?.();
    }
    this.isRunning = false;
  }
}

const copy = <T>(value: T): T => structuredClone(value);

/** A log behind a connection, as `RemoteEngine` has it, in one process: calls, answers and entries come later, each way in order. */
export class SlowEngine implements Engine {
  readonly name = "slow";
  readonly up: Channel;
  readonly down: Channel;
  isDead = false;
  private leaving: (() => Promise<void>) | undefined;
  private readonly pending = new Set<(error: Error) => void>();
  readonly replies: ReplyStore = {
    settle: (once, ids, reply) => this.ask(() => this.log.replies.settle(once, ids, reply)),
  };
  readonly cursors: CursorStore = { move: (moves) => this.ask(() => this.log.cursors.move(copy(moves))) };
  readonly peers: Peers = { ask: (from, question) => this.ask(() => this.askInTime(from, copy(question))) };

  constructor(
    private readonly log: LocalEngine,
    delay: () => Promise<unknown> = async () => undefined,
  ) {
    this.up = new Channel(delay);
    this.down = new Channel(delay);
  }

  readonly append: Engine["append"] = (what, options) => this.ask(() => this.log.append(copy(what), options));
  readonly read: Engine["read"] = (query) => this.ask(() => this.log.read(query));
  readonly find: Engine["find"] = (who) => this.ask(() => this.log.find(who));

  now(): number {
    return this.log.now();
  }

  async follow(follower: Follower): Promise<() => Promise<void>> {
    const { down } = this;
    await this.ask(async () => {
      this.leaving = await this.log.follow({
        node: follower.node,
        begin: (bounds) => down.send(() => follower.begin(bounds)),
        follow: (entry) => down.send(() => follower.follow(copy(entry))),
        trimmed: (floor) => down.send(() => follower.trimmed(floor)),
        inherit: (clients) => down.send(() => follower.inherit(copy(clients))),
        answer: (question) => this.answer(follower, question),
      });
      if (this.isDead) await this.leaving();
    });
    return () => this.ask(async () => this.leaving?.());
  }

  /** The relay is gone for the log, as by a kill. */
  async kill(): Promise<void> {
    this.isDead = true;
    this.up.close();
    this.down.close();
    for (const reject of this.pending) reject(ended());
    this.pending.clear();
    await this.leaving?.();
  }

  async close(): Promise<void> {}

  private answer(follower: Follower, question: Parameters<Follower["answer"]>[0]): ReturnType<Follower["answer"]> {
    return new Promise((resolve, reject) => {
      if (this.isDead) return reject(ended());
      this.pending.add(reject);
      this.down.send(() => {
        follower
          .answer(copy(question))
          .then((answer) => this.up.send(() => (this.pending.delete(reject), resolve(copy(answer)))), reject);
      });
    });
  }

  private async askInTime(from: string, question: Parameters<Peers["ask"]>[1]): ReturnType<Peers["ask"]> {
    const wait = question.ask === "confirmed" ? Math.max(0, question.until - this.log.now()) : 0;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, wait + 1000, undefined)));
    const answers = this.log.peers.ask(from, question).catch(() => undefined);
    return Promise.race([answers, late]).finally(() => clearTimeout(timer));
  }

  private async answered<T>(
    call: () => Promise<T>,
    resolve: (value: T) => void,
    reject: (error: unknown) => void,
    done: (settle: Task) => void,
  ): Promise<void> {
    try {
      const value = await call();
      const copied = value === undefined ? value : copy(value);
      done(() => resolve(copied));
    } catch (error) {
      done(() => reject(error));
    }
  }

  private ask<T>(call: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.isDead) return reject(ended());
      this.pending.add(reject);
      const done = (settle: Task): void => this.down.send(() => (this.pending.delete(reject), settle()));
      this.up.send(() => {
        void this.answered(call, resolve, reject, done);
      });
    });
  }
}

function ended(): Error {
  return Object.assign(new Error("the connection to the log has ended"), { code: "unavailable" });
}
