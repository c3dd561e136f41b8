import { AuditClient, type ConnectOptions, type PongPolicy } from "./clients.js";
import { ClientModel, FORMATS, type LinkFormat, type Since } from "./client-model.js";
import { clock, type Ledger } from "./ledger.js";
import type { Publisher } from "./publisher.js";
import { USERS } from "./publisher.js";
import type { Random } from "./random.js";
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

/** More than the relay keeps for a client that is behind. */
const STORM = 70;

const JSON_TYPE = { "content-type": "application/json" };

interface Registration {
  readonly id: string;
  readonly topics: readonly string[];
  readonly allow?: { readonly subscribe?: readonly string[] };
}

interface Deps {
  readonly relay: AuditedRelay;
  readonly ledger: Ledger;
  readonly judge: Judge;
  readonly report: Report;
  readonly models: Map<string, ClientModel>;
  readonly publisher: Publisher;
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
    if (client.unsure) return () => this.resolve(client);
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
        return () => this.storm(client);
      case "look":
        return () => this.resolve(client);
      case "remove":
        return () => this.remove(client);
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
      if (!byFrame || !client.canSpeak) return this.patch(client, { topics: names }, names);
      const { topics } = client.model;
      const rest = topics.filter((name) => name !== one);
      return this.byFrame(client, isAdding ? "subscribe" : "unsubscribe", one, isAdding ? [...rest, one] : rest);
    };
  }

  private chooseAllow(client: AuditClient): () => Promise<void> {
    const subscribe = this.random.pick(PERMISSIONS) ?? [">"];
    return () => this.patch(client, { allow: { subscribe } }, allowed(client.model.topics, subscribe), subscribe);
  }

  private async register(): Promise<void> {
    const { random, deps } = this;
    const topics = random.some(this.subscriptions, 1).slice(0, 3);
    const began = clock();
    const body = JSON.stringify({ user_id: this.user, topics, ttl: this.ttl });
    deps.receipts.registering++;
    const answer = await deps.relay.request("POST", "/register", body, JSON_TYPE);
    deps.receipts.registering--;
    if (answer?.status !== 200) return;
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

  private async remove(client: AuditClient): Promise<void> {
    client.model.removed = true;
    const answer = await this.deps.relay.request("DELETE", `/register/${client.model.id}`);
    if (answer?.status === 200) client.model.removedAt = clock();
  }

  private async patch(
    client: AuditClient,
    body: object,
    topics: readonly string[],
    permissions?: readonly string[],
  ): Promise<void> {
    const { model } = client;
    const change = this.begin(client, `PATCH ${JSON.stringify(body)}`, topics);
    if (permissions) model.narrow(permissions, change.began, false);
    const answer = await this.deps.relay.request("PATCH", `/register/${model.id}`, JSON.stringify(body), JSON_TYPE);
    if (answer?.status === 200 && permissions) {
      model.allow = permissions;
      model.narrow(permissions, change.began, true);
    }
    this.conclude(client, change, answer?.status, (answer?.body as Registration | undefined)?.topics);
  }

  private async byFrame(client: AuditClient, action: string, name: string, topics: readonly string[]): Promise<void> {
    const change = this.begin(client, `${action} ${name}`, topics);
    const answer = (await client.ask(action, { topics: [name] })) as
      | { data?: Registration; error?: unknown }
      | undefined;
    this.conclude(client, change, answer?.data ? 200 : undefined, answer?.data?.topics);
  }

  private begin({ model }: AuditClient, what: string, topics: readonly string[]): ClientModel["subscribed"][number] {
    model.note(what);
    const { link } = model;
    const change = model.beginChange(topics);
    if (link) {
      link.topicsChanged = true;
      link.manyChanges ||= model.mayHaveTooManyChanges;
    }
    return change;
  }

  private conclude(
    client: AuditClient,
    change: ClientModel["subscribed"][number],
    status: number | undefined,
    topics: readonly string[] | undefined,
  ): void {
    const { model } = client;
    if (status === 200) {
      change.ended = clock();
      if (isSame(topics, change.topics)) return;
      this.deps.report.fault(
        "wrongAnswer",
        "a change leaves other topics",
        model,
        undefined,
        JSON.stringify([topics, change.topics]),
      );
      change.topics = topics ?? [];
    } else if (status === 404) client.noteForgotten("on a change of topics");
    else client.unsure = true;
  }

  /** Many changes, with events in between. */
  private async storm(client: AuditClient): Promise<void> {
    if (client.model.allow && allowed(["z"], client.model.allow).length === 0) return;
    for (let count = 0; count < STORM && !client.unsure && !client.model.removed && this.deps.relay.isUp; count++) {
      const rest = client.model.topics.filter((name) => name !== "z");
      const topics = count % 2 === 0 ? [...rest, "z"] : rest;
      await this.patch(client, count % 2 === 0 ? { add: ["z"] } : { remove: ["z"] }, topics);
      if (count % 9 === 0) await this.deps.publisher.choose(true)();
    }
  }

  /** Looks at the registration: what became of a change that was not answered. */
  private async resolve(client: AuditClient): Promise<void> {
    const { relay, report } = this.deps;
    const { model } = client;
    if (relay.fullSince !== undefined) return;
    const answer = await relay.request("GET", `/register/${model.id}`);
    if (answer?.status === 404) return client.noteForgotten("on a look at its registration");
    if (answer?.status !== 200) return;
    const { topics, allow } = answer.body as Registration;
    const last = model.subscribed.at(-1);
    if (client.unsure && last) {
      model.subscribed.push({ topics, began: last.began, ended: clock() });
      model.allow = allow?.subscribe;
      client.unsure = false;
    } else if (!isSame(topics, model.topics)) {
      report.fault(
        "wrongAnswer",
        "a registration has other topics",
        model,
        undefined,
        JSON.stringify([topics, model.topics]),
      );
      model.subscribed.push({ topics, began: clock(), ended: clock() });
    }
  }
}

function isSame(some: readonly string[] | undefined, others: readonly string[]): boolean {
  return JSON.stringify([...(some ?? [])].sort()) === JSON.stringify([...new Set(others)].sort());
}
