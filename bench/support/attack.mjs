// What an attacker sends: requests and frames as fast as the relay takes them. All of it is counted.
import net from "node:net";
import { setImmediate, setTimeout as sleep } from "node:timers/promises";
import { Frames, payloadOf } from "./frames.mjs";

const [TEXT, CLOSE] = [0x81, 0x88];

/** Characters of a response by which its status is known; and of an error frame, of which the longest has so many. */
const STATUS = "HTTP/1.1 200".length;
const ERROR_FRAME = 400;

/** Writes in one turn of the event loop: a relay that takes all at once would keep this process from reading. */
const PER_TURN = 64;

/** Milliseconds after which an attacker whose connection was refused tries again. */
const RETRY_AFTER = 20;

export class Attack {
  /** Requests, frames or connections that were made. */
  made = 0;
  /** How often each status, close code and error code came back. */
  answers = new Map();
  isOver = false;
  /** Resolves when the attack is over. */
  ended = new Promise((resolve) => (this.resolve = resolve));
  wires = new Set();
  /** Bytes that connections sent which are closed by now. */
  sentBefore = 0;

  /** @param port of the relay */
  constructor(port) {
    this.port = port;
  }

  /** From now on nothing is sent. */
  end(why) {
    this.isOver = true;
    this.why ??= why;
    this.resolve();
    for (const wire of this.wires) wire.wake();
  }

  closeAll() {
    for (const { socket } of this.wires) socket.destroy();
  }

  get sent() {
    return [...this.wires].reduce((sum, wire) => sum + wire.bytes, this.sentBefore);
  }

  count(answer, times = 1) {
    this.answers.set(answer, (this.answers.get(answer) ?? 0) + times);
  }

  /** How many answers of this kind there were. */
  had(answer) {
    return this.answers.get(answer) ?? 0;
  }

  /** Opens a bare connection. @param from another address of this machine */
  connect(from) {
    return this.watch(net.connect({ port: this.port, host: "127.0.0.1", localAddress: from }));
  }

  watch(socket) {
    const wire = new Wire(socket);
    this.wires.add(wire);
    socket.once("close", () => {
      this.sentBefore += wire.bytes;
      this.wires.delete(wire);
    });
    return wire;
  }

  /**
   * Sends requests over one connection until the attack is over; over a new one when it is closed.
   * @param requestOf bytes of the next request, by its number
   * @param options `depth`: most requests that wait for an answer; `per`: requests in what `requestOf` gives; `from`:
   *   the address that they come from; `perSecond`: no more than that
   */
  async requests(requestOf, { depth = Infinity, per = 1, from, perSecond } = {}) {
    const pace = new Pace(perSecond);
    while (!this.isOver) {
      const wire = this.connect(from);
      let open = 0;
      wire.socket.on("data", (chunk) => (open -= this.tally(wire, chunk)));
      await wire.change();
      while (wire.isOpen && !this.isOver) {
        if (open >= depth || wire.socket.writableNeedDrain) await wire.change();
        else if (!pace.isDue) await sleep(1);
        else {
          wire.socket.write(requestOf(this.made));
          this.made += per;
          open += per;
          if (this.made % PER_TURN === 0) await setImmediate();
        }
      }
      wire.socket.destroy();
    }
  }

  /** Counts the statuses in what came. @returns how many */
  tally(wire, chunk) {
    const text = wire.tail + chunk.toString("latin1");
    wire.tail = text.slice(-(STATUS - 1));
    const statuses = text.match(/HTTP\/1\.1 \d{3}/g) ?? [];
    for (const status of statuses) this.count(status.slice(-3));
    return statuses.length;
  }

  /**
   * Sends frames over one connection until the attack is over; over a new one when it is closed.
   * @param frameOf bytes of the next frame, by its number
   * @param options `perSecond`: no more than that; `times`: frames in all; `reads`: whether it reads what comes
   */
  async frames(path, frameOf, { perSecond, times = Infinity, reads = true } = {}) {
    const pace = new Pace(perSecond);
    while (!this.isOver && this.made < times) {
      const wire = await this.connectFrames(path);
      if (!wire) continue;
      if (!reads) wire.socket.pause();
      while (wire.isOpen && !this.isOver && this.made < times) {
        if (wire.socket.writableNeedDrain) await wire.change();
        else if (!pace.isDue) await sleep(1);
        else {
          wire.socket.write(frameOf(this.made++));
          if (this.made % PER_TURN === 0) await setImmediate();
        }
      }
      if (this.made < times) wire.socket.destroy();
    }
  }

  /** Opens a WebSocket. @returns undefined when it was refused */
  async connectFrames(path, pongs = true) {
    try {
      const { socket } = await Frames.open(this.port, path, { pongs, onFrame: (frame) => this.tallyFrame(frame) });
      return this.watch(socket);
    } catch (error) {
      this.count(/HTTP\/1\.1 (\d{3})/.exec(error.message)?.[1] ?? "reset");
      await sleep(RETRY_AFTER);
      return undefined;
    }
  }

  tallyFrame(frame) {
    if (frame[0] === CLOSE) this.count(`${payloadOf(frame).readUInt16BE()}`);
    else if (frame[0] === TEXT) {
      const isError = frame.length < ERROR_FRAME && frame.includes('"type":"error"');
      this.count(isError ? /"code":"(\w+)"/.exec(frame.toString())[1] : "frame");
    }
  }
}

/** A connection of the attacker. */
class Wire {
  tail = "";

  constructor(socket) {
    this.socket = socket;
    socket.on("error", () => undefined);
    for (const sign of ["connect", "drain", "data", "close"]) socket.on(sign, () => this.wake());
  }

  get isOpen() {
    return !this.socket.destroyed;
  }

  /** Bytes that the system took; others wait in this process. */
  get bytes() {
    return this.socket.bytesWritten - this.socket.writableLength;
  }

  /**
   * Resolves when something happens on it, or the attack is over. Others have their turn first.
   */
  async change() {
    await new Promise((resolve) => (this.wake = resolve));
    await setImmediate();
  }

  wake() {}
}

/** Lets through so many a second. */
class Pace {
  began = performance.now();
  count = 0;

  constructor(perSecond = Infinity) {
    this.perSecond = perSecond;
  }

  /** Whether the next one may go; if so it is counted. */
  get isDue() {
    if (this.perSecond < Infinity && this.count > ((performance.now() - this.began) / 1000) * this.perSecond)
      return false;
    this.count++;
    return true;
  }
}
