/** Lets through `burst` at once and `perSecond` in the long run. */
export class TokenBucket {
  private tokens: number;
  private at = performance.now();
  private isOwing = false;

  constructor(
    private readonly burst: number,
    private readonly perSecond: number,
  ) {
    this.tokens = burst;
  }

  /** Seconds until several can be taken at once: 0 when they can be. */
  wait(count = 1): number {
    const now = performance.now();
    this.tokens = Math.min(this.burst, this.tokens + ((now - this.at) / 1000) * this.perSecond);
    this.at = now;
    return Math.max(0, Math.min(count, this.burst) - this.tokens) / this.perSecond;
  }

  /**
   * Takes several at once; more than there can be when it is full: the rest is owed.
   * @returns 0 when they were taken; else the seconds until they can be
   */
  take(count = 1): number {
    const wait = this.wait(count);
    if (wait === 0) this.tokens -= count;
    return wait;
  }

  /** Takes several in any case: `pause` tells until when they are owed. */
  owe(count: number): void {
    this.wait();
    this.tokens -= count;
    this.isOwing ||= this.tokens < 1;
  }

  /** Seconds until what `owe` took is paid for, and one more can be taken. */
  get pause(): number {
    const wait = this.isOwing ? this.wait() : 0;
    if (wait === 0) this.isOwing = false;
    return wait;
  }
}
