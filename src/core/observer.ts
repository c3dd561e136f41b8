import type { ClientId } from "./client.js";
import type { LimitName } from "./errors.js";
import type { Reason } from "./notice.js";
import type { UserId } from "./event.js";

/** Whom it is about. The id is a secret: whoever has it can connect as that client. */
interface OfClient {
  readonly client: ClientId;
  readonly userId: UserId;
}

/** Fields for the line of the log, such as the id of the HTTP request. They are the transport's own, and may change. */
export type TransportFields = Readonly<Record<string, unknown>>;

interface OfConnection extends OfClient {
  /** The client's connections replaced each other so often when this one began that newer ones wait. */
  readonly contested: boolean;
  readonly transport: TransportFields | undefined;
}

interface OfEnd extends OfClient {
  /** Id of the last event that the client is known to have. What it was owed after that is lost. */
  readonly cursor: string;
}

/** What can happen, by name. Event ids are text, as in the protocol; durations are in seconds. */
export interface Happenings {
  /** A client was registered: by a request, by a token, or as a connection of `/ws`. */
  readonly "client.registered": OfClient & {
    readonly topics: readonly string[];
    /** Seconds for which the client is kept without a connection; 0: it ends with its connection. */
    readonly ttl: number;
  };
  readonly "client.connected": OfConnection;
  /** A connection's transport is gone. Told once for each `client.connected`. */
  readonly "client.disconnected": OfConnection & {
    /** Why the relay ended the connection; undefined: the relay did not, the other end closed it or it was lost. */
    readonly reason: Reason | undefined;
  };
  /** A client's time was up: its `ttl`, or that of its token. */
  readonly "client.expired": OfEnd & { readonly reason: "ttl" | "token" };
  /** A client was removed on request, or because the API key that it was registered with is gone. */
  readonly "client.removed": OfEnd & { readonly reason: "request" | "key" };
  /** Connections of one client replace each other. Told at most once a minute for each client. */
  readonly "client.contested": OfClient & {
    /** How many times since this was last told. */
    readonly replacements: number;
  };
  /** An event is as safe as the engine promises. A request that repeats an idempotency key publishes nothing. */
  readonly "event.published": {
    readonly id: string;
    readonly topic: string;
    /** The users that it is for; undefined: everyone. */
    readonly users: readonly UserId[] | undefined;
  };
  /** Events were handed to connections, which write them at the end of the turn. */
  readonly "event.delivered": {
    /** Without `client`: the event, as it was published. With `client`: the newest event of those that were read. */
    readonly id: string;
    /** How many deliveries: the connections that took the event, or the events that the client's connection took. */
    readonly count: number;
    /** The client that was behind and read the events from the log. */
    readonly client?: ClientId;
  };
  /** A client has confirmed events on its connection: by a pong, an `ack` or an orderly close; not by `since`. */
  readonly "event.confirmed": OfClient & {
    /** The newest of the events. It confirms all that the connection was sent before it. */
    readonly id: string;
    /** From the publication of that event to its confirmation, by the engine's clock. */
    readonly seconds: number;
  };
  /** A client was told that events which it was owed are lost. It is told again until it confirms something later. */
  readonly "gap.said": OfClient & {
    /** The lost events are before this id. */
    readonly cursor: string;
  };
  /** Something was refused or ended because of a limit. */
  readonly "limit.reached": {
    readonly limit: LimitName;
    /** With `open_files`: how many connections are open, and how many may be. */
    readonly open?: number;
    readonly most?: number;
  };
  /** A key or a token was not good. */
  readonly "auth.failed": {
    readonly credential: "key" | "token";
    /** Where the request came from: an IPv4 address, or an IPv6 network of 64 bits. */
    readonly network: string;
    readonly transport: TransportFields;
  };
  /** A frame came on a connection of `/ws`. */
  readonly "lobby.message": OfClient & { readonly bytes: number; readonly transport: TransportFields | undefined };
}

export type HappeningName = keyof Happenings;
export type Listener<N extends HappeningName> = (happening: Happenings[N]) => void | Promise<void>;
type Listeners = { [N in HappeningName]?: readonly Listener<N>[] };

/**
 * The one place that is told what happens, and hands it to those who listen.
 *
 * Listeners are called in a microtask, after the step in which it happened: they may use the relay, and what they throw
 * does not reach it. They share the relay's thread, so they must be quick.
 */
export class Observer {
  private readonly listeners: Listeners = {};

  /** @param failed called once for each time that a listener throws, or that the promise of an async one rejects */
  constructor(private readonly failed: (error: unknown, name: HappeningName) => void) {}

  /** Calls `listener` from now on with each happening of that name. @returns how to stop */
  on<N extends HappeningName>(name: N, listener: Listener<N>): () => void {
    // An entry of its own: the same function may listen twice.
    const entry: Listener<N> = (happening) => listener(happening);
    this.set(name, [...this.of(name), entry]);
    return () =>
      this.set(
        name,
        this.of(name).filter((other) => other !== entry),
      );
  }

  /**
   * How to tell what happens; undefined while nobody listens to that. So a happening is made only for those who do:
   * `observer.hears("gap.said")?.({ … })`.
   */
  hears<N extends HappeningName>(name: N): ((happening: Happenings[N]) => void) | undefined {
    const listeners = this.listeners[name];
    return listeners && ((happening) => queueMicrotask(() => this.call(name, listeners, happening)));
  }

  private call<N extends HappeningName>(name: N, listeners: readonly Listener<N>[], happening: Happenings[N]): void {
    for (const listener of listeners) {
      try {
        const result: unknown = listener(happening);
        if (result instanceof Promise) result.catch((error: unknown) => this.failed(error, name));
      } catch (error) {
        this.failed(error, name);
      }
    }
  }

  private of<N extends HappeningName>(name: N): readonly Listener<N>[] {
    return this.listeners[name] ?? [];
  }

  private set<N extends HappeningName>(name: N, listeners: readonly Listener<N>[]): void {
    this.listeners[name] = listeners.length > 0 ? (listeners as Listeners[N]) : undefined;
  }
}
