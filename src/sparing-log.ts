import { TokenBucket } from "./token-bucket.js";

/** A kind of log line that callers can cause: lets so many through, and says with the next one how many it did not. */
export class SparingLog {
  private readonly bucket: TokenBucket;
  private unlogged = 0;

  /**
   * @param burst lines at once, after a silence
   * @param perSecond lines a second in the long run
   */
  constructor(burst: number, perSecond: number) {
    this.bucket = new TokenBucket(burst, perSecond);
  }

  /** @param write gets what to add to the line's fields */
  line(write: (more: { readonly unlogged?: number }) => void): void {
    if (this.bucket.take() > 0) return void this.unlogged++;
    const { unlogged } = this;
    this.unlogged = 0;
    write(unlogged > 0 ? { unlogged } : {});
  }
}
