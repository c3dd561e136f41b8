import { rmSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Query } from "../../src/core/engine.js";
import { type Event, type EventDraft, isFor } from "../../src/core/event.js";
import { UNOBSERVED } from "../../src/core/loading.js";
import { compareIds, type EventId } from "../../src/core/id.js";
import { matchesTopic } from "../../src/core/topics.js";
import type { StoreReading } from "../../src/engines/local/window.js";
import { openDirectory } from "../../src/engines/lmdb/directory.js";
import { openLmdbEngine } from "../../src/engines/lmdb/index.js";
import { LogReader, type ReadBounds } from "../../src/engines/lmdb/log-reader.js";
import { openTables } from "../../src/engines/lmdb/tables.js";
import { temporaryDirectory } from "../support/directory.js";
import { Listener } from "../support/engine.js";

const RETENTION = { age: 3_600_000, count: 1_000_000, bytes: 2 ** 26 };

const topic = fc.constantFrom("a", "b", "a.x", "a.y", "a.x.z", "b.x", "ä.ü", "a.");
const user = fc.constantFrom(1, 2, "bob");
const draft: fc.Arbitrary<EventDraft> = fc.record(
  { topic, message: fc.constant("1"), users: fc.uniqueArray(user, { minLength: 1, maxLength: 3 }) },
  { requiredKeys: ["topic", "message"] },
);
const query = fc.record({
  topics: fc.uniqueArray(fc.oneof(topic, fc.constantFrom(">", "*", "a.*", "a.>", "*.x", "b.*", "c.*", "ä.*"))),
  user: user.map(String),
  limit: fc.integer({ min: 1, max: 10 }),
  after: fc.nat({ max: 20 }),
  until: fc.nat({ max: 40 }),
});
// From those that are used up at once to those that never are: by topic and event by event, in one turn and in many.
const bounds = fc.record({
  topics: fc.constantFrom(0, 1, 3, 1000),
  turn: fc.constantFrom(1, 2000, 10_000, 1_000_000),
});

interface Kept {
  readonly events: readonly Event[];
  readonly origin: EventId;
  readonly reader: (bounds: ReadBounds, floor?: () => EventId) => LogReader;
  readonly close: () => Promise<void>;
}

/** Events on disk, each batch a commit, without an engine around them. */
async function keep(batches: readonly (readonly EventDraft[])[]): Promise<Kept> {
  const directory = temporaryDirectory();
  const engine = await openLmdbEngine({ directory, retention: RETENTION });
  const listener = await Listener.on(engine);
  const events: Event[] = [];
  for (const drafts of batches) {
    const { ids } = await engine.append(drafts);
    events.push(...ids.map((id, index) => ({ ...(drafts[index] as EventDraft), id, time: id.ms })));
  }
  const { head } = listener;
  const { origin } = listener.bounds;
  await engine.close();
  const root = await openDirectory(directory, UNOBSERVED);
  const tables = openTables(root);
  return {
    events,
    origin,
    reader: (bounds, floor = () => origin) => new LogReader(tables, floor, head, bounds),
    close: async () => {
      await root.close();
      rmSync(directory, { recursive: true });
    },
  };
}

async function readAll(reader: LogReader, query: Query): Promise<Event[]> {
  const read: Event[] = [];
  for (let after: EventId | undefined = query.after; after;) {
    const reading: StoreReading = await reader.read({ ...query, after });
    read.push(...reading.events);
    if (reading.through) expect(compareIds(reading.through, after)).toBeGreaterThan(0);
    after = reading.through;
  }
  return read;
}

test("reading gives what filtering the whole log would give, however little is done in one turn", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(draft, { minLength: 1, maxLength: 10 }), { minLength: 1, maxLength: 5 }),
      fc.array(fc.tuple(query, bounds), { minLength: 20, maxLength: 20 }),
      async (batches, queries) => {
        const { events, origin, reader, close } = await keep(batches);
        const idAt = (index: number): EventId => events[Math.min(index, events.length) - 1]?.id ?? origin;
        for (const [asked, cost] of queries) {
          const [after, until] = [idAt(asked.after), idAt(asked.until)];
          const expected = events
            .filter(({ id }) => compareIds(id, after) > 0 && compareIds(id, until) <= 0)
            .filter(
              (event) => isFor(event, asked.user) && asked.topics.some((name) => matchesTopic(name, event.topic)),
            );
          expect(await readAll(reader(cost), { ...asked, after, until })).toEqual(expected);
        }
        await close();
      },
    ),
    { numRuns: 50 },
  );
});

test("what is trimmed while a read takes its turns is not passed over in silence, and the next read gets on", async () => {
  const { events, origin, reader, close } = await keep([
    Array.from({ length: 20 }, () => ({ topic: "a", message: "1" })),
  ]);
  let floor = origin;
  const trimmed = reader({ topics: 1000, turn: 1 }, () => floor);
  const query = { topics: ["a", "b"], user: "1", limit: 100 };
  const reading = trimmed.read({ ...query, after: origin });
  floor = events[4]?.id as EventId;
  expect(await reading).toEqual({ events: [], through: origin });
  // It is overtaken each time that it takes several turns, and so does not.
  const read: Event[] = [];
  for (let index = 5; index < 20; index++) {
    const next = trimmed.read({ ...query, after: floor });
    floor = events[index]?.id as EventId;
    read.push(...(await next).events);
  }
  expect(read).toEqual(events.slice(5));
  await close();
});
