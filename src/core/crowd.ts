/** Several who wait for the same thing, each of whom may leave. */
export class Crowd {
  private readonly controller = new AbortController();
  private left = 0;

  constructor(first: AbortSignal | undefined) {
    this.add(first);
  }

  /** Aborted when all have left. */
  get gone(): AbortSignal {
    return this.controller.signal;
  }

  /** @param signal aborted when this one leaves; absent: it stays */
  add(signal: AbortSignal | undefined): void {
    this.left++;
    if (signal?.aborted) this.leave();
    else signal?.addEventListener("abort", () => this.leave(), { once: true });
  }

  private leave(): void {
    if (--this.left === 0) this.controller.abort();
  }
}
