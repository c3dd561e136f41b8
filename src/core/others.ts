import type { ClientCounts } from "./admission.js";
import type { Answer, Engine, Question } from "./engine.js";
import { RelayError } from "./errors.js";

const NONE: readonly Answer[] = [];

/** The other relays on the engine, as this one asks them. */
export class Others {
  constructor(
    private readonly engine: Pick<Engine, "peers">,
    private readonly node: string,
  ) {}

  /** Never rejects. @returns one answer of each; undefined when not all of them answered in time */
  async ask(question: Question): Promise<readonly Answer[] | undefined> {
    if (!this.engine.peers) return NONE;
    return this.engine.peers.ask(this.node, question).catch(() => undefined);
  }

  /** What they hold; nothing when they do not answer in time: the limits are this relay's own then. @param user `userKey` */
  async count(user: string): Promise<ClientCounts> {
    const sum = { clients: 0, ofUser: 0 };
    for (const { clients, ofUser } of (await this.ask({ ask: "counts", user })) ?? []) {
      sum.clients += clients;
      sum.ofUser += ofUser;
    }
    return sum;
  }

  /** The highest number that they know of an anonymous user. @throws {RelayError} unavailable */
  async highestNumber(): Promise<number> {
    const answers = await this.ask({ ask: "counts" });
    if (!answers) throw new RelayError("unavailable", "not all relays have answered");
    return Math.max(0, ...answers.map(({ anonymous }) => anonymous));
  }
}
