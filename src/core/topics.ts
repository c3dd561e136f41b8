/**
 * Topics are dot-separated segments. A subscription is a topic or a pattern: a segment `*` stands for one
 * segment, a last segment `>` for one or more. Wildcards do not reach into the reserved topics (`$…`).
 */

export const MAX_TOPIC_LENGTH = 255;

const RESERVED = "$";

/** The topic that all connections of `/ws` have. */
export const BROADCAST = "$broadcast";

export function isPattern(subscription: string): boolean {
  if (!/[*>]/.test(subscription)) return false;
  return subscription
    .split(".")
    .some((segment, index, all) => segment === "*" || (segment === ">" && index === all.length - 1));
}

/** What is wrong with `topic` as the topic of an event, or undefined. */
export function topicFault(topic: string): string | undefined {
  const fault = nameFault(topic);
  if (fault) return fault;
  // Most topics have neither character, which is found out faster.
  if (!/[*>]/.test(topic)) return undefined;
  const wild = topic.split(".").some((segment) => segment === "*" || segment === ">");
  return wild ? "is a pattern: patterns are for subscribing only" : undefined;
}

/** What is wrong with `subscription`, or undefined. */
export function subscriptionFault(subscription: string): string | undefined {
  const fault = nameFault(subscription);
  if (fault) return fault;
  if (subscription.split(".").slice(0, -1).includes(">")) return "has `>` before its last segment";
  return undefined;
}

function nameFault(name: string): string | undefined {
  if (name.length === 0) return "is empty";
  if (name.length > MAX_TOPIC_LENGTH) return `is longer than ${MAX_TOPIC_LENGTH} characters`;
  if (/\p{Cc}/u.test(name)) return "has a control character";
  if (!name.isWellFormed()) return "is not well-formed Unicode";
  if (name.startsWith(RESERVED)) return "is reserved: it starts with `$`";
  return undefined;
}

/** Whether the subscription matches the topic; linear in their length. */
export function matchesTopic(subscription: string, topic: string): boolean {
  if (subscription === topic) return true;
  if (!isPattern(subscription) || topic.startsWith(RESERVED)) return false;
  const pattern = subscription.split(".");
  const segments = topic.split(".");
  const last = pattern.length - 1;
  const open = pattern[last] === ">";
  if (open ? segments.length < pattern.length : segments.length !== pattern.length) return false;
  const fixed = open ? pattern.slice(0, last) : pattern;
  return fixed.every((segment, index) => segment === "*" || segment === segments[index]);
}

/** Tells topics that one of the subscriptions matches, in a time that does not depend on how many there are. */
export function matcherOf(subscriptions: readonly string[]): (topic: string) => boolean {
  const exact = new Set(subscriptions);
  const patterns = new SegmentTrie<true>();
  for (const pattern of subscriptions.filter(isPattern)) patterns.set(pattern, true);
  return (topic) => exact.has(topic) || patterns.matching(topic).length > 0;
}

interface TrieNode<V> {
  readonly children: Map<string, TrieNode<V>>;
  value?: V;
}

/**
 * Values by dot-separated name, found from either side: the patterns that match a topic, or the topics that a
 * pattern matches. A lookup visits only what can match.
 */
export class SegmentTrie<V> {
  private readonly root: TrieNode<V> = { children: new Map() };

  get(name: string): V | undefined {
    let node: TrieNode<V> | undefined = this.root;
    for (const segment of name.split(".")) node = node?.children.get(segment);
    return node?.value;
  }

  set(name: string, value: V): void {
    let node = this.root;
    for (const segment of name.split(".")) {
      let child = node.children.get(segment);
      if (!child) node.children.set(segment, (child = { children: new Map() }));
      node = child;
    }
    node.value = value;
  }

  delete(name: string): void {
    const path: { parent: TrieNode<V>; segment: string; node: TrieNode<V> }[] = [];
    let parent = this.root;
    for (const segment of name.split(".")) {
      const node = parent.children.get(segment);
      if (!node) return;
      path.push({ parent, segment, node });
      parent = node;
    }
    delete parent.value;
    for (const step of path.reverse()) {
      if (step.node.children.size > 0 || step.node.value !== undefined) return;
      step.parent.children.delete(step.segment);
    }
  }

  /**
   * The values whose names, read as patterns, match the topic; of a pattern: those that match every topic that it does.
   */
  matching(topic: string): V[] {
    const found: V[] = [];
    if (topic.startsWith(RESERVED)) return found;
    const segments = topic.split(".");
    const visit = (node: TrieNode<V>, depth: number): void => {
      if (depth === segments.length) {
        if (node.value !== undefined) found.push(node.value);
        return;
      }
      const rest = node.children.get(">");
      if (rest?.value !== undefined) found.push(rest.value);
      const segment = segments[depth] as string;
      // A last `>` may be many segments, and only `>` stands for those.
      if (segment === ">" && depth === segments.length - 1) return;
      for (const name of segment === "*" ? ["*"] : [segment, "*"]) {
        const child = node.children.get(name);
        if (child) visit(child, depth + 1);
      }
    };
    visit(this.root, 0);
    return found;
  }

  /** The values whose names, read as topics, are matched by the pattern. */
  matchedBy(pattern: string): V[] {
    const found: V[] = [];
    const segments = pattern.split(".");
    const visit = (node: TrieNode<V>, depth: number): void => {
      if (depth === segments.length) {
        if (node.value !== undefined) found.push(node.value);
        return;
      }
      const segment = segments[depth] as string;
      if (segment === ">" && depth === segments.length - 1) {
        for (const child of wildcardChildren(node, depth)) collect(child, found);
      } else if (segment === "*") {
        for (const child of wildcardChildren(node, depth)) visit(child, depth + 1);
      } else {
        const child = node.children.get(segment);
        if (child) visit(child, depth + 1);
      }
    };
    visit(this.root, 0);
    return found;
  }
}

/** What a wildcard may step into: everything but, at the top, the reserved names. */
function* wildcardChildren<V>(node: TrieNode<V>, depth: number): Generator<TrieNode<V>> {
  for (const [name, child] of node.children) {
    if (depth > 0 || !name.startsWith(RESERVED)) yield child;
  }
}

function collect<V>(node: TrieNode<V>, found: V[]): void {
  if (node.value !== undefined) found.push(node.value);
  for (const child of node.children.values()) collect(child, found);
}
