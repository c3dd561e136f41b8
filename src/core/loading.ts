/** Work at the start that takes as long as it takes: whoever starts it can see how far it is, and give it up. */
export interface Loading {
  /** Called now and then with how far it is. */
  readonly progress: (progress: Progress) => void;
  /** Aborted when the relay is to end before it has loaded. */
  readonly signal: AbortSignal;
}

export interface Progress {
  /** What is done now, as in "checking pages". */
  readonly step: string;
  readonly done: number;
  readonly of: number;
}

/** For those who do not look. */
export const UNOBSERVED: Loading = { progress: () => undefined, signal: new AbortController().signal };

/** Progress is told once in so many items. */
const TELL_EVERY = 1024;

/** Passes items on, and tells how many they were. */
export function* counted<T>(
  items: Iterable<T>,
  step: string,
  of: number,
  { progress }: Pick<Loading, "progress">,
): Generator<T> {
  let done = 0;
  for (const item of items) {
    if (done++ % TELL_EVERY === 0) progress({ step, done, of });
    yield item;
  }
}
