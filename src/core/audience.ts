import { randomUUID } from "node:crypto";
import type { Audience as Matched } from "./engine.js";
import type { Reader } from "./reader.js";

/** Tells the audiences of this process from all others. */
const HERE = randomUUID();

let count = 0;

/** Readers that events matched. Made once, shared by events, and never changed: who comes or goes makes a new one. */
export class Audience implements Matched {
  private readonly number = ++count;

  constructor(readonly clients: readonly Reader[]) {}

  get id(): string {
    return `${HERE}/${this.number}`;
  }
}

export const NO_AUDIENCE = new Audience([]);

/** Whom an event reaches. */
export interface Reached {
  readonly all: Audience;
  /** Those of them that have a connection. */
  readonly connected: Audience;
}

export const NOBODY_REACHED: Reached = { all: NO_AUDIENCE, connected: NO_AUDIENCE };
