import type { Backlog } from "./backlog.js";
import { lostEnd, lostUntil } from "./client.js";
import { Confirmation } from "./confirmation.js";
import type { Encoder } from "./encoder.js";
import { type Event, isExpired } from "./event.js";
import { compareIds, formatId, type EventId, laterOf, ZERO } from "./id.js";
import type { Log } from "./log.js";
import { LIVE } from "./moment.js";
import type { Disconnect, Notice, Reason } from "./notice.js";
import type { Happenings, Observer } from "./observer.js";
import { type Flusher, type Frame, Outbox, type Sink } from "./outbox.js";
import type { Reader, ReaderConnection } from "./reader.js";
import type { Sent } from "./sent.js";
import { Unconfirmed } from "./unconfirmed.js";
import type { Wheel } from "./wheel.js";

/** What all connections of a relay share. */
export interface Shared {
  readonly log: Log;
  readonly flusher: Flusher;
  /** When connections are to be asked for a confirmation. */
  readonly pings: Wheel<Connection>;
  /** When connections are to give a sign of life. */
  readonly beats: Wheel<Connection>;
  readonly backlog: Backlog;
  /** Events that one connection may get over again. */
  readonly maxReplay: number;
  readonly observer: Observer;
  /** Called when a client has confirmed something. */
  readonly moved: (reader: Reader) => void;
}

/** How many events are read from the log at a time: small enough to leave the event loop to others. */
const BATCH = 256;

/**
 * A client's way out: reads the log for it. It is catching up, from its position on, until it stands at the head;
 * then it is live, and handed each new event. When its outbox is full it is catching up again.
 */
export class Connection implements ReaderConnection {
  /** Bytes that the sink had taken at the last beat. */
  private taken = 0;
  /** What comes up to here it has had before, or was never owed. */
  private readonly replayUntil: EventId;
  private replayed = 0;
  /** That the client's history is lost up to here was said when the connection began. */
  private told: EventId | undefined;
  private state: "catching up" | "live" | "closed" = "catching up";
  private readonly outbox: Outbox;
  private readonly confirmation: Confirmation;
  private readonly unconfirmed = new Unconfirmed();
  private readonly waiting = new Set<() => void>();
  /** Why the relay ended the connection; undefined: it did not. */
  endedBecause: Reason | undefined;
  /** As of `client.connected`. */
  contested = false;

  /**
   * @param position where it begins: after the cursor, when what is between is lost
   * @param manual only `ack` moves the cursor, pongs do not
   */
  constructor(
    readonly reader: Reader,
    public position: EventId,
    private readonly sink: Sink,
    readonly encoder: Encoder,
    private readonly shared: Shared,
    private readonly manual: boolean,
  ) {
    this.replayUntil = reader.confirmed;
    this.unconfirmed.skip(reader.cursor, position);
    this.confirmation = new Confirmation(reader, encoder.ping, manual);
    this.outbox = new Outbox(sink, shared.flusher, shared.backlog, () => this.pingIfDue());
  }

  get live(): boolean {
    return this.state === "live";
  }

  get closed(): boolean {
    return this.state === "closed";
  }

  get open(): boolean {
    return !this.closed && this.sink.open;
  }

  /** What is told of the connection. */
  get about(): Happenings["client.connected"] {
    const { reader, contested, sink } = this;
    return { client: reader.id, userId: reader.userId, contested, transport: sink.fields };
  }

  get sent(): readonly Sent[] {
    return this.unconfirmed.sent(this.position);
  }

  /** Says how things stand, and begins to read. */
  start(gap: boolean, topics: readonly string[]): void {
    const { id, userId } = this.reader;
    const cursor = formatId(this.position);
    this.notify({ event: "connected", connection_id: id, user_id: userId, topics, cursor, gap });
    if (gap) {
      this.told = lostEnd(this.reader.kept);
      this.shared.observer.hears("gap.said")?.({ client: id, userId, cursor });
      // Owed until the client confirms that it was told, or anything later: the cursor stays before the gap.
      this.confirmation.told(this.position);
      this.ping();
    }
    this.run();
  }

  deliver(event: Event, before: EventId): boolean {
    if (this.state !== "live") return false;
    const { open } = this.sink;
    if (open && this.hand(event)) return true;
    this.settle(before);
    this.unconfirmed.end(before);
    this.position = before;
    this.state = "catching up";
    if (open) this.run();
    else this.end();
    return false;
  }

  /** Says something that is not an event, if the format can. @returns whether it can */
  notify(notice: Notice): boolean {
    const frame = this.encoder.notice(notice);
    if (frame) this.send(frame);
    return frame !== undefined;
  }

  /** Sends a frame that is not an event, whatever waits already: `ready` is how others keep that bounded. */
  send(frame: Frame): void {
    if (!this.closed) this.outbox.force(frame);
  }

  /** Resolves at once while there is room for more, and otherwise when the sink has drained or is closed. */
  async ready(): Promise<void> {
    if (!this.closed && this.outbox.isFull) await this.drain();
  }

  /** To be called when anything was received from the other end. */
  hear(): void {
    this.confirmation.hear(performance.now());
  }

  /** To be called when a ping's payload comes back: the other end has received everything that went before it. */
  ponged(payload: string): void {
    const id = this.confirmation.answered(payload, performance.now());
    if (id) this.confirm(id);
  }

  /** The client says that it has everything up to and with `id`. @returns false when that was not sent yet */
  ack(id: EventId): boolean {
    if (compareIds(id, this.position) > 0) return false;
    this.confirm(id);
    return true;
  }

  /**
   * Sends a sign of life and asks for one.
   * @param interval milliseconds between two beats
   * @returns false when the other end has left a ping unanswered for too long
   */
  beat(interval: number): boolean {
    const { sink, confirmation } = this;
    const now = performance.now();
    if (sink.buffered > 0 && sink.taken > this.taken) confirmation.hear(now);
    this.taken = sink.taken;
    if (confirmation.isSilent(now, interval)) return false;
    sink.idle?.();
    this.ping();
    return true;
  }

  /** Ends the connection after what is in its outbox; `json` is told why first. */
  close(disconnect: Disconnect): void {
    if (this.closed) return;
    this.notify({ event: "disconnected", ...disconnect });
    this.outbox.flush();
    this.endedBecause = disconnect.reason;
    this.end();
    this.sink.close(disconnect);
  }

  /** To be called when the other end has answered that the relay closed: it has received all that went before that. */
  closingAnswered(): void {
    if (!this.manual) this.confirm(this.position);
  }

  /** To be called when the sink is gone. Leaves the client's cursor where it may go on. */
  end(): void {
    if (this.closed) return;
    this.settle();
    this.unconfirmed.end(this.position);
    this.state = "closed";
    this.reader.keepSent(this.sent);
    this.shared.pings.delete(this);
    this.shared.beats.delete(this);
    for (const resume of this.waiting) resume();
    this.waiting.clear();
  }

  settle(head: EventId = this.shared.log.head): void {
    if (this.state !== "live" || this.confirmation.outstanding) return;
    this.reader.pass(head, this.unconfirmed.sent(head));
    this.unconfirmed.confirm(head);
  }

  hurry(): void {
    const { confirmation, shared } = this;
    const now = performance.now();
    if (confirmation.dueIn(now, this.live) !== undefined) shared.pings.add(this, confirmation.aloneIn(now, true));
  }

  /** Asks for a confirmation, and for a sign of life, now. */
  ping(): void {
    const frame = this.confirmation.ask(performance.now());
    if (frame) this.send(frame);
  }

  private confirm(id: EventId): void {
    // The client has another connection by now, and may have gone back with it.
    if (this.reader.connection !== this) return;
    const sent = this.unconfirmed.sentUpTo(id, this.position);
    const newest = this.confirmation.newestUpTo(id);
    if (this.reader.confirm(id, sent)) this.shared.moved(this.reader);
    this.unconfirmed.confirm(id);
    if (newest) this.tellConfirmed(newest);
  }

  private tellConfirmed(newest: EventId): void {
    const { reader, shared } = this;
    shared.observer.hears("event.confirmed")?.({
      client: reader.id,
      userId: reader.userId,
      id: formatId(newest),
      seconds: Math.max(0, shared.log.moment.at - newest.ms) / 1000,
    });
  }

  private hand(event: Event): boolean {
    const frame = this.encoder.event(event, this.reader.userId);
    if (!this.outbox.push(frame)) return false;
    this.position = event.id;
    this.confirmation.wrote(event.id, frame.length);
    if (this.confirmation.isStepDone(this.live, this.outbox.queued)) this.ping();
    return true;
  }

  private run(): void {
    // The engine could not read: the client comes back, and goes on where it was.
    this.catchUp().catch(() => this.close({ reason: "failed" }));
  }

  private async catchUp(): Promise<void> {
    const { log } = this.shared;
    while (this.state === "catching up") {
      if (log.isBehind(this.reader.kept, this.position) && !(await this.reach())) return;
      const { position } = this;
      const stretch = this.reader.stretch(position);
      const reading = log.read({ after: position, limit: BATCH, ...stretch });
      const atOnce = !(reading instanceof Promise);
      const { events, through, asOf } = atOnce ? reading : await reading;
      if (!this.isOpen()) return;
      // Meanwhile it may have lost the right to some of it.
      if (this.reader.stretch(position).topics !== stretch.topics) continue;
      const read = log.readAt(asOf);
      const isWhole = this.handAndTell(events, read.latest.at);
      if (isWhole) this.position = laterOf(position, through);
      this.noteSent({ after: position, through: this.position, ...read }, stretch.since);
      if (this.replayed > this.shared.maxReplay) return this.endReplay();
      if (!isWhole) await this.drain();
      // Read in this very step up to the head: no event can have come in between.
      else if (atOnce && compareIds(this.position, log.head) >= 0) this.goLive();
      else await new Promise(setImmediate);
    }
  }

  private goLive(): void {
    this.state = "live";
    this.unconfirmed.begin(this.position);
    this.settle();
  }

  /** Whether there is still someone to read for, after a while in which much may have happened. */
  private isOpen(): boolean {
    if (this.state === "catching up" && this.sink.open) return true;
    this.end();
    return false;
  }

  /** As `handAll`. */
  private handAndTell(events: readonly Event[], now: number): boolean {
    const { confirmation, reader, shared } = this;
    const { written } = confirmation;
    const isWhole = this.handAll(events, now);
    const count = confirmation.written - written;
    if (count > 0) {
      const id = formatId(confirmation.lastSent as EventId);
      shared.observer.hears("event.delivered")?.({ id, count, client: reader.id });
    }
    return isWhole;
  }

  /** @param now of the engine's clock @returns false when there was no room for all; `position` tells how far it went */
  private handAll(events: readonly Event[], now: number): boolean {
    return events.every((event) => {
      if (isExpired(event, now)) {
        this.position = event.id;
        return true;
      }
      if (!this.hand(event)) return false;
      if (compareIds(event.id, this.replayUntil) <= 0) this.replayed++;
      return true;
    });
  }

  private noteSent(sent: Sent, since: EventId | undefined): void {
    const taken = this.reader.narrowed.at(-1)?.at ?? ZERO;
    // When nothing could drop any of it, it does not matter when it was read.
    const isAll = !this.shared.log.mayDropAfter(sent.after) && compareIds(taken, sent.after) <= 0;
    this.unconfirmed.note(isAll ? { ...sent, earliest: LIVE, latest: LIVE } : sent, since);
  }

  /** Goes on after what the log does not have any more. @returns whether there is anyone to go on for */
  private async reach(): Promise<boolean> {
    const lost = lostUntil(this.reader.record, this.position);
    const { position, gap } = await this.shared.log.reach(this.reader.record, this.position);
    if (!this.isOpen()) return false;
    const isNews = gap && !(lost && this.told && compareIds(lost, this.told) <= 0);
    const cursor = formatId(position);
    const { id: client, userId } = this.reader;
    if (isNews && this.notify({ event: "gap", cursor })) {
      this.shared.observer.hears("gap.said")?.({ client, userId, cursor });
    } else if (isNews) {
      // The format has no words for it. As the cursor stays before the gap, the next connection says it.
      this.close({ reason: "gap" });
      return false;
    }
    this.unconfirmed.skip(this.position, position);
    this.position = position;
    if (gap) this.confirmation.told(position);
    return true;
  }

  /** What is left of the replay is for the next connection: so one client does not keep the relay reading for ever. */
  private endReplay(): void {
    this.shared.observer.hears("limit.reached")?.({ limit: "replay_events" });
    this.close({ reason: "replayed" });
  }

  private async drain(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.waiting.add(resolve);
      this.sink.whenTaken(() => {
        this.waiting.delete(resolve);
        resolve();
      });
    });
  }

  private pingIfDue(): Frame | undefined {
    const { confirmation } = this;
    const { pings } = this.shared;
    const now = performance.now();
    const due = confirmation.dueIn(now, this.live);
    if (due === undefined) return undefined;
    if (due === 0) {
      pings.delete(this);
      return confirmation.ask(now);
    }
    if (!pings.has(this)) pings.add(this, confirmation.aloneIn(now, false));
    return undefined;
  }
}
