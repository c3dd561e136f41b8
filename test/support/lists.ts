import { expect } from "vitest";
import { type ClientRecord, withCursor } from "../../src/core/client.js";
import { clientOf, listNumber } from "../../src/engines/lmdb/bytes.js";
import { rowsOf, type Table, type Tables } from "../../src/engines/lmdb/tables.js";

/**
 * What of a client must be the same after a restart: its version and which relay holds it are not, nor what ended before its
 * cursor.
 */
export function kept(record: ClientRecord): object {
  const { node: _node, version: _version, ...rest } = withCursor(record, record.cursor);
  return rest;
}

function read(table: Table): { readonly key: Buffer; readonly value: unknown }[] {
  return [...rowsOf(table, 500)].map(({ key, value }) => ({ key, value: JSON.parse(value.toString()) as unknown }));
}

/** Numbers that a client's row has in the places of lists: those of topics are the only numbers there. */
function numbersIn(row: unknown): number[] {
  const [, , , subscriptions, more] = row as [0, 0, 0, [0, 0, unknown][], Record<string, unknown> | undefined];
  const { rooms, narrowed, allow } = (more ?? {}) as {
    rooms?: unknown;
    narrowed?: { topics?: unknown }[];
    allow?: { subscribe?: unknown; publish?: unknown };
  };
  const lists = [...subscriptions, ...(narrowed ?? []).map(({ topics }) => [0, 0, topics])].map(
    ([, , topics]) => topics,
  );
  return [...lists, rooms, allow?.subscribe, allow?.publish].filter((place) => typeof place === "number");
}

/**
 * Looks at the rows of lists on disk: each that a client's row refers to is there, and so is the one that it is a
 * difference from; and no others are. @returns how many there are
 */
export function checkLists(tables: Tables): number {
  const lists = new Map(read(tables.lists).map(({ key, value }) => [listNumber(key), value as unknown[]]));
  const used = new Set<number>();
  for (const { key, value } of read(tables.clients)) {
    for (const number of numbersIn(value)) {
      const list = lists.get(number);
      expect(list, `list ${number} of client ${clientOf(key)}`).toBeDefined();
      used.add(number);
      const [base] = list ?? [];
      if (typeof base !== "number") continue;
      expect(typeof lists.get(base)?.[0], `list ${base}, which list ${number} is a difference from`).toBe("string");
      used.add(base);
    }
  }
  expect([...lists.keys()]).toEqual([...used].toSorted((a, b) => a - b));
  return used.size;
}
