import type { ClientModel } from "./client-model.js";
import { clock, type Publication } from "./ledger.js";

/** Everything that has to be none. */
export const FAULTS = [
  "lost",
  "doubled",
  "disordered",
  "misrouted",
  "stale",
  "falseState",
  "gapUnsaid",
  "gapFalse",
  "forgotten",
  "wrongAnswer",
] as const;
export type FaultKind = (typeof FAULTS)[number];

/** How many faults of each kind are told in full. */
const TOLD = 5;

/** Figures of a run, and what it found. */
export class Report {
  readonly figures = {
    publications: 0,
    acknowledged: 0,
    deliveries: 0,
    connections: 0,
    clients: 0,
    kills: 0,
    restarts: 0,
    fullDisks: 0,
    receipts: 0,
    states: { confirmed: 0, expired: 0, waiting: 0, sent: 0 } as Record<string, number>,
    absent: 0,
    absentUnkilled: 0,
    gapsSaid: 0,
  };
  readonly faults = Object.fromEntries(FAULTS.map((kind) => [kind, 0])) as Record<FaultKind, number>;
  /** How often each claim was false. */
  readonly claims = new Map<string, number>();
  readonly told: string[] = [];

  constructor(private readonly seed: string) {}

  get count(): number {
    return FAULTS.reduce((sum, kind) => sum + this.faults[kind], 0);
  }

  fault(kind: FaultKind, claim: string, client?: ClientModel, publication?: Publication, knows = ""): void {
    this.faults[kind]++;
    const name = `${kind}: ${claim}`;
    this.claims.set(name, (this.claims.get(name) ?? 0) + 1);
    if ((this.claims.get(name) ?? 0) > TOLD) return;
    const { happened: _, ...event } = publication ?? { happened: [] };
    const fate = publication && client?.fates.get(publication.number);
    const { publication: __, ...known } = fate ?? { publication: undefined };
    this.told.push(
      [
        `FAULT ${name} (AUDIT_SEED=${this.seed}, at ${clock().toFixed(0)})`,
        `  the model knows: ${knows} ${JSON.stringify(known)}`,
        client &&
          `  client ${client.id} of ${client.user}, ttl ${client.ttl}: ${client.happened.slice(-10).join(" | ")}`,
        publication && `  event ${JSON.stringify(event)}: ${publication.happened.slice(-10).join(" | ")}`,
      ]
        .filter(Boolean)
        .join("\n"),
    );
  }

  get text(): string {
    const lines = [
      ...this.told,
      `audit: AUDIT_SEED=${this.seed}`,
      JSON.stringify(this.figures),
      JSON.stringify(this.faults),
    ];
    for (const [claim, count] of this.claims) lines.push(`  ${count} × ${claim}`);
    return `${lines.join("\n")}\n`;
  }
}
