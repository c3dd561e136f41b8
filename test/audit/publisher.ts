import { randomUUID } from "node:crypto";
import type { ClientModel } from "./client-model.js";
import { clock, type Draft, type Ledger, type Publication } from "./ledger.js";
import type { Random } from "./random.js";
import type { Receipts } from "./receipts.js";
import type { AuditedRelay } from "./relay.js";
import type { Report } from "./report.js";

const TOPICS = ["a", "a.x", "a.x.y", "b", "b.x", "c"];

/** Topics on which there is little. */
const QUIET_TOPICS = ["q", "q.x"];
export const USERS = ["0", "1", "2", "3"];

/** Characters that fill the sockets' buffers when a client does not read. */
const PADDING = 12_000;

type Way = "single" | "array" | "lines" | "cloudevent";

interface Attempt {
  readonly publications: readonly Publication[];
  readonly way: Way;
  readonly body: string;
  readonly headers: Record<string, string>;
  readonly wait: number | undefined;
}

interface Reply {
  readonly id?: string;
  readonly duplicate?: boolean;
  readonly matched?: number;
  readonly sent?: number;
  readonly waiting?: number;
  readonly confirmed?: number;
}

const TYPES = {
  single: "application/json",
  array: "application/json",
  lines: "application/x-ndjson",
  cloudevent: "application/cloudevents+json",
};

interface Deps {
  readonly relay: AuditedRelay;
  readonly ledger: Ledger;
  readonly report: Report;
  readonly receipts: Receipts;
  readonly clients: ReadonlyMap<string, ClientModel>;
}

/** Random publishers. What has an idempotency key is tried again until it is acknowledged. */
export class Publisher {
  private unanswered: Attempt[] = [];
  private answered: Attempt[] = [];

  constructor(
    private readonly deps: Deps,
    private readonly random: Random,
  ) {}

  /** Something to publish: chosen at once, done when it is called. */
  choose(isSmall = false): () => Promise<void> {
    const { random } = this;
    // A transaction of megabytes ends the process when the disk is full: LMDB aborts.
    const isFull = this.deps.relay.fullSince !== undefined;
    const retry = isFull ? undefined : this.unanswered.shift();
    if (retry) return () => this.attempt(retry);
    if (this.answered.length > 0 && random.chance(0.03)) {
      const again = random.pick(this.answered);
      return () => this.repeat(again);
    }
    const way = random.weighted<Way>({ single: 6, array: 2, lines: 2, cloudevent: isSmall ? 0 : 1 });
    const isBurst = !isSmall && !isFull && way === "lines" && random.chance(0.06);
    const count = way === "single" || way === "cloudevent" ? 1 : isBurst ? random.int(150, 350) : random.int(1, 12);
    const drafts = Array.from({ length: count }, () => this.draft(way, isBurst));
    const hasKey = random.chance(0.5);
    const wait = !isBurst && random.chance(0.05) ? random.int(1, 8) / 10 : undefined;
    return () => this.attempt(this.prepare(drafts, way, hasKey, wait));
  }

  private draft(way: Way, isBurst: boolean): Draft {
    const { random } = this;
    const draft: { -readonly [Name in keyof Draft]: Draft[Name] } = {
      topic: random.pick(random.chance(0.02) ? QUIET_TOPICS : TOPICS),
    };
    if (random.chance(0.4))
      draft.users = random.chance(0.7) || way === "cloudevent" ? [random.pick(USERS)] : random.some(USERS, 2);
    if (way !== "cloudevent") {
      if (random.chance(0.25)) draft.ttl = random.pick([0, 0, 1, 1, 2, 600]);
      if (random.chance(0.2)) draft.key = random.pick(["k1", "k2", "k3"]);
    }
    if (isBurst && random.chance(0.8)) draft.padding = PADDING;
    return draft;
  }

  private prepare(drafts: readonly Draft[], way: Way, hasKey: boolean, wait: number | undefined): Attempt {
    const publications = this.deps.ledger.begin(drafts);
    const headers: Record<string, string> = { "content-type": TYPES[way] };
    if (hasKey) headers["idempotency-key"] = randomUUID();
    const items = publications.map((publication) => JSON.stringify(itemOf(publication, way)));
    const body = way === "array" ? `[${items.join(",")}]` : items.join("\n");
    this.deps.report.figures.publications += publications.length;
    return { publications, way, body, headers, wait };
  }

  private async attempt(attempt: Attempt): Promise<void> {
    const { ledger } = this.deps;
    const { publications } = attempt;
    const isRetry = publications.some(({ orphaned }) => orphaned);
    if (isRetry) ledger.noteAttempt(publications);
    const answer = await this.request(attempt);
    ledger.noteSettled(publications);
    if (answer?.status === 200) {
      publications.forEach((publication, index) => this.noteReply(publication, replyAt(answer.body, index), attempt));
      this.answered = [...this.answered.slice(-5), ...("idempotency-key" in attempt.headers ? [attempt] : [])];
    } else {
      for (const publication of publications) publication.orphaned = true;
      if ("idempotency-key" in attempt.headers) this.unanswered.push(attempt);
      if (answer && answer.status !== 503) {
        this.deps.report.fault("wrongAnswer", `publishing is answered ${answer.status}`, undefined, publications[0]);
      }
    }
    for (const publication of publications) this.settle(publication);
    if (answer?.status !== 200 || isRetry) return;
    for (const [index, publication] of publications.entries()) {
      await this.deps.receipts.reply(publication, replyAt(answer.body, index));
    }
  }

  /** Publishes again under a key that was answered. */
  private async repeat(attempt: Attempt): Promise<void> {
    const answer = await this.request(attempt);
    if (answer?.status !== 200) return;
    attempt.publications.forEach((publication, index) => {
      const { id, duplicate } = replyAt(answer.body, index);
      if (id === publication.id && duplicate === true) return;
      this.deps.report.fault(
        "doubled",
        "an idempotency key publishes twice",
        undefined,
        publication,
        `${id} ${duplicate}`,
      );
    });
  }

  private async request({ body, headers, wait }: Attempt): Promise<{ status: number; body: unknown } | undefined> {
    const path = wait === undefined ? "/publish" : `/publish?wait=${wait}`;
    return this.deps.relay.request("POST", path, body, headers);
  }

  private noteReply(publication: Publication, { id }: Reply, { way }: Attempt): void {
    const { ledger, report } = this.deps;
    if (id !== undefined) {
      ledger.noteAnswer(publication, id);
      report.figures.acknowledged++;
    } else report.fault("wrongAnswer", `an item of ${way} is refused`, undefined, publication);
  }

  private settle(publication: Publication): void {
    const end = Math.min(publication.answered, clock());
    const { ran } = this.deps.relay;
    for (const model of this.deps.clients.values()) {
      if (publication.began < model.removedAt) model.settle(publication, end, ran);
    }
  }
}

function replyAt(body: unknown, index: number): Reply {
  return (Array.isArray(body) ? body[index] : body) as Reply;
}

function itemOf({ number, topic, users, ttl, key, padding }: Publication, way: Way): object {
  const message = { n: number, ...(padding !== undefined && { padding: "x".repeat(padding) }) };
  if (way === "cloudevent") {
    const relayuser = users?.[0];
    const head = { specversion: "1.0", id: String(number), source: "/audit", type: "audit", subject: topic };
    return { ...head, ...(relayuser !== undefined && { relayuser }), data: message };
  }
  const [user] = users ?? [];
  const to = users === undefined ? {} : users.length === 1 ? { user_id: user } : { user_ids: users };
  return { topic, message, ...to, ...(ttl !== undefined && { ttl }), ...(key !== undefined && { key }) };
}
