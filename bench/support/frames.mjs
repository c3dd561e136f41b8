// A WebSocket client over a bare socket that does little: the load must cost less than what is measured.
import net from "node:net";

const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
const [TEXT, PING, PONG] = [0x81, 0x89, 0x8a];

/** Connects and reads until `expected` text frames have come. @returns milliseconds that it took */
export async function readFrames(port, path, expected) {
  const start = performance.now();
  const frames = await Frames.open(port, path);
  await frames.until(expected);
  const time = performance.now() - start;
  frames.close();
  return time;
}

/** One WebSocket: counts text frames, and keeps the last one. */
export class Frames {
  count = 0;
  /** The last text frame, as bytes. */
  last = Buffer.alloc(0);

  /**
   * Connects; resolves when the relay has upgraded.
   * @param options `pongs`: whether pings are answered; `onFrame`: told of each frame, as bytes
   */
  static async open(port, path, { pongs = false, onFrame } = {}) {
    const frames = new Frames();
    Object.assign(frames, { path, pongs, onFrame, rest: Buffer.alloc(0), open: false, expected: 0 });
    frames.socket = net.connect(port, "127.0.0.1");
    frames.socket.on("connect", () => {
      frames.socket.write(
        `GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n` +
          `sec-websocket-version: 13\r\nsec-websocket-key: ${KEY}\r\n\r\n`,
      );
    });
    frames.socket.on("data", (chunk) => frames.take(chunk));
    frames.socket.on("error", (error) => frames.fail(error.message));
    frames.socket.on("close", () => frames.fail(`closed after ${frames.count} of ${frames.expected} frames`));
    await frames.wait();
    return frames;
  }

  /** Resolves when so many text frames have come in all. */
  async until(expected) {
    this.expected = expected;
    if (this.socket.destroyed) throw new Error(`${this.path}: closed`);
    if (this.count < expected) await this.wait();
  }

  /** Sends text frames, with one write. */
  send(...texts) {
    this.socket.write(Buffer.concat(texts.map(textFrame)));
  }

  pause() {
    this.socket.pause();
  }

  resume() {
    this.socket.resume();
  }

  close() {
    this.socket.destroy();
  }

  wait() {
    return new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
  }

  fail(why) {
    this.socket.destroy();
    this.reject(new Error(`${this.path}: ${why}`));
  }

  take(chunk) {
    this.rest = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    if (!this.open && !this.takeHead()) return;
    for (let size = frameSize(this.rest); size > 0 && size <= this.rest.length; size = frameSize(this.rest)) {
      this.takeFrame(this.rest.subarray(0, size));
      this.rest = this.rest.subarray(size);
    }
    if (this.count >= this.expected) this.resolve();
  }

  takeHead() {
    const end = this.rest.indexOf("\r\n\r\n");
    if (end < 0) return false;
    if (!this.rest.subarray(0, 12).equals(Buffer.from("HTTP/1.1 101"))) this.fail(this.rest.toString("latin1", 0, end));
    this.open = true;
    this.rest = this.rest.subarray(end + 4);
    return true;
  }

  takeFrame(frame) {
    this.onFrame?.(frame);
    if (frame[0] === TEXT) {
      this.count++;
      this.last = frame;
    }
    if (frame[0] === PING && this.pongs) this.socket.write(maskedFrame(PONG, payloadOf(frame)));
  }
}

/** Bytes of the first frame, from a server; 0 when that is not known yet. */
function frameSize(bytes) {
  if (bytes.length < 2) return 0;
  const length = bytes[1] & 127;
  if (length < 126) return 2 + length;
  if (bytes.length < 10) return 0;
  return length === 126 ? 4 + bytes.readUInt16BE(2) : 10 + Number(bytes.readBigUInt64BE(2));
}

/** What a server's frame carries. */
export function payloadOf(frame) {
  const length = frame[1] & 127;
  return frame.subarray(length < 126 ? 2 : length === 126 ? 4 : 10);
}

/** A text frame as clients send it. */
export function textFrame(text) {
  return maskedFrame(TEXT, Buffer.from(text));
}

/** A frame as clients send it; masked with zeros, which leave the payload as it is. */
function maskedFrame(opcode, payload) {
  const header = Buffer.alloc(payload.length < 126 ? 6 : payload.length < 65_536 ? 8 : 14);
  header[0] = opcode;
  header[1] = 128 | (header.length === 6 ? payload.length : header.length === 8 ? 126 : 127);
  if (header.length === 8) header.writeUInt16BE(payload.length, 2);
  if (header.length === 14) header.writeBigUInt64BE(BigInt(payload.length), 2);
  return Buffer.concat([header, payload]);
}
