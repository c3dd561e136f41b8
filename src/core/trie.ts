import type { Fit, PatternSet, Work } from "./patterns.js";
import { isReserved, isRest, REST, WILDCARD } from "./topics.js";

/** Where names part, or one ends. */
interface TrieNode<V> {
  /** The segments that lead here from the node above: one at least, but for the root. */
  path: readonly string[];
  /** By the first segment of their paths. */
  children?: Map<string, TrieNode<V>>;
  value?: V;
}

/**
 * Values by dot-separated name, found from either side: the patterns that match a topic, or the topics that patterns
 * match. A lookup visits only what can match. There is a node where names part and where one ends, and no others: the
 * longest names take no more of them than short ones.
 */
export class SegmentTrie<V> {
  private readonly root: TrieNode<V> = { path: [] };

  set(name: string, value: V): void {
    let node = this.root;
    let rest: readonly string[] = name.split(".");
    while (rest.length > 0) {
      const [first] = rest as [string];
      const child: TrieNode<V> = node.children?.get(first) ?? { path: rest };
      const common = commonLength(child.path, rest);
      const next = common < child.path.length ? split(child, common) : child;
      (node.children ??= new Map()).set(first, next);
      node = next;
      rest = rest.slice(common);
    }
    node.value = value;
  }

  delete(name: string): void {
    const above: TrieNode<V>[] = [];
    let node = this.root;
    let rest: readonly string[] = name.split(".");
    while (rest.length > 0) {
      const child: TrieNode<V> | undefined = node.children?.get(rest[0] as string);
      if (!child || commonLength(child.path, rest) < child.path.length) return;
      above.push(node);
      node = child;
      rest = rest.slice(child.path.length);
    }
    delete node.value;
    for (let parent = above.pop(); parent && node.value === undefined; parent = above.pop()) {
      const { path, children } = node;
      if (children && children.size > 1) return;
      const [first] = path as [string];
      const [only] = children?.values() ?? [];
      if (only) {
        only.path = [...path, ...only.path];
        parent.children?.set(first, only);
      } else {
        parent.children?.delete(first);
      }
      node = parent;
    }
  }

  /** The values whose names, read as patterns, match the topic; the same ones always in the same order. */
  matching(topic: string): V[] {
    const found: V[] = [];
    if (isReserved(topic)) return found;
    const segments = topic.split(".");
    const visit = (node: TrieNode<V>, depth: number): void => {
      if (depth === segments.length && node.value !== undefined) found.push(node.value);
      const { children } = node;
      if (!children || depth === segments.length) return;
      for (const name of [REST, segments[depth] as string, WILDCARD]) {
        const child = children.get(name);
        if (!child) continue;
        const fit = fitOf(child.path, segments, depth);
        if (fit === "open" && child.value !== undefined) found.push(child.value);
        else if (fit === "some") visit(child, depth + child.path.length);
      }
    };
    visit(this.root, 0);
    return found;
  }

  /**
   * The values whose names, read as topics, one of the patterns matches, each once: one walk for all of the patterns.
   * @param work is charged for each segment that is looked at
   * @returns undefined when that used the work up
   */
  matchedBy(patterns: PatternSet, work: Work): V[] | undefined {
    const found: V[] = [];
    const collect = (node: TrieNode<V>): void => {
      if (--work.left < 0) return;
      if (node.value !== undefined) found.push(node.value);
      for (const child of node.children?.values() ?? []) if (work.left >= 0) collect(child);
    };
    const visit = (node: TrieNode<V>, depth: number, left: Uint32Array): void => {
      if (node.value !== undefined && patterns.hasEnd(left, depth)) found.push(node.value);
      const { children } = node;
      if (!children || depth === patterns.length) return;
      const named = patterns.segmentsAt(left, depth);
      const next = patterns.all();
      // From the side that has fewer.
      const names = named && named.size < children.size ? named : children;
      for (const name of names.keys()) {
        if (work.left < 0) return;
        work.left--;
        const child = children.get(name);
        if (!child || (depth === 0 && isReserved(name))) continue;
        const { path } = child;
        work.left -= path.length - 1;
        const fit = patterns.narrow(left, depth, path, next);
        if (fit === "open") collect(child);
        else if (fit === "some") visit(child, depth + path.length, next);
      }
    };
    visit(this.root, 0, patterns.all());
    return work.left < 0 ? undefined : found;
  }
}

/** The node in place of one whose path parts at `at`. */
function split<V>(node: TrieNode<V>, at: number): TrieNode<V> {
  const { path } = node;
  node.path = path.slice(at);
  return { path: path.slice(0, at), children: new Map([[path[at] as string, node]]) };
}

function commonLength(a: readonly string[], b: readonly string[]): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}

/** How a part of a pattern matches the segments of a topic from a depth on. */
function fitOf(path: readonly string[], segments: readonly string[], depth: number): Fit {
  for (let index = 0; index < path.length; index++) {
    const segment = segments[depth + index];
    if (segment === undefined) return "none";
    const want = path[index];
    if (want === segment || want === WILDCARD) continue;
    return isRest(path, index) ? "open" : "none";
  }
  return "some";
}
