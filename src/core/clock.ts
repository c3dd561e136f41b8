/** Milliseconds by which the wall clock and the monotonic one may move apart without being taken for a clock that was set. */
const STEP = 1000;

/**
 * The relay's clock: the one on the wall, except that it never goes back. When the wall clock is set back, this one goes on,
 * ahead of it by an offset. The offset shrinks when the wall clock is set forward again. So time that is measured by it
 * passes as it does for a user, and ids that are made from it are no further from the wall clock than they have to be.
 */
export class Clock {
  /** The wall clock at the last look, Unix milliseconds. */
  wall: number;
  private offset: number;
  private last: number;
  /** Both clocks when the wall clock was set last: small steps add up. */
  private since: { readonly wall: number; readonly steady: number };

  /**
   * @param reached Unix milliseconds that this clock has reached by now
   * @param readWall the wall clock
   * @param readSteady a clock that nobody sets, in milliseconds
   */
  constructor(
    reached: number,
    private readonly readWall = (): number => Date.now(),
    private readonly readSteady = (): number => performance.now(),
  ) {
    this.wall = readWall();
    this.since = { wall: this.wall, steady: readSteady() };
    this.offset = Math.max(0, reached - this.wall);
    this.last = this.wall + this.offset;
  }

  /** Unix milliseconds, ahead of the wall clock by what that was set back. */
  now(): number {
    const wall = this.readWall();
    // Most calls come in the same millisecond as the one before.
    if (wall === this.wall) return this.last;
    const steady = this.readSteady();
    const set = wall - this.since.wall - (steady - this.since.steady);
    // A machine that was suspended looks as if its clock was set forward: without an offset, that is the time.
    if (Math.abs(set) > STEP) {
      this.offset = Math.max(0, this.offset - Math.round(set));
      this.since = { wall, steady };
    }
    this.wall = wall;
    this.last = Math.max(this.last, wall + this.offset);
    return this.last;
  }
}
