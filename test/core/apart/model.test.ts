import { expect, test } from "vitest";
import { topicsOf } from "../../../src/core/client.js";
import type { Connection } from "../../../src/core/connection.js";
import type { Entry } from "../../../src/core/engine.js";
import { compareIds, type EventId, formatId, parseId, ZERO } from "../../../src/core/id.js";
import { Relay } from "../../../src/core/relay.js";
import { matchesTopic } from "../../../src/core/topics.js";
import { MemoryEngine } from "../../../src/engines/memory.js";
import { relaySettings } from "../../support/settings.js";
import { lineEncoders, MemorySink, turns } from "../../support/sink.js";
import { SlowEngine } from "../../support/slow-engine.js";

// Several relays on one log with delays, at random. Longer: SEEDS=200 FIRST=1 KILLS=3 STEPS=60 npx vitest run test/core/apart/model.test.ts
const SEEDS = Number(process.env["SEEDS"] ?? 4);
const FIRST = Number(process.env["FIRST"] ?? 1);
const KILLS = Number(process.env["KILLS"] ?? 3);
const STEPS = Number(process.env["STEPS"] ?? 60);

const COUNT = Number(process.env["COUNT"] ?? 1_000_000);
const RETENTION = { age: 3_600_000, count: COUNT, bytes: 2 ** 26 };

function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Site {
  relay: Relay;
  slow: SlowEngine;
  isAlive: boolean;
  busy: number;
}

interface Open {
  sink: MemorySink;
  connection: Connection;
  site: Site;
  /** How many events were looked at. */
  seen: number;
  since: EventId | undefined;
  isNewest: boolean;
}

interface Client {
  id: string;
  open: Open | undefined;
  all: Open[];
  /** The highest id received on any connection. */
  highest: EventId;
  /** Acknowledged, and known to the log. */
  safe: EventId;
  received: Set<string>;
  expires: boolean;
}

class World {
  readonly log = new MemoryEngine(RETENTION);
  readonly faults = new Map<string, number>();
  readonly examples = new Map<string, string>();
  readonly sites: Site[] = [];
  readonly clients: Client[] = [];
  readonly entries: Entry[] = [];
  readonly acknowledged: { id: EventId; message: string }[] = [];
  private messages = 0;
  private readonly random: () => number;

  constructor(readonly seed: number) {
    this.random = randomOf(seed);
  }

  int(below: number): number {
    return Math.floor(this.random() * below);
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(list.length)] as T;
  }

  fault(what: string, example = ""): void {
    this.faults.set(what, (this.faults.get(what) ?? 0) + 1);
    if (!this.examples.has(what)) this.examples.set(what, `seed ${this.seed}: ${example}`);
  }

  async start(): Promise<void> {
    const speed = this.int(4);
    const slow = new SlowEngine(this.log, async () => {
      const kind = this.int(10);
      if (kind >= 9 && speed > 0) await new Promise((resolve) => setTimeout(resolve, this.int(3)));
      else if (kind >= 5) await turns(this.int(4 * (speed + 1)));
    });
    const relay = await Relay.start(slow, relaySettings());
    const site: Site = { relay, slow, isAlive: true, busy: 0 };
    const counted = <T extends object>(side: T, names: readonly (keyof T)[]): void => {
      for (const name of names) {
        const method = (side[name] as (...args: unknown[]) => Promise<unknown>).bind(side);
        side[name] = (async (...args: unknown[]) => {
          site.busy++;
          try {
            return await method(...args);
          } finally {
            site.busy--;
          }
        }) as never;
      }
    };
    counted(relay.connections, ["open", "closed"]);
    counted(relay.clients, ["change"]);
    counted(relay.lifetimes, ["park"]);
    counted(relay.publisher, ["publish"]);
    this.sites.push(site);
  }

  get alive(): Site[] {
    return this.sites.filter(({ isAlive }) => isAlive);
  }

  async kill(): Promise<void> {
    if (this.alive.length < 2) return this.start();
    const site = this.pick(this.alive);
    site.isAlive = false;
    const orderly = this.int(2) === 0;
    for (const client of this.clients) {
      if (client.open?.site === site) {
        this.look(client, client.open);
        client.open = undefined;
      }
    }
    // What is under way on a relay that leaves is a case of its own.
    if (orderly) {
      while (site.busy > 0) await turns(1);
      await site.relay.stop();
    } else {
      await site.slow.kill();
      await site.relay.stop().catch(() => undefined);
    }
    if (this.alive.length < 3) await this.start();
  }

  truth(client: Client): EventId[] {
    let topics: readonly string[] | undefined;
    const ids: EventId[] = [];
    for (const entry of this.entries) {
      if (entry.kind === "client" && entry.record.id === client.id) topics = topicsOf(entry.record);
      if (entry.kind === "event" && topics?.some((topic) => matchesTopic(topic, entry.event.topic)))
        ids.push(entry.event.id);
    }
    return ids;
  }

  /** Looks at what a connection has got since. */
  look(client: Client, open: Open): void {
    const { sink } = open;
    const truth = this.truth(client).map(formatId);
    const events = sink.events.slice(open.seen);
    const isGapSaid = JSON.stringify(sink.frames).match(/"gap":true|"event":"gap"/) !== null;
    if (isGapSaid && COUNT > 1000) this.fault("a gap said falsely", JSON.stringify(sink.frames[0]));
    // What is lost and was said is as good as received.
    if (isGapSaid) {
      const last = sink.events.at(-1)?.id ?? "";
      for (const id of truth.slice(0, truth.indexOf(last) + 1)) client.received.add(id);
    }
    for (const [index, event] of events.entries()) {
      const id = parseId(event.id) as EventId;
      const before = open.seen + index === 0 ? undefined : sink.events[open.seen + index - 1]?.id;
      const at = truth.indexOf(event.id);
      if (at < 0) this.fault("an event that is not for it", event.id);
      if (before !== undefined) {
        if (truth[at - 1] !== before && !isGapSaid)
          this.fault("a hole or wrong order on a connection", `${before} then ${event.id}`);
      } else {
        if (open.since && compareIds(id, open.since) <= 0) this.fault("again in spite of since", event.id);
        const unseen = truth.find((known) => !client.received.has(known));
        const isHole = unseen !== undefined && compareIds(parseId(unseen) as EventId, id) < 0;
        if (isHole && !isGapSaid) this.fault("lost: a connection begins after it", `${unseen} ${event.id}`);
        if (!open.since && compareIds(id, client.safe) <= 0) this.fault("confirmed progress forgotten", event.id);
        if (
          !isGapSaid &&
          open.since &&
          truth[at - 1] !== undefined &&
          compareIds(parseId(truth[at - 1] as string) as EventId, open.since) > 0
        )
          this.fault("lost after since", event.id);
      }
      client.received.add(event.id);
      if (compareIds(id, client.highest) > 0) client.highest = id;
    }
    open.seen = sink.events.length;
    if (sink.closed && open.isNewest && open.site.isAlive)
      this.fault(`the newest connection closed with ${sink.closed.code}`);
  }

  async connect(client: Client): Promise<void> {
    const site = this.pick(this.alive);
    const old = client.open;
    if (old) {
      this.look(client, old);
      old.isNewest = false;
      if (this.int(2) === 0) {
        old.sink.open = false;
        await old.site.relay.connections.closed(old.connection).catch(() => undefined);
        this.look(client, old);
      }
      client.open = undefined;
    }
    // A replay is read with the topics of now, too: the truth here knows only those of then.
    const resume = this.seed % 2 === 0 && this.int(2) === 0 && compareIds(client.highest, ZERO) > 0;
    const since = resume ? client.highest : undefined;
    const sink = new MemorySink();
    if (!site.isAlive) return;
    try {
      const connection = await site.relay.connections.open(client.id, sink, lineEncoders.json, {
        manualAck: true,
        ...(since && { since: { id: since } }),
      });
      if (!connection && site.isAlive) this.fault("open gives nothing");
      if (!connection || !site.isAlive) return;
      if (since && compareIds(since, client.safe) > 0) client.safe = ZERO;
      const open = { sink, connection, site, seen: 0, since, isNewest: true };
      client.open = open;
      client.all.push(open);
      if (old && !old.sink.closed && old.sink.open && old.site.isAlive) {
        // It may take until its relay follows.
        void this.expectReplaced(old);
      }
    } catch (error) {
      if (site.isAlive) this.fault(`connect: ${(error as { code: string }).code ?? String(error)}`);
    }
  }

  async expectReplaced(old: Open): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 300));
    if (!old.site.isAlive) return;
    if (old.sink.closed?.code !== 4409) this.fault(`a replaced connection is ${old.sink.closed?.code ?? "open"}`);
  }

  async ack(client: Client): Promise<void> {
    const { open } = client;
    if (!open || !open.site.isAlive) return;
    this.look(client, open);
    const last = open.sink.events.at(-1);
    if (!last || open.sink.closed) return;
    const id = parseId(last.id) as EventId;
    if (!open.connection.ack(id)) this.fault("ack refused");
    if (this.int(2) === 0) return;
    await open.site.relay.connections.keepProgress();
    const [record] = await this.log.find({ client: client.id });
    if (record && compareIds(record.cursor, id) >= 0) client.safe = compareIds(client.safe, id) > 0 ? client.safe : id;
  }

  async change(client: Client): Promise<void> {
    const site = this.pick(this.alive);
    const own = `own.${this.int(1_000_000)}`;
    const topics = [own, ...["a", "b", "a.*"].filter(() => this.int(2) === 0)];
    try {
      await site.relay.clients.change(client.id, { set: topics });
      if (!site.isAlive) return;
      const [record] = await this.log.find({ client: client.id });
      if (!record || JSON.stringify(topicsOf(record)) !== JSON.stringify(topics)) this.fault("a change was lost");
    } catch (error) {
      if (site.isAlive) this.fault(`change: ${(error as { code: string }).code ?? String(error)}`);
    }
  }

  async publish(): Promise<void> {
    const site = this.pick(this.alive);
    const topic = this.pick(["a", "b", "a.x"]);
    const count = this.int(4) === 0 ? 1 + this.int(5) : 1;
    const drafts = Array.from({ length: count }, () => ({ topic, message: `"${++this.messages}"` }));
    const wait = this.int(6) === 0 ? 20 : undefined;
    const isTwice = this.int(4) === 0;
    const once = isTwice ? { owner: "", key: String(this.messages), fingerprint: "f" } : undefined;
    const others = isTwice ? [site, this.pick(this.alive)] : [site];
    const results = await Promise.allSettled(
      others.map(({ relay }) => relay.publisher.publish(drafts, { wait, once })),
    );
    const ids = new Set<string>();
    let fresh = 0;
    for (const [index, result] of results.entries()) {
      if (result.status === "rejected") {
        if ((others[index] as Site).isAlive) this.fault(`publish: ${String(result.reason)}`);
        continue;
      }
      ids.add(result.value.map(({ id }) => id).join());
      if (!result.value[0]?.duplicate) fresh++;
      for (const [at, reply] of result.value.entries()) {
        const id = parseId(reply.id) as EventId;
        this.acknowledged.push({ id, message: (drafts[at] as { message: string }).message });
        if (reply.matched === undefined) {
          this.fault("(count) matched not said");
          continue;
        }
        const matched = this.clients.filter((client) =>
          this.truth(client).some((known) => compareIds(known, id) === 0),
        );
        if (reply.matched !== matched.length) {
          this.fault("matched is wrong", `${reply.id}: ${reply.matched} for ${matched.length}`);
        }
        const { sent, waiting } = reply;
        if (sent === undefined || waiting === undefined) continue;
        if (sent + waiting !== reply.matched) this.fault("sent and waiting are not matched", JSON.stringify(reply));
      }
    }
    if (ids.size > 1) this.fault("an idempotency key twice");
    if (isTwice && fresh > 1) this.fault("a duplicate is not said");
  }

  async receipt(): Promise<void> {
    const site = this.pick(this.alive);
    const known = this.acknowledged.at(-1 - this.int(5));
    if (!known) return;
    try {
      const had = new Map(this.clients.map((client) => [client.id, client.received.has(formatId(known.id))]));
      const { deliveries } = await site.relay.publisher.receipt(known.id);
      if (!deliveries || !site.isAlive) {
        this.fault("(count) receipt not said");
        return;
      }
      const matched = this.clients.filter((client) => this.truth(client).some((id) => compareIds(id, known.id) === 0));
      const wanted = matched
        .map(({ id }) => id)
        .sort()
        .join();
      if (
        deliveries
          .map(({ client }) => client)
          .sort()
          .join() !== wanted
      )
        this.fault("receipt: wrong clients", `${deliveries.length} for ${matched.length}`);
      for (const { client, state } of deliveries) {
        if (state === "expired") this.fault("receipt: expired", client);
        const isKnown = this.clients.find(({ id }) => id === client);
        if (state === "confirmed" && isKnown) {
          if (isKnown.open) this.look(isKnown, isKnown.open);
          for (const open of isKnown.all) if (!open.site.isAlive || open !== isKnown.open) this.gather(isKnown, open);
          if (!isKnown.received.has(formatId(known.id)))
            this.fault("receipt: confirmed and never received", `${had.get(client)}`);
        }
      }
    } catch (error) {
      if (site.isAlive && !["unavailable", "not_found"].includes((error as { code: string }).code))
        this.fault(`receipt: ${String(error)}`);
    }
  }

  gather(client: Client, { sink }: Open): void {
    for (const { id } of sink.events) client.received.add(id);
  }

  async run(): Promise<void> {
    // Behind the back of the log: a follower of its own would inherit clients.
    const { followers } = this.log as unknown as { followers: { hand(entry: Entry): void } };
    const hand = followers.hand.bind(followers);
    followers.hand = (entry) => {
      this.entries.push(entry);
      hand(entry);
    };
    for (let index = 0; index < 3; index++) await this.start();
    for (let index = 0; index < 4; index++) {
      const site = this.pick(this.alive);
      const record = await site.relay.clients.register({ userId: index, topics: ["a", "b"], ttl: 300 });
      this.clients.push({
        id: record.id,
        open: undefined,
        all: [],
        highest: ZERO,
        safe: ZERO,
        received: new Set(),
        expires: false,
      });
    }
    const busy = new Map<Client, Promise<void>>();
    const underWay: Promise<void>[] = [];
    for (let step = 0; step < STEPS; step++) {
      const what = this.int(20);
      const client = this.pick(this.clients);
      const inLine = (action: () => Promise<void>): void => {
        busy.set(client, (busy.get(client) ?? Promise.resolve()).then(action));
      };
      if (what < 6) underWay.push(this.publish());
      else if (what < 11) inLine(() => this.connect(client));
      else if (what < 14) inLine(() => this.ack(client));
      else if (what < 16 && this.seed % 2 === 1) inLine(() => this.change(client));
      else if (what < 18) underWay.push(this.receipt());
      else if (what === 18 && this.int(KILLS) === 0) underWay.push(this.kill());
      else if (what === 19 && this.alive.length < 4 && this.int(3) === 0) underWay.push(this.start());
      if (this.int(2) === 0) await turns(this.int(6));
      if (this.int(10) === 0) await new Promise((resolve) => setTimeout(resolve, this.int(8)));
    }
    await Promise.all([...busy.values(), ...underWay]);
    for (const client of this.clients) await this.connect(client);
    await this.publish();
    await new Promise((resolve) => setTimeout(resolve, 350));
    for (const client of this.clients) {
      if (!client.open || client.open.sink.closed) {
        // Only what it got is looked at.
        await this.connect(client);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      if (client.open) this.look(client, client.open);
      if (JSON.stringify(client.open?.sink.frames).includes('"gap":true')) continue;
      for (const open of client.all) this.gather(client, open);
      const lost = this.truth(client)
        .map(formatId)
        .filter((id) => !client.received.has(id));
      if (lost.length > 0) this.fault("LOST at the end", lost.join());
    }
    const held = this.alive.reduce((sum, { relay }) => sum + relay.clients.count, 0);
    if (held !== this.clients.length) this.fault("clients held", `${held}`);
    const messages = new Map<string, number>();
    for (const entry of this.entries) {
      if (entry.kind === "event") messages.set(entry.event.message, (messages.get(entry.event.message) ?? 0) + 1);
    }
    for (const { message } of this.acknowledged)
      if (messages.get(message) !== 1) this.fault("acknowledged and not once in the log", message);
    for (const { relay, isAlive } of this.sites) if (isAlive) await relay.stop();
  }
}

test("relays that lag, die and come: nothing is lost, doubled or said falsely", { timeout: 600_000 }, async () => {
  const faults = new Map<string, number>();
  const examples = new Map<string, string>();
  for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
    const world = new World(seed);
    await Promise.race([
      world.run(),
      new Promise<void>((resolve) => setTimeout(() => (world.fault("HANGS"), resolve()), 15_000).unref()),
    ]);
    for (const [what, count] of world.faults) faults.set(what, (faults.get(what) ?? 0) + count);
    for (const [what, example] of world.examples) if (!examples.has(what)) examples.set(what, example);
  }
  const table = [...faults].map(([what, count]) => `${count} × ${what} (${examples.get(what)})`);
  process.stdout.write(`${SEEDS} seeds\n${table.join("\n")}\n`);
  expect(table.filter((line) => !line.includes("(count)"))).toEqual([]);
});
