import { earlierOf, END, type EventId, laterOf, ZERO } from "./id.js";
import { LIVE, NEVER } from "./moment.js";
import { type Sent, sentWithin, withSent } from "./sent.js";

/** What one connection has sent, and the client has not confirmed. */
export class Unconfirmed {
  /** What was read from the log to be sent. */
  private read: readonly Sent[] = [];
  /** While the connection is live: what came after this id was sent as it was published. */
  private liveAfter: EventId | undefined;

  /** @param position how far the connection has got */
  sent(position: EventId): readonly Sent[] {
    const { read, liveAfter } = this;
    if (!liveAfter) return read;
    return withSent(read, { after: liveAfter, through: position, earliest: LIVE, latest: LIVE });
  }

  /** As `sent`, up to an id. */
  sentUpTo(id: EventId, position: EventId): readonly Sent[] {
    const { read, liveAfter } = this;
    // Mostly, all of it was sent live.
    if (liveAfter && read.length === 0) return [{ after: liveAfter, through: id, earliest: LIVE, latest: LIVE }];
    return sentWithin(this.sent(position), { after: ZERO, through: id });
  }

  /**
   * A stretch was read, and sent.
   * @param since before this, it is not known whether what was sent is what had matched
   */
  note(sent: Sent, since: EventId | undefined): void {
    const { after, through } = sent;
    const known = since ? laterOf(after, earlierOf(through, since)) : after;
    this.read = withSent(this.read, { after, through: known, earliest: LIVE, latest: NEVER });
    this.read = withSent(this.read, { ...sent, after: known });
  }

  /** A stretch was passed over: what the log had of it is lost, or the client has asked for what comes later. */
  skip(after: EventId, through: EventId): void {
    this.read = withSent(this.read, { after, through, earliest: NEVER, latest: NEVER });
  }

  /** From now on, events are sent as they are published. */
  begin(position: EventId): void {
    this.liveAfter = position;
  }

  /** They no longer are, after `position`. */
  end(position: EventId): void {
    this.read = this.sent(position);
    this.liveAfter = undefined;
  }

  /** The client has confirmed everything up to and with `id`. */
  confirm(id: EventId): void {
    if (this.read.length > 0) this.read = sentWithin(this.read, { after: id, through: END });
    if (this.liveAfter) this.liveAfter = laterOf(this.liveAfter, id);
  }
}
