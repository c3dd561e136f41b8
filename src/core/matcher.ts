import { PatternSet, type Work } from "./patterns.js";
import { isPattern } from "./topics.js";

/** A list of subscriptions, made ready for matching. */
export class Matcher {
  /** The topics among them. */
  readonly exact: ReadonlySet<string>;
  /** The patterns among them. */
  readonly patterns: PatternSet | undefined;

  constructor(subscriptions: readonly string[]) {
    const patterns = subscriptions.filter(isPattern);
    this.exact = new Set(patterns.length === 0 ? subscriptions : subscriptions.filter((name) => !isPattern(name)));
    if (patterns.length > 0) this.patterns = new PatternSet(patterns);
  }

  /**
   * Whether one of the subscriptions matches the topic; of a pattern: whether one matches every topic that it does.
   * @param work is charged for it
   */
  matches(topic: string, work?: Work): boolean {
    return this.exact.has(topic) || (this.patterns?.matches(topic, work) ?? false);
  }
}

const matchers = new WeakMap<readonly string[], Matcher>();

/** The matcher of a list of subscriptions, made once for each list: a list MUST NOT change. */
export function matcherOf(subscriptions: readonly string[]): Matcher {
  let matcher = matchers.get(subscriptions);
  if (!matcher) matchers.set(subscriptions, (matcher = new Matcher(subscriptions)));
  return matcher;
}
