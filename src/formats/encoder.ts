import type { Encoder } from "../core/encoder.js";
import type { Notice } from "../core/notice.js";
import { Deque } from "../core/deque.js";
import type { Event, UserId } from "../core/event.js";
import type { Frame } from "../core/outbox.js";
import type { Format } from "./format.js";

/** How a transport wraps text: a WebSocket frame, a server-sent event, a line. */
export interface Framing {
  event(format: Format, event: Event, userId: UserId): Frame;
  text(text: string): Frame;
  /** See `Encoder.ping`. */
  readonly ping?: (payload: string) => Frame;
}

/** Bytes that may be kept for readers which catch up on the same events: frames, and the events that they are of. */
const CACHE_BYTES = 4 * 1024 * 1024;

// Estimated, on 64-bit V8: a frame's own objects, and its place in the cache.
const FRAME_BYTES = 512;

/** A format in a framing: encodes and frames each event once, for all that get the same. */
export class FramedEncoder implements Encoder {
  private readonly frames = new Map<Event, Frame>();
  private readonly oldest = new Deque<Event>();
  readonly ping: Encoder["ping"];
  private cached = 0;
  private lastPing: { payload: string; frame: Frame } | undefined;
  private last: { event: Event; userId: UserId; frame: Frame } | undefined;

  constructor(
    readonly format: Format,
    private readonly framing: Framing,
  ) {
    const { ping } = framing;
    this.ping = ping && ((payload) => this.pingOf(payload, ping));
  }

  event(event: Event, userId: UserId): Frame {
    const shared = !this.format.personal || event.users === undefined;
    const { last } = this;
    if (last?.event === event && (shared || last.userId === userId)) return last.frame;
    const frame = (shared ? this.frames.get(event) : undefined) ?? this.framing.event(this.format, event, userId);
    if (shared) this.keep(event, frame);
    this.last = { event, userId, frame };
    return frame;
  }

  notice(notice: Notice): Frame | undefined {
    const text = this.format.notice(notice);
    return text === undefined ? undefined : this.framing.text(text);
  }

  /** A frame with any other text. */
  text(text: string): Frame {
    return this.framing.text(text);
  }

  private pingOf(payload: string, make: (payload: string) => Frame): Frame {
    if (this.lastPing?.payload !== payload) this.lastPing = { payload, frame: make(payload) };
    return this.lastPing.frame;
  }

  private keep(event: Event, frame: Frame): void {
    if (this.frames.has(event)) return;
    this.frames.set(event, frame);
    this.oldest.push(event);
    this.cached += costOf(event, frame);
    while (this.cached > CACHE_BYTES) {
      const dropped = this.oldest.shift();
      const droppedFrame = dropped && this.frames.get(dropped);
      if (!droppedFrame) break;
      this.cached -= costOf(dropped, droppedFrame);
      this.frames.delete(dropped);
    }
  }
}

function costOf({ message, users }: Event, frame: Frame): number {
  return FRAME_BYTES + message.length + frame.length + (users?.length ?? 0) * 24;
}
