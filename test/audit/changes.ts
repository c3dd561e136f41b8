import type { AuditClient } from "./clients.js";
import { clock } from "./ledger.js";
import type { Publisher } from "./publisher.js";
import type { Receipts } from "./receipts.js";
import type { Subscribed } from "./records.js";
import type { AuditedRelay } from "./relay.js";
import type { Report } from "./report.js";
import { allowed } from "./topics.js";

/** More topic changes than the relay keeps for a client that is behind. */
const STORM = 70;

export const JSON_TYPE = { "content-type": "application/json" };

/** What the relay answers of a client. */
export interface Registration {
  readonly id: string;
  readonly topics: readonly string[];
  readonly allow?: { readonly subscribe?: readonly string[] };
}

interface Deps {
  readonly relay: AuditedRelay;
  readonly report: Report;
  readonly publisher: Publisher;
  readonly receipts: Receipts;
}

/** Changes of a client's topics and permissions, and what the model may take for certain of them. */
export class Changes {
  constructor(private readonly deps: Deps) {}

  async remove(client: AuditClient): Promise<void> {
    client.model.removed = true;
    const answer = await this.deps.relay.request("DELETE", `/register/${client.model.id}`);
    if (answer?.status === 200) client.model.removedAt = clock();
    else this.deps.receipts.ghosts.push(client.model);
  }

  async patch(
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

  async byFrame(client: AuditClient, action: string, name: string, topics: readonly string[]): Promise<void> {
    const change = this.begin(client, `${action} ${name}`, topics);
    const answer = await client.ask(action, { topics: [name] });
    const data = answer?.data as Registration | undefined;
    this.conclude(client, change, data ? 200 : undefined, data?.topics);
  }

  private begin({ model }: AuditClient, what: string, topics: readonly string[]): Subscribed {
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
    change: Subscribed,
    status: number | undefined,
    topics: readonly string[] | undefined,
  ): void {
    const { model } = client;
    if (status === 200) {
      model.noteSeen();
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
  async storm(client: AuditClient): Promise<void> {
    if (client.model.allow && allowed(["z"], client.model.allow).length === 0) return;
    for (let count = 0; count < STORM && !client.unsure && !client.model.removed && this.deps.relay.isUp; count++) {
      const rest = client.model.topics.filter((name) => name !== "z");
      const topics = count % 2 === 0 ? [...rest, "z"] : rest;
      await this.patch(client, count % 2 === 0 ? { add: ["z"] } : { remove: ["z"] }, topics);
      if (count % 9 === 0) await this.deps.publisher.choose(true)();
    }
  }

  /** Looks at the registration: what became of a change that was not answered. */
  async resolve(client: AuditClient): Promise<void> {
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
