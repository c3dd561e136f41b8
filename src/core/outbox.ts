import type { Backlog } from "./backlog.js";
import type { Disconnect } from "./notice.js";
import type { TransportFields } from "./observer.js";
import { Turns } from "./turns.js";

/** The bytes of one event or notice as they go over the wire. Shared by all who get it: never changed. */
export type Frame = Buffer;

/** Where a connection's bytes go: a socket or a response, reduced to what delivery needs. None of it may throw. */
export interface Sink {
  /** Bytes that were written and that the operating system has not taken yet. */
  readonly buffered: number;
  /** Whether what is written still has a chance to arrive. */
  readonly open: boolean;
  /** Bytes that the operating system has taken, in all. */
  readonly taken: number;
  /** Takes whole frames, in order. */
  write(bytes: Buffer): void;
  /** Calls back once all that was written so far has been taken. */
  whenTaken(callback: () => void): void;
  /** What the log says of the transport. */
  readonly fields?: TransportFields;
  /** Keeps an idle transport without pings open. */
  readonly idle?: () => void;
  /** Ends it, after what was written. */
  close(disconnect: Disconnect): void;
}

/**
 * A queue of frames as a shared list: queues with the same frames are the same node, so the bytes are joined once
 * for all connections that got the same.
 */
class Queue {
  readonly bytes: number;
  readonly length: number;
  private next: Queue | undefined;
  private bytesJoined: Buffer | undefined;

  constructor(
    readonly before?: Queue,
    readonly frame?: Frame,
  ) {
    this.length = before ? before.length + 1 : 0;
    this.bytes = before && frame ? before.bytes + frame.length : 0;
  }

  with(frame: Frame): Queue {
    // An event goes to all its readers before the next one does: remembering the newest successor is enough.
    if (this.next?.frame !== frame) this.next = new Queue(this, frame);
    return this.next;
  }

  joined(): Buffer {
    this.bytesJoined ??= this.length === 1 && this.frame ? this.frame : Buffer.concat(framesOf(this), this.bytes);
    return this.bytesJoined;
  }
}

function framesOf(queue: Queue): Frame[] {
  const frames: Frame[] = [];
  for (let node: Queue | undefined = queue; node?.frame; node = node.before) frames.push(node.frame);
  return frames.reverse();
}

/** Writes between two looks at the time: a look costs about a hundredth of a write. */
const WRITES = 32;

/** Writes every outbox that has something queued once per turn of the event loop. One per relay. */
export class Flusher {
  /** The empty queue of this turn, from which all queues of the turn grow. */
  empty = new Queue();
  private waiting: Outbox[] = [];
  /** Will write what waits. */
  private next: Promise<void> | undefined;
  /** Writes what waited before. An outbox that this run has not reached yet is written with everything it has by then. */
  private current: Promise<void> | undefined;

  add(outbox: Outbox): void {
    this.waiting.push(outbox);
    this.next ??= this.flush(this.current);
  }

  /** Resolves when what is queued now has been written. */
  async written(): Promise<void> {
    await (this.next ?? this.current);
  }

  private async flush(before: Promise<void> | undefined): Promise<void> {
    // Its failure is told to those who wait for it, and must not stop all others.
    if (before) await before.catch(() => undefined);
    await new Promise(setImmediate);
    const due = this.waiting;
    this.waiting = [];
    this.current = this.next;
    this.next = undefined;
    this.empty = new Queue();
    const turns = new Turns();
    let count = 0;
    for (const outbox of due) {
      outbox.flush();
      if (++count % WRITES === 0 && turns.over) await turns.rest();
    }
  }
}

/** Frames that may wait in one outbox, however small they are. */
const MAX_FRAMES = 4096;

/** The frames that wait for one connection; bounded together with what the sink buffers. */
export class Outbox {
  /** Absent when it is empty: an idle connection holds on to nothing. */
  private queue: Queue | undefined;
  private room: number;
  private listed = false;
  /** Bytes in the backlog for this connection. */
  private counted = 0;
  private recounting = false;

  /**
   * @param trailer called before each write: a frame that is to go along, after the others
   */
  constructor(
    private readonly sink: Sink,
    private readonly flusher: Flusher,
    private readonly backlog: Backlog,
    private readonly trailer: () => Frame | undefined,
  ) {
    this.room = backlog.room(0);
  }

  /** Whether what was written has to be taken before more may be sent. */
  get isFull(): boolean {
    return this.sink.buffered > 0 && this.backlog.room(this.sink.buffered) <= 0;
  }

  /** How many frames wait for the end of the turn. */
  get queued(): number {
    return this.queue?.length ?? 0;
  }

  /** Queues a frame. @returns false, and does nothing, when there is no room for it */
  push(frame: Frame): boolean {
    const { bytes, length } = this.queue ?? this.flusher.empty;
    if ((bytes + frame.length > this.room || length >= MAX_FRAMES) && !this.makeRoom(frame)) return false;
    this.queue = (this.queue ?? this.flusher.empty).with(frame);
    if (!this.listed) {
      this.listed = true;
      this.flusher.add(this);
    }
    return true;
  }

  /** Sends a frame after those that wait, whether there is room for it or not. */
  force(frame: Frame): void {
    if (this.push(frame)) return;
    this.flush();
    this.write(frame);
  }

  flush(): void {
    this.listed = false;
    if (!this.queue) return;
    const last = this.trailer();
    const bytes = (last ? this.queue.with(last) : this.queue).joined();
    this.queue = undefined;
    this.write(bytes);
  }

  private write(bytes: Buffer): void {
    this.sink.write(bytes);
    const { buffered } = this.sink;
    // Mostly all of it was taken at once.
    if (buffered > 0 || this.counted > 0) this.recount(buffered);
  }

  private recount(buffered: number): void {
    this.backlog.bytes += buffered - this.counted;
    this.counted = buffered;
    this.room = this.backlog.room(buffered);
    if (buffered === 0 || this.recounting) return;
    this.recounting = true;
    // Also called when the sink ends before.
    this.sink.whenTaken(() => {
      this.recounting = false;
      this.recount(this.sink.open ? this.sink.buffered : 0);
    });
  }

  /** Writes at once what waits for the end of the turn, as the socket may well take it. */
  private makeRoom(frame: Frame): boolean {
    const { listed } = this;
    this.flush();
    this.listed = listed;
    const { buffered } = this.sink;
    this.recount(buffered);
    // A frame larger than the whole limit goes out alone.
    if (frame.length <= this.room || buffered === 0) return true;
    this.backlog.refuse(buffered);
    return false;
  }
}
