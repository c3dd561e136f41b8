import { Audience, NO_AUDIENCE, NOBODY_REACHED, type Reached } from "./audience.js";
import { MultiMap } from "./multimap.js";
import type { Reader } from "./reader.js";
import { isPattern } from "./topics.js";
import { SegmentTrie } from "./trie.js";

/** Maximum number of topics whose audience is cached. */
const MAX_TOPICS = 10_000;

/** Maximum number of cached unions, and of members and readers (16 bytes each) in all of them together. */
const MAX_UNIONS = 10_000;
const MAX_READERS = 1_000_000;

/** Increases with every change of a subscription, so that a union can tell whether it is out of date. */
let clock = 0;

/** A topic or pattern that somebody subscribes to and that was published to. Topics that nothing else matches share its audiences. */
class Subscription implements Reached {
  readonly id = ++clock;
  /** When a reader came or went last, and when one connected or disconnected. */
  changed = 0;
  touched = 0;
  private everyone: Audience | undefined;
  private open: Audience | undefined;

  constructor(
    readonly name: string,
    private readonly subscribers: MultiMap<string, Reader>,
  ) {}

  get all(): Audience {
    return (this.everyone ??= new Audience([...this.subscribers.get(this.name)]));
  }

  get connected(): Audience {
    return (this.open ??= connectedOf(this.all));
  }

  has(reader: Reader): boolean {
    return this.subscribers.has(this.name, reader);
  }

  /** To be called when a reader came or went. */
  change(): void {
    this.everyone = undefined;
    this.changed = ++clock;
    this.touch();
  }

  /** To be called when a reader got or lost its connection. */
  touch(): void {
    this.open = undefined;
    this.touched = ++clock;
  }
}

/** What several subscriptions reach together. */
class Union implements Reached {
  private everyone = NO_AUDIENCE;
  private open = NO_AUDIENCE;
  private madeAt = -1;
  private openAt = -1;

  /** @param resized told by how many its readers are more */
  constructor(
    private readonly members: readonly Subscription[],
    private readonly resized: (more: number) => void,
  ) {}

  get all(): Audience {
    if (this.madeAt === clock) return this.everyone;
    const isOld = this.members.some(({ changed }) => changed > this.madeAt);
    this.madeAt = clock;
    if (!isOld) return this.everyone;
    const before = this.everyone.clients.length;
    this.everyone = unionOf(this.members);
    this.openAt = -1;
    this.resized(this.everyone.clients.length - before);
    return this.everyone;
  }

  get connected(): Audience {
    const { all } = this;
    if (this.openAt === clock) return this.open;
    const isOld = this.openAt < 0 || this.members.some(({ touched }) => touched > this.openAt);
    this.openAt = clock;
    if (isOld) this.open = connectedOf(all);
    return this.open;
  }
}

/**
 * Readers by what they subscribe to now. A topic's audience follows from the few subscriptions that match it; who comes,
 * goes, connects or disconnects marks its own subscriptions, and no topics.
 */
export class SubscriptionIndex {
  /** By topic and by pattern. */
  private readonly subscribers = new MultiMap<string, Reader>();
  /** The patterns among them. */
  private readonly patterns = new SegmentTrie<string>();
  /** Those that were published to. */
  private readonly subscriptions = new Map<string, Subscription>();
  /** By topic. */
  private audiences = new Map<string, Reached>();
  /** By the ids of their members. */
  private unions = new Map<string, Union>();
  /** Members and readers in all unions. */
  private size = 0;

  add(reader: Reader, subscriptions: Iterable<string>): void {
    for (const name of subscriptions) {
      if (!this.subscribers.add(name, reader)) this.subscriptions.get(name)?.change();
      else if (isPattern(name)) this.addPattern(name);
      else this.audiences.delete(name);
    }
  }

  remove(reader: Reader, subscriptions: Iterable<string>): void {
    for (const name of subscriptions) {
      if (!this.subscribers.delete(name, reader)) continue;
      this.subscriptions.get(name)?.change();
      if (this.subscribers.count(name) > 0) continue;
      this.subscriptions.delete(name);
      if (isPattern(name)) this.removePattern(name);
      else this.audiences.delete(name);
    }
  }

  /** To be called when the reader gets or loses its connection. */
  touch(reader: Reader): void {
    for (const name of reader.topics) this.subscriptions.get(name)?.touch();
  }

  /** Whom an event for everyone reaches. */
  match(topic: string): Reached {
    const known = this.audiences.get(topic);
    if (known) return known;
    const names = this.patterns.matching(topic);
    if (this.subscribers.count(topic) > 0) names.unshift(topic);
    const audience = this.together(names.map((name) => this.subscription(name)));
    if (this.audiences.size >= MAX_TOPICS) this.audiences = new Map();
    this.audiences.set(topic, audience);
    return audience;
  }

  private together(members: readonly Subscription[]): Reached {
    const [first] = members;
    if (!first) return NOBODY_REACHED;
    if (members.length === 1) return first;
    // The same members always come in the same order.
    const key = members.map(({ id }) => id).join();
    const known = this.unions.get(key);
    if (known) return known;
    if (this.unions.size >= MAX_UNIONS || this.size >= MAX_READERS) this.forget();
    const union = new Union(members, (more) => (this.size += more));
    this.unions.set(key, union);
    this.size += members.length;
    return union;
  }

  private subscription(name: string): Subscription {
    const known = this.subscriptions.get(name);
    if (known) return known;
    const subscription = new Subscription(name, this.subscribers);
    this.subscriptions.set(name, subscription);
    return subscription;
  }

  private addPattern(name: string): void {
    this.patterns.set(name, name);
    this.forgetTopics();
  }

  private removePattern(name: string): void {
    this.patterns.delete(name);
    this.forgetTopics();
  }

  /** Other patterns match them now. */
  private forgetTopics(): void {
    if (this.audiences.size > 0) this.audiences = new Map();
  }

  private forget(): void {
    this.audiences = new Map();
    this.unions = new Map();
    this.size = 0;
  }
}

/** Each reader once. */
function unionOf(members: readonly Subscription[]): Audience {
  // Copy the largest list as it is: the others are often short.
  const [largest, ...others] = members.toSorted((a, b) => b.all.clients.length - a.all.clients.length);
  if (!largest) return NO_AUDIENCE;
  const more = new Set<Reader>();
  for (const { all } of others) {
    for (const reader of all.clients) if (!largest.has(reader)) more.add(reader);
  }
  return more.size === 0 ? largest.all : new Audience([...largest.all.clients, ...more]);
}

function connectedOf({ clients }: Audience): Audience {
  return new Audience(clients.filter((reader) => reader.connection));
}
