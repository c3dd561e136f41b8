/** Milliseconds on the audit's own clock. */
export function clock(): number {
  return performance.now();
}

/** An event id as one number, in the order of the ids. */
export function rankOf(id: string): number {
  const [milliseconds = NaN, sequence = NaN] = id.split("-").map(Number);
  return milliseconds * 4096 + sequence;
}

/** Milliseconds by which a `ttl` may end earlier or later than by the audit's clock. */
const EARLY = 60;
const LATE = 400;

/** Milliseconds after which everything that the relay writes down by itself is on its disk. */
export const KEPT_WITHIN = 2000;

export interface Draft {
  readonly topic: string;
  readonly users?: readonly string[];
  readonly ttl?: number;
  readonly key?: string;
  readonly padding?: number;
}

/** One event as its publisher knows it. */
export interface Publication extends Draft {
  readonly number: number;
  /** When it was first sent to the relay. */
  readonly began: number;
  /** Kept events that were certainly published before this one. */
  readonly before: number;
  /** When it was acknowledged; Infinity: it was not. */
  answered: number;
  id?: string;
  rank?: number;
  /** Its relay ended before it was answered: another attempt, or what clients saw of it, may have another id. */
  orphaned: boolean;
  readonly happened: string[];
}

/** All publications, and what follows from them alone: what may have been replaced, trimmed or is too old. */
export class Ledger {
  readonly all: Publication[] = [];
  acknowledged = 0;
  private next = 1;
  private readonly numbers = new Map<number, Publication>();
  private readonly ids = new Map<string, Publication>();
  private readonly replaceable = new Map<string, Publication[]>();
  /** When each kept event may have been appended, with how many there may be by then. */
  private readonly appended: { at: number; count: number }[] = [];
  private mayBeKept = 0;
  private settledKept = 0;
  private readonly kills: number[] = [];

  constructor(readonly retention: number) {}

  begin(drafts: readonly Draft[]): Publication[] {
    const began = clock();
    const publications = drafts.map((draft) => this.add(draft, began));
    this.noteAttempt(publications);
    return publications;
  }

  /** They are sent to the relay, for the first time or again. */
  noteAttempt(publications: readonly Publication[]): void {
    this.mayBeKept += kept(publications);
    this.appended.push({ at: clock(), count: this.mayBeKept });
  }

  /** An attempt is over: what it may have appended comes before all that begins later. */
  noteSettled(publications: readonly Publication[]): void {
    this.settledKept += kept(publications);
  }

  noteAnswer(publication: Publication, id: string): void {
    publication.id = id;
    publication.rank = rankOf(id);
    publication.answered = clock();
    publication.happened.push(`acknowledged as ${id}`);
    this.ids.set(id, publication);
    this.acknowledged++;
  }

  noteKill(): void {
    this.kills.push(clock());
  }

  ofNumber(number: number): Publication | undefined {
    return this.numbers.get(number);
  }

  /** It is so old that nothing is known of it any more. */
  isForgotten(number: number): boolean {
    return number < (this.all[0]?.number ?? 0);
  }

  ofId(id: string): Publication | undefined {
    return this.ids.get(id);
  }

  lastAcknowledged(count: number): Publication[] {
    const known = this.all.slice(-1000).filter(({ id }) => id !== undefined);
    return known.sort((a, b) => a.answered - b.answered).slice(-count);
  }

  /** Whether the relay was killed after this moment. */
  killedSince(at: number): boolean {
    return (this.kills.at(-1) ?? -Infinity) >= at;
  }

  /** When the log may have dropped it; Infinity: not yet. */
  mayBeTrimmedAt(publication: Publication): number {
    const count = publication.before + 1 + this.retention;
    let [low, high] = [0, this.appended.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.appended[middle] as { count: number }).count >= count) high = middle;
      else low = middle + 1;
    }
    return this.appended[low]?.at ?? Infinity;
  }

  mayBeOverAt({ began, ttl }: Publication): number {
    return ttl === undefined ? Infinity : began + ttl * 1000 - EARLY;
  }

  isOverAt({ answered, ttl }: Publication): number {
    return ttl === undefined ? Infinity : answered + ttl * 1000 + LATE;
  }

  mayBeReplacedAt(publication: Publication): number {
    return Math.min(...this.successors(publication, false).map(({ began }) => began), Infinity);
  }

  isReplacedAt(publication: Publication): number {
    if (publication.rank === undefined || publication.orphaned) return Infinity;
    const sure = this.successors(publication, true).filter((other) => !this.mayBeUndone(other));
    return Math.min(...sure.map(({ answered }) => answered), Infinity);
  }

  /** What certainly replaced it first, as text. */
  replacedBy(publication: Publication): string {
    const at = this.isReplacedAt(publication);
    const first = this.successors(publication, true).find(({ answered }) => answered === at);
    return first ? `${first.number}, ttl ${first.ttl}, key ${first.key}, at ${at.toFixed(0)}` : "nothing";
  }

  /** Forgets all but the newest. */
  prune(keep: number): Publication[] {
    const gone = this.all.splice(0, Math.max(0, this.all.length - keep));
    for (const { number, id, ...draft } of gone) {
      this.numbers.delete(number);
      if (id !== undefined) this.ids.delete(id);
      const name = replacementName(draft);
      const others = name === undefined ? [] : (this.replaceable.get(name) ?? []);
      if (name !== undefined)
        this.replaceable.set(
          name,
          others.filter((other) => other.number !== number),
        );
    }
    return gone;
  }

  private add(draft: Draft, began: number): Publication {
    const number = this.next++;
    const made = {
      ...draft,
      number,
      began,
      before: this.settledKept,
      answered: Infinity,
      orphaned: false,
      happened: [],
    };
    this.all.push(made);
    this.numbers.set(number, made);
    const name = replacementName(draft);
    if (name !== undefined) this.replaceable.set(name, [...(this.replaceable.get(name) ?? []), made]);
    return made;
  }

  private successors(publication: Publication, sure: boolean): Publication[] {
    const name = replacementName(publication);
    const others = name === undefined ? [] : (this.replaceable.get(name) ?? []);
    const { rank } = publication;
    return others.filter((other) => {
      if (other === publication) return false;
      if (rank !== undefined && other.rank !== undefined && !other.orphaned) return other.rank > rank;
      return !sure && !(other.answered < publication.began);
    });
  }

  /** An event of `ttl` 0 is answered before the disk has what it replaced. */
  private mayBeUndone({ ttl, answered }: Publication): boolean {
    return ttl === 0 && this.kills.some((at) => at >= answered && at < answered + KEPT_WITHIN);
  }
}

function kept(publications: readonly Publication[]): number {
  return publications.filter(({ ttl }) => ttl !== 0).length;
}

function replacementName({ topic, users, key }: Draft): string | undefined {
  return key === undefined ? undefined : JSON.stringify([topic, users && [...users].sort(), key]);
}
