import { cpSync } from "node:fs";
import { onTestFinished } from "vitest";
import type { OpenOptions } from "../../src/core/connections.js";
import type { Engine } from "../../src/core/engine.js";
import { type EventId, parseId } from "../../src/core/id.js";
import { Relay } from "../../src/core/relay.js";
import type { Retention } from "../../src/engines/local/window.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { temporaryDirectory } from "./directory.js";
import { relaySettings, strictObserver } from "./settings.js";
import { open, type Opened, turns } from "./sink.js";

const RETENTION: Retention = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

/** What the relay says that became of an event for the client; undefined: it does not say. */
export type State = string | undefined;

/** A relay on disk with one client. It can end in order, and as by a crash. */
export class Stage {
  engine!: Engine;
  relay!: Relay;
  stop!: () => Promise<void>;
  readonly observer = strictObserver();
  id = "";
  private directory = temporaryDirectory();

  private constructor(private readonly retention: Retention) {}

  static async begin(topics: string[] = ["a"], retention: Partial<Retention> = {}): Promise<Stage> {
    const stage = new Stage({ ...RETENTION, ...retention });
    await stage.start();
    stage.id = (await stage.relay.clients.register({ userId: 1, topics, ttl: 300 })).id;
    return stage;
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  /** What the disk has now is what a crash at this moment leaves. */
  async crash(): Promise<void> {
    const left = `${this.directory}-left`;
    cpSync(this.directory, left, { recursive: true });
    this.directory = left;
    await this.start();
  }

  /** Until what clients have confirmed is on disk. */
  async flush(): Promise<void> {
    await this.relay.connections.keepProgress();
  }

  async publish(more: object = {}): Promise<EventId> {
    const [reply] = await this.relay.publisher.publish([{ topic: "a", message: "1", ...more }]);
    return parseId(reply?.id ?? "") as EventId;
  }

  async connect(options?: OpenOptions): Promise<Opened> {
    const opened = await open(this.relay, this.id, options);
    await turns(20);
    return opened;
  }

  /** The connection is lost, without a word. */
  async lose({ connection }: Opened): Promise<void> {
    await this.relay.connections.closed(connection);
  }

  async state(event: EventId): Promise<State> {
    const { deliveries } = await this.relay.publisher.receipt(event);
    return deliveries?.[0]?.state;
  }

  async states(...events: readonly EventId[]): Promise<State[]> {
    return Promise.all(events.map((event) => this.state(event)));
  }

  private async start(): Promise<void> {
    const engine = await openLmdbEngine({ directory: this.directory, retention: this.retention });
    const relay = await Relay.start(engine, relaySettings({}, this.observer));
    let isOver = false;
    const stop = async (): Promise<void> => {
      if (isOver) return;
      isOver = true;
      await relay.stop();
      await engine.close();
    };
    Object.assign(this, { engine, relay, stop });
    onTestFinished(stop);
  }
}

/** The client's end answers the last ping. */
export function pong({ sink, connection }: Opened): void {
  connection.ponged(sink.pings.at(-1) ?? "");
}
