import { setTimeout as delay } from "node:timers/promises";
import type { FastifyBaseLogger, FastifyRequest } from "fastify";
import type { RawData, WebSocket } from "ws";
import type { Connection } from "../core/connection.js";
import { isRelayError, type LimitName } from "../core/errors.js";
import { refuse } from "../core/refuse.js";
import { Turns } from "../core/turns.js";
import type { FramedEncoder } from "../formats/encoder.js";
import { CLOSE, NO_CLOSE_FRAME } from "../protocol.js";
import { connectionOptions, type Context, logFields } from "./context.js";
import { Frames } from "./frames.js";
import { TokenBucket } from "../token-bucket.js";
import { InvalidInput } from "./problems.js";
import { SocketSink } from "./socket.js";

/** Frames that a client sent and that are not handled yet, and their bytes: above this the socket is not read. */
const MAX_INBOX = { frames: 32, bytes: 64 * 1024 };

/** Bad frames: so many at once, and so many a second, before the connection is closed as `flooded`. */
const BAD_FRAMES = { burst: 50, perSecond: 10 };

/** Milliseconds between two signs of life for a client whose frames wait. */
const REST = 200;

/** Bytes of the longest frame that may be an acknowledgement, with white space. */
const MAX_ACK = 1000;

/** One WebSocket of a client: frames go in, in order and one at a time; the connection is its way out. */
export class SocketSession {
  private readonly inbox: { data: Buffer; isBinary: boolean }[] = [];
  private inboxBytes = 0;
  private readonly bad = new TokenBucket(BAD_FRAMES.burst, BAD_FRAMES.perSecond);
  private readonly log: FastifyBaseLogger;
  private readonly sink: SocketSink;
  private connection: Connection | undefined;
  private frames: Frames | undefined;
  private busy = true;
  /** Another connection has the client, and goes on for a while. */
  private isWaiting = false;

  constructor(
    private readonly context: Context,
    private readonly socket: WebSocket,
    private readonly request: FastifyRequest,
    private readonly encoder: FramedEncoder,
    private readonly inLobby: boolean,
  ) {
    this.log = request.log;
    this.sink = new SocketSink(socket, request.raw.socket, logFields(request));
  }

  /**
   * Listens from the first moment on; what comes before the client is there waits in the inbox.
   * @param gapSaid the response to the upgrade request has told the client of a gap
   */
  run(client: string, gapSaid: boolean): void {
    const { socket } = this;
    socket.on("message", (data, isBinary) => this.receive(data, isBinary));
    socket.on("ping", () => this.connection?.hear());
    socket.on("pong", (payload) => {
      this.connection?.hear();
      this.connection?.ponged(payload.toString());
    });
    socket.on("error", (error) => this.failed(error));
    socket.on("close", (code) => this.closed(code));
    void this.open(client, gapSaid).catch((error: unknown) => this.fail(error));
  }

  private async open(id: string, gapSaid: boolean): Promise<void> {
    const { context, sink, encoder } = this;
    const { connections } = context.startup.relay;
    const waiting = (waits: boolean): void => {
      this.isWaiting = waits;
      if (this.isInboxFull) this.holdUp();
    };
    const options = { ...connectionOptions(this.request), gapSaid, waiting };
    this.connection = await connections.open(id, sink, encoder, options);
    // Another connection has the client. This socket is closed already.
    if (!this.connection) return;
    if (this.socket.readyState === this.socket.CLOSED) return this.closed(NO_CLOSE_FRAME);
    // The relay may have closed it already; the other end's acknowledgements, and its close frame, are still to come.
    this.frames = new Frames(context, this.connection, encoder, this.inLobby);
    await this.work();
  }

  private receive(data: RawData, isBinary: boolean): void {
    this.connection?.hear();
    // One buffer, as `binaryType` is left as it is.
    const frame = { data: data as Buffer, isBinary };
    this.inbox.push(frame);
    this.inboxBytes += frame.data.length;
    if (this.isInboxFull) this.holdUp();
    if (!this.busy) void this.work().catch((error: unknown) => this.fail(error));
  }

  private get isInboxFull(): boolean {
    return this.inbox.length > MAX_INBOX.frames || this.inboxBytes > MAX_INBOX.bytes;
  }

  /** Takes no more frames for now. */
  private holdUp(): void {
    // A socket that is not read does not show its end, and one that is gone must not take over.
    if (!this.isWaiting) this.socket.pause();
    else if (this.sink.open) refuse(this.sink, this.encoder, { reason: "hasty" });
  }

  private async work(): Promise<void> {
    this.busy = true;
    // Many frames may have come at once.
    const turns = new Turns();
    for (let frame = this.inbox.shift(); frame; frame = this.inbox.shift()) {
      this.inboxBytes -= frame.data.length;
      if (!(await this.handle(frame.data, frame.isBinary)) && this.bad.take() > 0) {
        this.reached("bad_frames");
        this.connection?.close({ reason: "flooded" });
        // Not even to look for its close frame: it may send as many as it can until it is cut off.
        this.socket.pause();
        return;
      }
      // Answers go through the same outbox as events: no more of them than the client reads.
      await this.connection?.ready();
      await this.rest();
      if (turns.over) await turns.rest();
    }
    this.busy = false;
    if (this.socket.isPaused) this.socket.resume();
  }

  private async handle(data: Buffer, isBinary: boolean): Promise<boolean> {
    const { frames, connection } = this;
    const { limits } = this.context;
    if (!frames || !connection) return true;
    const isOpen = this.socket.readyState === this.socket.OPEN;
    if (!isOpen && data.length > MAX_ACK) return true;
    try {
      limits.frames(connection.reader.id, 1);
      limits.work(connection.reader.id, data.length);
    } catch (error) {
      frames.refuse(error);
      return false;
    }
    if (!isOpen) {
      frames.acknowledge(data.toString());
      return true;
    }
    if (isBinary) {
      frames.refuse(new InvalidInput([{ path: "", message: "binary frames are not understood: send text" }]));
      return false;
    }
    const text = data.toString();
    if (this.inLobby) {
      const { id: client, userId } = connection.reader;
      const { fields: transport } = this.sink;
      this.context.observer.hears("lobby.message")?.({ client, userId, bytes: data.length, transport });
    }
    return frames.handle(text);
  }

  /** Lets time pass after a frame that was much work: the inbox keeps more from coming. */
  private async rest(): Promise<void> {
    const pause = (): number => (this.connection ? this.context.limits.pause(this.connection.reader.id) : 0);
    // A timer may be early.
    for (let wait = pause(); wait > 0; wait = pause()) {
      await delay(Math.min(wait, REST), undefined, { ref: false });
      // Its pongs stand behind frames that are not read: it is not silent.
      this.connection?.hear();
    }
  }

  private closed(code: number): void {
    const { connection } = this;
    if (!connection) return;
    this.connection = undefined;
    const { connections } = this.context.startup.relay;
    void connections.closed(connection, this.sink.isAnswered(code)).catch((error: unknown) => this.fail(error));
  }

  /** The socket's own failures, which are logged where it comes from. */
  private failed(error: Error & { code?: string }): void {
    if (error.code === "WS_ERR_UNSUPPORTED_MESSAGE_LENGTH") this.reached("frame_bytes");
  }

  private reached(limit: LimitName): void {
    this.context.observer.hears("limit.reached")?.({ limit });
  }

  private fail(error: unknown): void {
    if (!isRelayError(error)) this.log.error({ err: error }, "connection failed");
    const { code, text } = CLOSE[isRelayError(error) && error.code === "not_found" ? "removed" : "failed"];
    this.socket.close(code, text);
  }
}
