import type { Socket } from "node:net";
import type { WebSocket } from "ws";
import type { Disconnect } from "../core/notice.js";
import type { TransportFields } from "../core/observer.js";
import type { Sink } from "../core/outbox.js";
import { encodersFor } from "../formats/index.js";
import { CLOSE, disconnected } from "../protocol.js";

const TEXT = 0x81;
const PING = 0x89;

/** Bytes of a close frame's reason (RFC 6455 section 5.5). */
const MAX_REASON = 123;

/** One unmasked, final frame, as servers send them (RFC 6455 section 5.2). */
function frameOf(opcode: number, text: string): Buffer {
  const length = Buffer.byteLength(text);
  const header = length < 126 ? 2 : length < 65_536 ? 4 : 10;
  const frame = Buffer.allocUnsafe(header + length);
  frame[0] = opcode;
  if (header === 2) frame[1] = length;
  else if (header === 4) {
    frame[1] = 126;
    frame.writeUInt16BE(length, 2);
  } else {
    frame[1] = 127;
    frame.writeBigUInt64BE(BigInt(length), 2);
  }
  frame.write(text, header);
  return frame;
}

/** As much of a reason as a close frame has room for, in whole characters. */
function shortened(reason: string): string {
  return reason.slice(0, new TextEncoder().encodeInto(reason, new Uint8Array(MAX_REASON)).read);
}

/** The formats on a WebSocket: a text frame each. */
export const socketEncoders = encodersFor({
  event: (format, event, userId) => frameOf(TEXT, format.event(event, userId)),
  text: (text) => frameOf(TEXT, text),
  ping: (payload) => frameOf(PING, payload),
});

/**
 * A WebSocket as a sink. Frames are made once for all and written past `ws`, straight to its socket; that is in order
 * with what `ws` writes itself (pongs and close frames), as it writes at once when nothing is compressed.
 */
export class SocketSink implements Sink {
  /** The close code that the relay has sent. */
  private closedWith: number | undefined;

  constructor(
    private readonly webSocket: WebSocket,
    private readonly socket: Socket,
    public fields: TransportFields = {},
  ) {
    webSocket.once("close", (code) => (this.fields = { ...fields, code }));
  }

  get buffered(): number {
    return this.socket.writableLength;
  }

  get taken(): number {
    return this.socket.bytesWritten - this.socket.writableLength;
  }

  write(bytes: Buffer): void {
    if (this.open) this.socket.write(bytes);
  }

  whenTaken(callback: () => void): void {
    this.socket.write("", () => callback());
  }

  close(disconnect: Disconnect): void {
    // The other end is closing already, and does not get on with it.
    if (!this.open) return this.webSocket.terminate();
    const { code, reason } = disconnected(disconnect);
    this.closedWith = code;
    this.webSocket.close(code, shortened(reason));
    const timer = setTimeout(() => this.webSocket.terminate(), CLOSE[disconnect.reason].closeWithin).unref();
    this.webSocket.once("close", () => clearTimeout(timer));
    // The other end's own close frame may stand behind what was not read yet.
    this.webSocket.resume();
  }

  /** Whether the other end, which has closed with `code`, answered the relay's close frame. */
  isAnswered(code: number): boolean {
    return code === this.closedWith;
  }

  get open(): boolean {
    return this.webSocket.readyState === this.webSocket.OPEN;
  }
}
