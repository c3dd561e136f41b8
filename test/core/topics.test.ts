import fc from "fast-check";
import { expect, test } from "vitest";
import { matcherOf } from "../../src/core/matcher.js";
import { PatternSet } from "../../src/core/patterns.js";
import { matchesTopic } from "../../src/core/topics.js";
import { subscriptionFault, topicFault } from "../../src/protocol.js";
import { SegmentTrie } from "../../src/core/trie.js";

const segment = fc.constantFrom("a", "b", "", "aa", "ä");
const topic = fc.array(segment, { minLength: 1, maxLength: 4 }).map((segments) => segments.join("."));
const subscription = fc
  .tuple(fc.array(fc.oneof(segment, fc.constant("*")), { minLength: 1, maxLength: 4 }), fc.boolean())
  .map(([segments, open]) => [...segments, ...(open ? [">"] : [])].join("."));

/** The definition, as a regular expression. */
function naive(pattern: string, name: string): boolean {
  const source = pattern
    .split(".")
    .map((part) => (part === "*" ? "[^.]*" : part === ">" ? "[^.]*(?:\\.[^.]*)*" : part))
    .join("\\.");
  return new RegExp(`^${source}$`, "u").test(name);
}

test("matching equals the definition", () => {
  fc.assert(
    fc.property(subscription, topic, (pattern, name) => {
      expect(matchesTopic(pattern, name)).toBe(naive(pattern, name));
    }),
    { numRuns: 2000 },
  );
});

test("the trie finds the patterns that match a topic, and the topics that a pattern matches", () => {
  fc.assert(
    fc.property(fc.uniqueArray(subscription), fc.uniqueArray(topic), (patterns, names) => {
      const byPattern = new SegmentTrie<string>();
      const byName = new SegmentTrie<string>();
      for (const pattern of patterns) byPattern.set(pattern, pattern);
      for (const name of names) byName.set(name, name);
      for (const name of names) {
        expect(byPattern.matching(name).sort()).toEqual(patterns.filter((p) => naive(p, name)).sort());
      }
      const matched = names.filter((name) => patterns.some((pattern) => naive(pattern, name)));
      expect(byName.matchedBy(new PatternSet(patterns), { left: 1000 })?.sort()).toEqual(matched.sort());
    }),
    { numRuns: 500 },
  );
});

test("many subscriptions at once match what one of them matches", () => {
  fc.assert(
    fc.property(fc.uniqueArray(subscription, { maxLength: 100, size: "max" }), topic, (subscriptions, name) => {
      expect(matcherOf(subscriptions).matches(name)).toBe(subscriptions.some((one) => naive(one, name)));
    }),
    { numRuns: 500 },
  );
});

test("looking for topics ends when it has cost as much as it may", () => {
  const trie = new SegmentTrie<string>();
  for (let index = 0; index < 100; index++) trie.set(`w.${index}`, "");
  const work = { left: 50 };
  expect(trie.matchedBy(new PatternSet(["w.*.x", "w.*.y"]), work)).toBeUndefined();
  expect(work.left).toBeGreaterThanOrEqual(-1);
  // One that spells out what it wants does not look at the others.
  expect(trie.matchedBy(new PatternSet(["*.7"]), { left: 50 })).toEqual([""]);
  expect(trie.matchedBy(new PatternSet(["w.>"]), { left: 50 })).toBeUndefined();
});

test("what is taken out of the trie is not found any more, and the rest is", () => {
  fc.assert(
    fc.property(fc.uniqueArray(topic), fc.func(fc.boolean()), (names, isOut) => {
      const trie = new SegmentTrie<string>();
      for (const name of names) trie.set(name, name);
      for (const name of names) if (isOut(name)) trie.delete(name);
      expect(trie.matchedBy(new PatternSet([">"]), { left: 1000 })?.sort()).toEqual(
        names.filter((name) => !isOut(name)).sort(),
      );
      for (const name of names) expect(trie.matching(name)).toEqual(isOut(name) ? [] : [name]);
    }),
  );
});

test("wildcards do not reach into reserved topics", () => {
  expect(matchesTopic(">", "$broadcast")).toBe(false);
  expect(matchesTopic("*", "$broadcast")).toBe(false);
  expect(matchesTopic("$broadcast", "$broadcast")).toBe(true);
  const trie = new SegmentTrie<string>();
  trie.set("$broadcast", "x");
  expect(trie.matchedBy(new PatternSet([">"]), { left: 10 })).toEqual([]);
});

test("a pattern that tries hard is matched in no time", () => {
  const hostile = Array.from({ length: 60 }, () => "*").join(".");
  const name = Array.from({ length: 61 }, () => "a").join(".");
  expect(matchesTopic(hostile, name)).toBe(false);
});

test.each(["", "a\u0000b", "a\nb", "\u0085", "x".repeat(256), "$x", "$", "\ud800"])(
  "%j is neither topic nor pattern",
  (name) => {
    expect(topicFault(name)).toBeTypeOf("string");
    expect(subscriptionFault(name)).toBeTypeOf("string");
  },
);

test.each(["a", "a.b", "x".repeat(255), "__proto__", "ümläut 🐈", "a..b", "cats>", "a*b", " "])(
  "%j is a topic",
  (name) => {
    expect(topicFault(name)).toBeUndefined();
    expect(subscriptionFault(name)).toBeUndefined();
  },
);

test("patterns are for subscribing only", () => {
  for (const name of ["*", ">", "a.*", "a.>", "*.a"]) {
    expect(topicFault(name)).toMatch(/pattern/);
    expect(subscriptionFault(name)).toBeUndefined();
  }
  expect(subscriptionFault("a.>.b")).toMatch(/last/);
});
