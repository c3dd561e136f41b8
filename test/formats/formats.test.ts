import { expect, test } from "vitest";
import { cloudevents } from "../../src/formats/cloudevents.js";
import { chooseSubprotocol } from "../../src/formats/index.js";
import { json } from "../../src/formats/json.js";
import { raw } from "../../src/formats/raw.js";
import { type Decoded, testFormat } from "./conformance.js";

function readJson(text: string): Decoded {
  const { type, id, topic, message, user_id, time } = JSON.parse(text) as Record<string, string>;
  expect([type, new Date(time ?? "").toISOString()]).toEqual(["event", time]);
  return { id: id ?? "", topic: topic ?? "", message, user: user_id };
}

function readCloudEvent(text: string): Decoded {
  const { specversion, id, relayid, subject, data, relayuser } = JSON.parse(text) as Record<string, never>;
  expect([specversion, relayid]).toEqual(["1.0", id]);
  return { id, topic: subject, message: data, user: relayuser };
}

function readRaw(text: string): Decoded {
  try {
    return { message: JSON.parse(text) as unknown };
  } catch {
    return { message: text };
  }
}

testFormat(json, { text: readJson, line: readJson, notices: true });
testFormat(cloudevents, { text: readCloudEvent, line: readCloudEvent, notices: false });
// A string that happens to be JSON can not be told from that JSON: the format's known limit, and not of its lines.
testFormat(
  {
    ...raw,
    event: (event, userId) => (event.message.startsWith('"') ? raw.line(event, userId) : raw.event(event, userId)),
  },
  {
    text: readRaw,
    line: readRaw,
    notices: false,
  },
);

test("raw gives a string as it is, and any other value as compact JSON", () => {
  const event = (message: string) => raw.event({ id: { ms: 1, seq: 0 }, time: 1, topic: "a", message }, 1);
  expect(event('"are \\"awesome\\"\\n"')).toBe('are "awesome"\n');
  expect(event('{"a":[1,null]}')).toBe('{"a":[1,null]}');
  expect(event("null")).toBe("null");
});

test("what came as a CloudEvent goes out with its own id, source and type", () => {
  const attributes = JSON.stringify({
    id: "A1",
    source: "/shop",
    type: "order.paid",
    time: "2020-01-01T00:00:00Z",
    ext: 1,
  });
  const out = JSON.parse(
    cloudevents.event({ id: { ms: 5, seq: 1 }, time: 5, topic: "orders", message: '{"n":1}', attributes }, 1),
  ) as unknown;
  expect(out).toEqual({
    specversion: "1.0",
    id: "A1",
    source: "/shop",
    type: "order.paid",
    time: "2020-01-01T00:00:00Z",
    datacontenttype: "application/json",
    ext: 1,
    subject: "orders",
    relayid: "5-1",
    data: { n: 1 },
  });
});

test("the first subprotocol that is known is chosen", () => {
  expect(chooseSubprotocol(["x", "cloudevents.json", "relay.v1.json"])?.format.name).toBe("cloudevents");
  expect(chooseSubprotocol(["x", "toString"])).toBeUndefined();
});
