import type { Socket } from "node:net";
import type { FastifyRequest } from "fastify";
import { isPrivate, type Settings } from "../config.js";
import type { ClientId } from "../core/client.js";
import { RelayError } from "../core/errors.js";
import { TokenBucket } from "../token-bucket.js";
import { networkOf } from "../trust/hosts.js";
import { keyOf } from "./access.js";
import { Recent } from "../recent.js";

/** Seconds for which a caller that was silent may go faster than its rate. */
const BURST = 2;

/** Bytes that count as one frame: longer frames count as several, and so do those that change long topics. */
const FRAME_BYTES = 4096;

/** Frames that a new connection counts as. */
const CONNECTION_FRAMES = 50;

/** How many callers are remembered for one rate. */
const MAX_CALLERS = 10_000;

/** Seconds' worth of requests at once: many clients behind one address may come back together. */
const REQUEST_BURST = 10;

/** One rate for each of many callers. Those who were silent for longest are forgotten first: they may begin anew. */
class Rates {
  private readonly callers = new Recent<TokenBucket>(MAX_CALLERS);

  /** @param burst seconds' worth at once, after a silence */
  constructor(
    private readonly perSecond: number,
    private readonly burst = BURST,
  ) {}

  of(who: string): TokenBucket {
    return this.callers.use(who, this.callers.get(who) ?? new TokenBucket(this.perSecond * this.burst, this.perSecond));
  }
}

/** The network that a request comes from, for limits. */
export function callerNetwork({ ip }: { readonly ip?: string }): string {
  // A connection that was reset has no other end any more.
  return networkOf(ip ?? "");
}

/** Limits the requests of those without a key: what comes with one is counted where it costs something. */
export function limitRequests({ requestRate }: Settings) {
  const rates = new Rates(requestRate, REQUEST_BURST);
  return (request: FastifyRequest): void => {
    if (keyOf(request)) return;
    const wait = rates.of(callerNetwork(request)).take();
    if (wait === 0) return;
    const message = `your address may make ${requestRate} requests a second without a key`;
    throw new RelayError("too_many", message, { limit: "requests", retryAfter: Math.ceil(wait) });
  };
}

/** How much each caller may publish, and how many connections one may have. */
export class CallerLimits {
  private readonly publishers: Rates;
  private readonly clients: Rates;
  private readonly connections = new Map<string, number>();
  /** Ends the counting of each socket that is counted. */
  private readonly counted = new WeakMap<Socket, () => void>();

  constructor(private readonly settings: Settings) {
    this.publishers = new Rates(settings.publishRate);
    this.clients = new Rates(settings.frameRate);
  }

  /** To be called before events are read: who could not publish even one is refused. @throws {RelayError} too_many */
  checkPublish(request: FastifyRequest): void {
    this.limitPublish(request, (bucket) => bucket.wait(1));
  }

  /** To be called before events are published. @param cost one for each, or for each user named @throws {RelayError} too_many */
  publish(request: FastifyRequest, cost: number): void {
    this.limitPublish(request, (bucket) => bucket.take(cost));
  }

  private limitPublish(request: FastifyRequest, waitOf: (bucket: TokenBucket) => number): void {
    const { publishRate } = this.settings;
    const key = keyOf(request);
    if (!key && isPrivate(this.settings)) return;
    const wait = waitOf(this.publishers.of(key ? `key ${key.name}` : callerNetwork(request)));
    if (wait === 0) return;
    const message = `${key ? "this key" : "your address"} may publish ${publishRate} events a second: nothing was published`;
    throw new RelayError("too_many", message, { limit: "publishes", retryAfter: Math.ceil(wait) });
  }

  /** Counts work that goes with a client's frame: it is done in any case, and the next frames wait for it. */
  work(client: ClientId, bytes: number): void {
    const frames = Math.min(Math.floor(bytes / FRAME_BYTES), this.settings.frameRate);
    if (frames > 0) this.clients.of(client).owe(frames);
  }

  /** Milliseconds until a client's next frame may be handled. */
  pause(client: ClientId): number {
    return Math.ceil(this.clients.of(client).pause * 1000);
  }

  /** To be called before a client gets another connection. @throws {RelayError} too_many */
  connection(client: ClientId): void {
    this.frames(client, CONNECTION_FRAMES);
  }

  /** To be called before a client's frames are handled, on whatever connection. @throws {RelayError} too_many */
  frames(client: ClientId, frames: number): void {
    const { frameRate } = this.settings;
    // Whatever it costs, it is to be had after a second of silence.
    const wait = this.clients.of(client).take(Math.min(frames, frameRate));
    if (wait === 0) return;
    const message = `a client may send ${frameRate} frames a second, and some count as several: nothing was done`;
    throw new RelayError("too_many", message, { limit: "frames", retryAfter: Math.ceil(wait) });
  }

  /**
   * To be called with each request for a connection, which ends with its socket.
   * @throws {RelayError} too_many
   */
  connect(request: FastifyRequest): void {
    const { socket } = request.raw;
    const { maxConnections } = this.settings;
    const network = callerNetwork(request);
    const open = this.connections.get(network) ?? 0;
    if (this.counted.has(socket) || socket.destroyed) return;
    if (open >= maxConnections) {
      const message = `your address has ${maxConnections} connections already`;
      throw new RelayError("too_many", message, { limit: "connections_per_address" });
    }
    this.connections.set(network, open + 1);
    const release = (): void => {
      if (!this.counted.delete(socket)) return;
      socket.off("close", release);
      const left = (this.connections.get(network) ?? 1) - 1;
      if (left > 0) this.connections.set(network, left);
      else this.connections.delete(network);
    };
    this.counted.set(socket, release);
    socket.once("close", release);
  }

  /** To be called when a request does not become a connection, and its socket goes on. */
  disconnect(socket: Socket): void {
    this.counted.get(socket)?.();
  }
}
