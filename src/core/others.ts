import type { Answer, Engine, Question } from "./engine.js";

const NONE: readonly Answer[] = [];

/** The other relays on the engine, as this one asks them. */
export class Others {
  constructor(
    private readonly engine: Pick<Engine, "peers">,
    private readonly node: string,
  ) {}

  /** @returns one answer of each; undefined when not all of them answered in time */
  async ask(question: Question): Promise<readonly Answer[] | undefined> {
    return this.engine.peers ? this.engine.peers.ask(this.node, question) : NONE;
  }
}
