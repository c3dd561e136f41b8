// The register/publish relay of the second document: its requests as they stand.
import { expect, test } from "vitest";
import { startRelay } from "../support/relay.js";
import { refusal } from "../support/socket.js";

const json = { "Content-Type": "application/json" };

test("its curl and websocat lines work", async () => {
  const relay = await startRelay();
  expect((await relay.fetch("/health")).status).toBe(200);
  const registered = await relay.fetch("/register", { method: "POST", headers: json, body: '{ "user_id": 1 }' });
  const { url } = (await registered.json()) as { url: string };
  expect(url).toMatch(/^ws:\/\/127\.0\.0\.1:\d+\/ws\/[\da-f]{32}$/);

  const client = await relay.connect(url);
  const publish = '{"user_id": 1, "topic": "cats", "message": "are awesome"}';
  // Topic `cats` without asking for it.
  await relay.fetch("/publish", { method: "POST", headers: json, body: publish });
  expect(await client.next()).toBe("are awesome");

  client.say('{ "topics": ["cats", "dogs"] }');
  client.say("ping\n");
  expect(await client.next()).toBe("pong");
  await relay.publish({ topic: "dogs", message: "to everyone" });
  expect(await client.next()).toBe("to everyone");
  await relay.publish({ user_id: 2, topic: "dogs", message: "to another" });
  await relay.publish({ user_id: 1, topic: "birds", message: "of another topic" });
  await relay.publish({ user_id: 1, topic: "dogs", message: "to me" });
  expect(await client.next()).toBe("to me");

  const id = url.split("/").at(-1);
  const removed = await relay.fetch(`/register/${id}`, { method: "DELETE" });
  expect([removed.status, await removed.json()]).toEqual([200, { removed: true }]);
  expect((await client.closed).code).toBe(4404);
  const again = await relay.fetch("/register/e2fa90682255472b9221709566dbceba", { method: "DELETE" });
  expect([again.status, await again.json()]).toEqual([200, { removed: false }]);
  expect((await refusal(relay.connect(url))).status).toBe(404);
});

test("a message for a user reaches each of the user's clients", async () => {
  const relay = await startRelay();
  const phone = await relay.connect((await relay.register({ user_id: 1 })).url);
  const laptop = await relay.connect((await relay.register({ user_id: "1" })).url);
  const other = await relay.connect((await relay.register({ user_id: 2 })).url);
  const receipt = await relay.publish({ user_id: 1, topic: "cats", message: "are awesome" });
  expect(receipt).toMatchObject({ matched: 2, sent: 2, waiting: 0 });
  expect([await phone.next(), await laptop.next()]).toEqual(["are awesome", "are awesome"]);
  expect(await other.settled()).toEqual([]);
});

test("any origin may use it when it is told so, and none but this machine's when not", async () => {
  const open = await startRelay({ allowedOrigins: "*" });
  const closed = await startRelay();
  const ask = { method: "POST", headers: { ...json, Origin: "https://elsewhere.example" }, body: '{"user_id":1}' };
  const answered = await open.fetch("/register", ask);
  expect(answered.headers.get("access-control-allow-origin")).toBe("https://elsewhere.example");
  expect((await closed.fetch("/register", ask)).headers.get("access-control-allow-origin")).toBeNull();
  const preflight = await open.fetch("/publish", {
    method: "OPTIONS",
    headers: { Origin: "https://elsewhere.example", "Access-Control-Request-Method": "POST" },
  });
  expect([preflight.status, preflight.headers.get("access-control-allow-methods")]).toEqual([
    204,
    "GET, POST, PATCH, DELETE",
  ]);
});

test("the backend adds and removes topics", async () => {
  const relay = await startRelay();
  const { id, url } = await relay.register({ user_id: 1 });
  const client = await relay.connect(url);
  await relay.send("PATCH", `/register/${id}`, { add: ["dogs"] });
  await relay.send("PATCH", `/register/${id}`, { remove: ["cats"] });
  await relay.publish({ topic: "cats", message: "cats" });
  await relay.publish({ topic: "dogs", message: "dogs" });
  expect(await client.next()).toBe("dogs");
});
