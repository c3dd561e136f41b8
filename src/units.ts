/** Durations and sizes as people write them. Imports nothing. */

const DURATIONS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const SIZES: Record<string, number> = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };

/** `30s`, `10m`, `24h`, `7d`, `250ms` → milliseconds; undefined when it is none. */
export function parseDuration(text: string): number | undefined {
  return parseAmount(text, DURATIONS);
}

/** `64KiB`, `1MiB`, `1GiB`, `512B` → bytes; undefined when it is none. */
export function parseSize(text: string): number | undefined {
  return parseAmount(text, SIZES);
}

function parseAmount(text: string, units: Record<string, number>): number | undefined {
  const match = /^(\d{1,15})([A-Za-z]{1,3})$/.exec(text);
  const unit = match?.[2] !== undefined && Object.hasOwn(units, match[2]) ? units[match[2]] : undefined;
  if (!match || unit === undefined) return undefined;
  const amount = Number(match[1]) * unit;
  return Number.isSafeInteger(amount) ? amount : undefined;
}
