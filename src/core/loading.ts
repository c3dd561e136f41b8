/** How the caller of a long start-up step watches its progress and cancels it. */
export interface Loading {
  /** Called from time to time with the progress so far. */
  readonly progress: (progress: Progress) => void;
  /** Aborted when the relay is to end before it has loaded. */
  readonly signal: AbortSignal;
}

export interface Progress {
  /** The current step, such as "checking pages". */
  readonly step: string;
  readonly done: number;
  readonly of: number;
}

/** For callers that neither watch the progress nor give up. */
export const UNOBSERVED: Loading = { progress: () => undefined, signal: new AbortController().signal };
