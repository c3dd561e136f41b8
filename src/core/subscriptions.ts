import type { Reader } from "./reader.js";
import { isPattern, SegmentTrie } from "./topics.js";

/** The readers that a topic reaches. The list is made once and shared until a subscription to the topic changes. */
export interface Audience {
  readonly readers: readonly Reader[];
  /** Those with a connection. */
  readonly connected: readonly Reader[];
}

/** How many audiences are remembered: one for each topic that is published to. */
const MAX_AUDIENCES = 10_000;

/** Readers by what they subscribe to now. Finding a topic's readers costs nothing for those it does not reach. */
export class SubscriptionIndex {
  private readonly topics = new Map<string, Set<Reader>>();
  private readonly patterns = new SegmentTrie<Set<Reader>>();
  private audiences = new Map<
    string,
    { readonly readers: readonly Reader[]; connected: readonly Reader[] | undefined }
  >();
  /** The topics of `audiences`, to find those that a pattern matches. */
  private audienceTopics = new SegmentTrie<string>();

  add(reader: Reader, subscriptions: Iterable<string>): void {
    for (const subscription of subscriptions) {
      const readers = this.readersOf(subscription);
      if (readers) readers.add(reader);
      else if (isPattern(subscription)) this.patterns.set(subscription, new Set([reader]));
      else this.topics.set(subscription, new Set([reader]));
      this.outdate(subscription);
    }
  }

  remove(reader: Reader, subscriptions: Iterable<string>): void {
    for (const subscription of subscriptions) {
      const readers = this.readersOf(subscription);
      readers?.delete(reader);
      if (readers?.size === 0 && isPattern(subscription)) this.patterns.delete(subscription);
      else if (readers?.size === 0) this.topics.delete(subscription);
      this.outdate(subscription);
    }
  }

  /** To be called when the reader gets or loses its connection. */
  touch(reader: Reader): void {
    for (const subscription of reader.topics) {
      for (const topic of this.audiencesOf(subscription)) {
        const audience = this.audiences.get(topic);
        if (audience) audience.connected = undefined;
      }
    }
  }

  audience(topic: string): Audience {
    const known = this.audiences.get(topic);
    if (known) {
      known.connected ??= connectedOf(known.readers);
      return known as Audience;
    }
    const sets = [this.topics.get(topic) ?? [], ...this.patterns.matching(topic)];
    const readers = sets.length === 1 ? [...(sets[0] ?? [])] : [...new Set(sets.flatMap((set) => [...set]))];
    const audience = { readers, connected: connectedOf(readers) };
    if (this.audiences.size >= MAX_AUDIENCES) {
      this.audiences = new Map();
      this.audienceTopics = new SegmentTrie();
    }
    this.audiences.set(topic, audience);
    this.audienceTopics.set(topic, topic);
    return audience;
  }

  private readersOf(subscription: string): Set<Reader> | undefined {
    return isPattern(subscription) ? this.patterns.get(subscription) : this.topics.get(subscription);
  }

  private outdate(subscription: string): void {
    for (const topic of this.audiencesOf(subscription)) {
      if (this.audiences.delete(topic)) this.audienceTopics.delete(topic);
    }
  }

  /** Topics whose audiences a subscription belongs to. */
  private audiencesOf(subscription: string): readonly string[] {
    return isPattern(subscription) ? this.audienceTopics.matchedBy(subscription) : [subscription];
  }
}

function connectedOf(readers: readonly Reader[]): readonly Reader[] {
  return readers.filter((reader) => reader.connection);
}
