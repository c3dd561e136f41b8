import { type Changes, JSON_TYPE, type Registration } from "./changes.js";
import { AuditClient, type ConnectOptions } from "./clients.js";
import { ClientModel } from "./client-model.js";
import type { PongPolicy } from "./confirmations.js";
import { clock, type Ledger } from "./ledger.js";
import { USERS } from "./publisher.js";
import type { Random } from "./random.js";
import { FORMATS, type LinkFormat, type Since } from "./records.js";
import type { AuditedRelay } from "./relay.js";
import type { Receipts } from "./receipts.js";
import type { Report } from "./report.js";
import { allowed } from "./topics.js";
import type { Judge } from "./judge.js";

const SUBSCRIPTIONS = ["a", "b", "c", "a.*", "a.>", "b.x", "*", ">"];

/** Of those who hear little: what they are owed is far behind when the log is trimmed. */
const QUIET_SUBSCRIPTIONS = ["q", "q.x", "q.*", "q.>"];
const PERMISSIONS = [undefined, ["a", "a.>"], ["b.>", "b", "c"], ["a.*", "c"], [">"]];

/** What a client does, and how often: with a connection, and without. */
const OPEN = {
  rest: 12,
  answerHeld: 6,
  ack: 4,
  close: 1,
  cut: 2,
  stall: 1,
  resume: 3,
  connect: 0.7,
  topics: 1.5,
  allow: 0.3,
  storm: 0.05,
};
const CLOSED = { connect: 10, rest: 6, topics: 2, storm: 0.08, allow: 0.5, look: 0.5, remove: 0.05 };

interface Deps {
  readonly relay: AuditedRelay;
  readonly ledger: Ledger;
  readonly judge: Judge;
  readonly report: Report;
  readonly models: Map<string, ClientModel>;
  readonly changes: Changes;
  readonly receipts: Receipts;
}

/** One of those who use the relay: it has a client, does something random with it, and registers anew when it is gone. */
export class Actor {
  client: AuditClient | undefined;
  private readonly format: LinkFormat;
  private readonly ttl: number;
  private readonly user: string;
  private readonly subscriptions: readonly string[];

  constructor(
    private readonly deps: Deps,
    private readonly random: Random,
  ) {
    this.format = random.pick(FORMATS);
    this.ttl = random.pick([1, 2, 5, 300, 300]);
    this.user = random.pick(USERS);
    this.subscriptions = random.chance(0.25) ? QUIET_SUBSCRIPTIONS : SUBSCRIPTIONS;
  }

  /** Chosen at once, done when it is called. */
  choose(): () => Promise<void> {
    const { client, random } = this;
    if (!client || client.model.removed) return () => this.register();
    client.catchUp();
    if (client.unsure) return () => this.deps.changes.resolve(client);
    return this.perform(client, client.isOpen ? random.weighted(OPEN) : random.weighted(CLOSED));
  }

  async connectPlainly(): Promise<void> {
    const plain = { format: this.format, streamFormat: "json", manual: false, since: undefined } as const;
    await this.client?.connect({ ...plain, byHeader: false, cutAtOnce: false, pongs: "always" });
  }

  private perform(client: AuditClient, choice: keyof typeof OPEN | keyof typeof CLOSED): () => Promise<void> {
    switch (choice) {
      case "connect": {
        const options = this.chooseConnection(client);
        return () => client.connect(options);
      }
      case "topics":
        return this.chooseTopics(client);
      case "allow":
        return this.chooseAllow(client);
      case "storm":
        return () => this.deps.changes.storm(client);
      case "look":
        return () => this.deps.changes.resolve(client);
      case "remove":
        return () => this.deps.changes.remove(client);
      case "ack":
        return () => (client.model.link?.manual ? client.ack() : Promise.resolve());
      case "rest":
        return async () => undefined;
      default:
        return async () => client[choice]();
    }
  }

  private chooseConnection(client: AuditClient): ConnectOptions {
    const { random } = this;
    const isStream = this.format === "sse" || this.format === "ndjson";
    return {
      format: random.chance(0.8) ? this.format : random.pick(FORMATS),
      streamFormat: random.chance(0.7) ? "json" : "raw",
      manual: random.chance(0.15),
      since: this.chooseSince(client, isStream),
      byHeader: random.chance(0.5),
      cutAtOnce: random.chance(0.08),
      pongs: random.weighted<PongPolicy>({ always: 6, held: 3, never: 1 }),
    };
  }

  private chooseSince({ model }: AuditClient, isStream: boolean): Since | undefined {
    const { random, deps } = this;
    const choice = random.weighted({
      none: 12,
      last: isStream ? 14 : 3,
      older: 0.6,
      ahead: 0.4,
      start: 0.5,
      now: 0.5,
      ago: 0.6,
    });
    const ids = (model.link?.received ?? []).flatMap(({ id, number }) => id ?? deps.ledger.ofNumber(number)?.id ?? []);
    const known = deps.ledger.all.slice(-50).flatMap(({ id }) => id ?? []);
    const last = ids.at(-1);
    if (choice === "last" && last !== undefined) return { id: last };
    if (choice === "older" && ids.length > 0) return { id: random.pick(ids) };
    if (choice === "ahead" && known.length > 0) return { id: random.pick(known) };
    if (choice === "start") return "0";
    if (choice === "now") return "now";
    return choice === "ago" ? { ago: random.pick([100, 500, 2000]) } : undefined;
  }

  private chooseTopics(client: AuditClient): () => Promise<void> {
    const { random } = this;
    const names = allowed(random.some(this.subscriptions, 1), client.model.allow).slice(0, 3);
    const one = random.pick(this.subscriptions);
    const isAdding = random.chance(0.5) && allowed([one], client.model.allow).length > 0;
    const byFrame = random.chance(0.5);
    return () => {
      if (!byFrame || !client.canSpeak) return this.deps.changes.patch(client, { topics: names }, names);
      const { topics } = client.model;
      const rest = topics.filter((name) => name !== one);
      return this.deps.changes.byFrame(
        client,
        isAdding ? "subscribe" : "unsubscribe",
        one,
        isAdding ? [...rest, one] : rest,
      );
    };
  }

  private chooseAllow(client: AuditClient): () => Promise<void> {
    const subscribe = this.random.pick(PERMISSIONS) ?? [">"];
    return () =>
      this.deps.changes.patch(client, { allow: { subscribe } }, allowed(client.model.topics, subscribe), subscribe);
  }

  private async register(): Promise<void> {
    const { random, deps } = this;
    const topics = random.some(this.subscriptions, 1).slice(0, 3);
    const began = clock();
    const body = JSON.stringify({ user_id: this.user, topics, ttl: this.ttl });
    deps.receipts.registering++;
    const answer = await deps.relay.request("POST", "/register", body, JSON_TYPE);
    deps.receipts.registering--;
    if (answer?.status !== 200) {
      // It may have been registered all the same.
      deps.receipts.ghosts.push({ user: this.user, topics });
      return;
    }
    const { id } = answer.body as Registration;
    const model = new ClientModel(id, this.user, this.ttl, topics, began, deps.relay.ran);
    deps.report.figures.clients++;
    deps.models.set(id, model);
    // What was published meanwhile may be for this client too.
    for (const publication of deps.ledger.all.slice(-1000)) {
      if (publication.answered > began) model.settle(publication, publication.answered, deps.relay.ran);
    }
    this.client = new AuditClient(model, deps);
  }
}
