import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { Server as TlsServer } from "node:tls";
import type { FastifyInstance } from "fastify";
import type { LimitName } from "./core/errors.js";
import type { Observer } from "./core/observer.js";
import { connectionsWithin, openFilesLimit } from "./open-files.js";
import { Pipelines } from "./pipeline.js";
import { Ranking } from "./ranking.js";
import { networkOf } from "./trust/hosts.js";

/** Milliseconds for a request that is under way when the server closes. */
const UNDER_WAY = 5000;

/** Milliseconds from the accept of a connection to the end of its first request's head; with TLS, the handshake included. */
export const HEAD_WITHIN = 10_000;

/** Milliseconds between two looks for connections that are too late, and for those that take nothing of an answer. */
const LOOK_EVERY = 500;
const LOOK_AT_ALL_EVERY = 5000;

/** Connections beyond its limit that an address may have all the same: what they ask for is answered (429) or small. */
const BEYOND = 64;

/** Milliseconds for a new connection's first request to come: until then it is ended only when no other can be. */
const NEW_FOR = 1000;

/** Connections that are looked at to find one without a request under way. */
const LOOK_AT = 100;

/** A connection from its accept to its end. */
interface Held {
  /** With TLS: the one of the system, and after the handshake the one that is secure. */
  socket: Socket;
  readonly network: Network;
  readonly since: number;
}

/** Those who share a limit, and their connections but for those that were upgraded: the oldest first. */
class Network {
  open = 0;
  /** Never had a request. */
  readonly silent = new Set<Held>();
  /** Had one. */
  readonly used = new Set<Held>();

  constructor(readonly name: string) {}

  get spare(): number {
    return this.silent.size + this.used.size;
  }
}

export interface GuardSettings {
  /** Whether all connections are this machine's own. To ask the system for an address is half of what an accept costs here. */
  readonly isPrivate: boolean;
  /** Connections of an address; absent: all come from a proxy. */
  readonly perAddress: number | undefined;
  /** Milliseconds for the first request's head; and without progress, for the rest of an answer. */
  readonly patience: number;
  readonly observer: Observer;
}

/**
 * Counts the connections of a server from their accept on. Where there is no room for a new one, the oldest connection
 * without a request under way makes room: of the same address, when that has too many; of the address that has most
 * connections besides WebSockets, when the process has too many. So connections that do nothing keep nobody out.
 */
export class ConnectionGuard {
  private readonly held = new Map<Socket, Held>();
  private readonly networks = new Map<string, Network>();
  private readonly ranking = new Ranking<Network>();
  /** All that never had a request: the oldest first. */
  private readonly silent = new Set<Held>();
  /** Connections before their handshake is done, by their other ends: Node makes another socket of each. */
  private readonly handshaking = new Map<string, Held>();
  private readonly pipelines: Pipelines;
  private readonly most: number;
  private open = 0;
  private closing = false;

  constructor(
    private readonly server: Server,
    private readonly settings: GuardSettings,
  ) {
    const limit = openFilesLimit();
    this.most = limit === undefined ? Infinity : connectionsWithin(limit);
    const isSecure = server instanceof TlsServer;
    server.on("connection", (socket: Socket) => this.accept(socket, isSecure));
    if (isSecure) server.on("secureConnection", (socket: Socket) => this.secure(socket));
    this.pipelines = new Pipelines(server, (socket) => this.begin(socket));
    server.on("upgrade", ({ socket }: IncomingMessage) => this.upgrade(socket));
  }

  /**
   * When the server closes, what is under way is answered and its connection ended with it. Two kinds of connections
   * would keep it open: those that never had a request, as browsers open them ahead of need (to Node they are not idle),
   * and those whose request does not come to its end.
   */
  endOnClose(app: FastifyInstance): void {
    const looking = [
      setInterval(() => this.endLate(), LOOK_EVERY).unref(),
      setInterval(() => this.timeAnswers(), Math.min(LOOK_AT_ALL_EVERY, this.settings.patience)).unref(),
    ];
    app.addHook("onSend", async (_request, reply) => {
      if (this.closing) void reply.header("connection", "close");
    });
    app.addHook("preClose", async () => {
      this.closing = true;
      looking.forEach(clearInterval);
      for (const { socket } of this.silent) socket.destroy();
      // Node's own list lacks those with an upgrade that waits for the answer to an earlier request.
      setTimeout(() => this.endAll(), UNDER_WAY).unref();
    });
  }

  private endAll(): void {
    for (const socket of this.held.keys()) socket.destroy();
  }

  /** Calls back when the requests that have come on a connection are answered; at once when there are none. */
  whenAnswered(socket: Socket, then: () => void): void {
    this.pipelines.whenAnswered(socket, then);
  }

  /** To be called when an upgrade of a connection was not to be had: from now on it makes room for others again. */
  handBack(socket: Socket): void {
    const held = this.held.get(socket);
    if (held && !held.network.used.has(held)) this.spare(held, held.network.used);
  }

  private accept(socket: Socket, isSecure: boolean): void {
    // A connection comes again when an upgrade on it was not to be had.
    if (this.held.has(socket)) return this.handBack(socket);
    if (this.closing) return void socket.destroy();
    const name = this.settings.isPrivate ? "" : networkOf(socket.remoteAddress ?? "");
    const network = this.networks.get(name) ?? new Network(name);
    const refused = this.refusal(network);
    if (refused) {
      this.reached(refused);
      return void socket.destroy();
    }
    const held: Held = { socket, network, since: performance.now() };
    this.networks.set(name, network);
    this.open++;
    network.open++;
    this.silent.add(held);
    this.spare(held, network.silent);
    this.keep(held);
    if (!isSecure) return;
    const end = otherEnd(socket);
    this.handshaking.set(end, held);
    socket.once("close", () => this.handshaking.delete(end));
  }

  private secure(socket: Socket): void {
    if (this.held.has(socket)) return this.handBack(socket);
    const held = this.handshaking.get(otherEnd(socket));
    // It was ended during its handshake.
    if (!held || !this.held.has(held.socket)) return void socket.destroy();
    this.handshaking.delete(otherEnd(socket));
    this.held.delete(held.socket);
    held.socket = socket;
    this.keep(held);
  }

  private keep(held: Held): void {
    this.held.set(held.socket, held);
    held.socket.once("close", () => this.release(held));
  }

  /** The first request begins: its head is there. */
  private begin(socket: Socket): void {
    const held = this.held.get(socket);
    if (!held?.network.silent.delete(held)) return;
    this.silent.delete(held);
    held.network.used.add(held);
  }

  /** From here on it is a WebSocket, is refused and ends, or is handed back. */
  private upgrade(socket: Socket): void {
    const held = this.held.get(socket);
    if (held) this.unspare(held);
  }

  private spare(held: Held, where: Set<Held>): void {
    where.add(held);
    this.ranking.up(held.network, held.network.spare);
  }

  private unspare(held: Held): void {
    const { network } = held;
    if (!network.silent.delete(held) && !network.used.delete(held)) return;
    this.silent.delete(held);
    this.ranking.down(network, network.spare);
  }

  private release(held: Held): void {
    if (!this.held.delete(held.socket)) return;
    this.unspare(held);
    this.open--;
    if (--held.network.open === 0) this.networks.delete(held.network.name);
  }

  /** Makes room for one more connection. @returns the limit that is reached, if there is none to be made */
  private refusal(network: Network): LimitName | undefined {
    const { perAddress = Infinity } = this.settings;
    const isOver = network.open >= perAddress && !this.endOldest(network, "connections_per_address");
    if (isOver && network.open >= perAddress + BEYOND) return "connections_per_address";
    if (this.open < this.most || this.endOldest(this.ranking.top, "open_files")) return undefined;
    return "open_files";
  }

  private endOldest(network: Network | undefined, limit: LimitName): boolean {
    const oldest = network && this.oldest(network);
    if (!oldest) return false;
    this.reached(limit);
    oldest.socket.destroy();
    // It is closed by now, and says so later.
    this.release(oldest);
    return true;
  }

  private oldest({ silent, used }: Network): Held | undefined {
    const [first] = silent;
    if (first && performance.now() - first.since > NEW_FOR) return first;
    let looks = 0;
    for (const held of used) {
      if (!this.pipelines.isBusy(held.socket)) return held;
      if (++looks >= LOOK_AT) break;
      // The next look is at others.
      used.delete(held);
      used.add(held);
    }
    return first;
  }

  private reached(limit: LimitName): void {
    const counts = limit === "open_files" && { open: this.open, most: this.most };
    this.settings.observer.hears("limit.reached")?.({ limit, ...counts });
  }

  /** Ends connections whose first request does not come. */
  private endLate(): void {
    const late = performance.now() - this.settings.patience;
    for (const { socket, since } of this.silent) {
      if (since > late) return;
      // Who has sent nothing may just send a request: an answer from before would look like the answer to that.
      if (socket.bytesRead === 0 || this.handshaking.has(otherEnd(socket))) socket.destroy();
      // As Node says it of those that are too late for it.
      else this.server.emit("clientError", new RequestTimeout("no request"), socket);
    }
  }

  /**
   * Who takes nothing of an answer would be using its connection for ever: it is ended by the socket's own timeout, which
   * knows of progress in the middle of a write.
   */
  private timeAnswers(): void {
    const { patience } = this.settings;
    for (const socket of this.held.keys()) {
      if (!this.pipelines.isBusy(socket)) continue;
      const { _httpMessage: response } = socket as { _httpMessage?: ServerResponse | null };
      const isLeft = response?.writableEnded === true && socket.writableLength > 0;
      if (isLeft !== (socket.timeout === patience)) socket.setTimeout(isLeft ? patience : 0);
    }
  }
}

class RequestTimeout extends Error {
  readonly code = "ERR_HTTP_REQUEST_TIMEOUT";
}

function otherEnd({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
