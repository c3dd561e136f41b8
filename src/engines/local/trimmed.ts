import { type Event, isExpired, userKey } from "../../core/event.js";
import { compareIds, type EventId, laterOf, ZERO } from "../../core/id.js";
import { type Matcher, matcherOf } from "../../core/matcher.js";
import type { Work } from "../../core/patterns.js";

/** Bytes that an engine may spend on remembering trimmed events: a part of the retention's bytes, within bounds. */
const ROOM = { part: 1 / 16, least: 16 * 1024, most: 16 * 1024 * 1024 };

// Estimated bytes on 64-bit V8, on top of the text: a topic with its id; a user's own map.
const TOPIC_BYTES = 96;
const USER_BYTES = 256;

/** Work of one lookup, in units of about 10 ns: a few milliseconds. */
const LOOKUP = 300_000;

/** What it costs to look at a topic before it is matched. */
const LOOK = 4;

/** The bytes that an engine may spend on remembering trimmed events. */
export function trimmedRoom(retention: { readonly bytes: number }): number {
  return Math.max(ROOM.least, Math.min(ROOM.most, retention.bytes * ROOM.part));
}

/**
 * Remembers trimmed events: the last id for each addressee (everyone, or one user) and topic. Ids are noted in ascending
 * order into the recent generation. When the recent generation has filled half of the room, it becomes the older one, and
 * the previous older generation is forgotten at once: no entry is ever looked for to be evicted.
 */
export class Trimmed {
  private recent = new Generation();
  private older = new Generation();

  /**
   * @param unknown nothing is known of what was trimmed up to this id
   * @param room bytes of memory
   */
  constructor(
    private unknown: EventId,
    private readonly room: number,
  ) {}

  /** Notes an event that is trimmed at `now`, Unix milliseconds. Expired events are not noted: no reader misses them. */
  note(event: Event, now: number): void {
    if (isExpired(event, now)) return;
    if (this.recent.bytes * 2 >= this.room) {
      this.unknown = laterOf(this.unknown, this.older.last);
      this.older = this.recent;
      this.recent = new Generation();
    }
    this.recent.note(event);
  }

  /** As `gap` of `EngineReading`. `until` is of no use here: an event before it may hide behind a later one. */
  has(query: { readonly after: EventId; readonly topics: readonly string[]; readonly user: string }): boolean {
    const { after, topics, user } = query;
    if (compareIds(after, this.unknown) < 0) return true;
    const matcher = matcherOf(topics);
    const work = { left: LOOKUP };
    return this.recent.has(after, matcher, user, work) || this.older.has(after, matcher, user, work);
  }
}

/** By topic, the id of the last event that was trimmed. */
type LastIds = Map<string, EventId>;

class Generation {
  /** The last id that was noted. */
  last: EventId = ZERO;
  bytes = 0;
  private readonly everyone: LastIds = new Map();
  private readonly users = new Map<string, LastIds>();

  note({ id, topic, users }: Event): void {
    this.last = id;
    if (!users) return this.put(this.everyone, topic, id);
    for (const userId of users) {
      const user = userKey(userId);
      let own = this.users.get(user);
      if (!own) {
        this.users.set(user, (own = new Map()));
        this.bytes += USER_BYTES + user.length;
      }
      this.put(own, topic, id);
    }
  }

  has(after: EventId, matcher: Matcher, user: string, work: Work): boolean {
    if (compareIds(this.last, after) <= 0) return false;
    const own = this.users.get(user);
    return (
      isAnyAfter(this.everyone, after, matcher, work) || (own !== undefined && isAnyAfter(own, after, matcher, work))
    );
  }

  private put(ids: LastIds, topic: string, id: EventId): void {
    const { size } = ids;
    ids.set(topic, id);
    if (ids.size > size) this.bytes += TOPIC_BYTES + topic.length;
  }
}

/** Whether a matching topic has an id after `after`. True as well when the work is used up. */
function isAnyAfter(ids: LastIds, after: EventId, matcher: Matcher, work: Work): boolean {
  const { exact, patterns } = matcher;
  // From the side that has fewer, if there is a choice.
  if (!patterns && exact.size < ids.size) {
    for (const topic of exact) {
      const id = ids.get(topic);
      if ((work.left -= LOOK) < 0 || (id && compareIds(id, after) > 0)) return true;
    }
    return false;
  }
  for (const [topic, id] of ids) {
    if ((work.left -= LOOK) < 0) return true;
    if (compareIds(id, after) > 0 && matcher.matches(topic, work)) return true;
  }
  return false;
}
