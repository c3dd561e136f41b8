import { expect, test } from "vitest";
import { Bare } from "../support/bare.js";
import { startRelay, type TestRelay } from "../support/relay.js";

/** Publishes a binary CloudEvent whose `ce-subject` has these very bytes, and gives the answer. */
async function publish(relay: TestRelay, subject: string | Uint8Array): Promise<string> {
  const bare = await Bare.open(relay.http);
  const head =
    "POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n" +
    "ce-specversion: 1.0\r\nce-id: 1\r\nce-source: /shop\r\nce-type: note\r\nce-subject: ";
  bare.write(Buffer.concat([Buffer.from(head), Buffer.from(subject), Buffer.from("\r\n\r\nhi")]));
  return bare.closed;
}

test.each([
  ["plain", "plain"],
  ["percent-encoded", "k%C3%A4tzchen", "kätzchen"],
  ["percent-encoded in lower case, and more than is needed", "k%c3%a4tz%63hen", "kätzchen"],
  ["percent-encoded once: what comes out is not decoded again", "a%2541", "a%41"],
  ["UTF-8 as it is", "kätzchen", "kätzchen"],
  ["UTF-8 of four bytes", "ガス.🐈", "ガス.🐈"],
  ["UTF-8 and percent-encoding", "kätz%C3%A4", "kätzä"],
  ["quoted", '"cats"', "cats"],
  ["quoted, with spaces, escapes, UTF-8 and percent-encoding", '"a \\"b\\" \\\\ ä%20c"', 'a "b" \\ ä c'],
  ["a quote in the middle", 'a"b"', 'a"b"'],
])("ce-subject: %s", async (_name, subject, topic = subject) => {
  const relay = await startRelay();
  const client = await relay.connect((await relay.register({ user_id: 1, topics: [">"] })).url + "?format=json");
  await client.next();
  expect(await publish(relay, subject)).toMatch(/^HTTP\/1.1 200 /);
  expect(await client.json()).toMatchObject({ topic, message: "hi" });
});

test.each([
  ["latin1", Buffer.from("kätzchen", "latin1")],
  ["UTF-8 that breaks off", Buffer.from("ä").subarray(0, 1)],
  ["an overlong form", Buffer.from([0xc0, 0xa0])],
  ["a surrogate", Buffer.from([0xed, 0xa0, 0x80])],
  ["percent-encoded latin1", "k%E4tzchen"],
  ["a percent-encoded overlong form", "%C0%A0"],
  ["a character half percent-encoded", Buffer.concat([Buffer.from("%C3"), Buffer.from([0xa4])])],
  ["a percent sign", "100%"],
  ["no hex digits", "a%zz"],
  ["a quote that does not end", '"cats'],
  ["a quote that ends before", '"cats" and'],
  ["a quote whose end is escaped", '"cats\\"'],
  ["a lone quote", '"'],
])("ce-subject: %s is refused, and the header is named", async (_name, subject) => {
  const answer = await publish(await startRelay(), subject);
  expect(answer).toMatch(/^HTTP\/1.1 400 /);
  expect(answer).toContain("ce-subject");
});

test("other attributes and users are decoded alike", async () => {
  const relay = await startRelay();
  const { url } = await relay.register({ user_id: "jürgen", topics: ["a"] });
  const client = await relay.connect(url + "?format=cloudevents");
  expect(await publish(relay, 'a\r\nce-relayuser: jürgen\r\nce-note: "ä ö"\r\nce-more: %E2%82%AC')).toMatch(/ 200 /);
  expect(await client.json()).toMatchObject({ subject: "a", relayuser: "jürgen", note: "ä ö", more: "€" });
  expect(await publish(relay, Buffer.from("a\r\nce-note: ä", "latin1"))).toContain("ce-note");
});
