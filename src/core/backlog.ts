/** Bytes that wait for slow connections: a bound for each connection, and one for all of them together. */
export class Backlog {
  /** Bytes that were written and that the operating system has not taken yet. */
  bytes = 0;

  /**
   * @param each bytes that may wait for one connection
   * @param all bytes that may wait for all connections together
   * @param held called when a connection has to wait because of `all`
   */
  constructor(
    private readonly each: number,
    private readonly all: number,
    private readonly held: () => void,
  ) {}

  /**
   * Bytes that may be written to a connection for which `buffered` wait. While too much waits for all connections
   * together, a connection gets more only when nothing waits for it: each goes on, and none holds much.
   */
  room(buffered: number): number {
    return this.isHeld(buffered) ? 0 : this.each - buffered;
  }

  /** To be called when a frame has to wait. */
  refuse(buffered: number): void {
    if (this.isHeld(buffered)) this.held();
  }

  private isHeld(buffered: number): boolean {
    return buffered > 0 && this.bytes >= this.all;
  }
}
