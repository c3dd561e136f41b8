import fc from "fast-check";
import { expect, test } from "vitest";
import { compareIds, type EventId } from "../../src/core/id.js";
import { type Drop, LIVE, type Moment, NEVER } from "../../src/core/moment.js";
import { claimed, isSent, type Sent, sentWithin, withAllSent, withSent } from "../../src/core/sent.js";

const EVENTS = 40;

function id(seq: number): EventId {
  return { ms: 1, seq };
}

function moment(seq: number): Moment {
  return seq === 0 ? LIVE : { id: id(seq), at: seq };
}

/** Every third event is dropped by its time, the others by another event. */
function drop(event: number, at: number | undefined): Drop {
  if (at === undefined) return {};
  return event % 3 === 0 ? { at } : { by: id(at) };
}

/** A stretch, and the moment at which its events were really read: 0 when each was sent as it was published. */
interface Send {
  readonly sent: Sent;
  readonly read: number;
}

const anyMoment = fc.integer({ min: 0, max: 60 });

const send: fc.Arbitrary<Send> = fc
  .record({
    after: fc.integer({ min: 0, max: EVENTS }),
    length: fc.integer({ min: 0, max: 12 }),
    moments: fc.tuple(anyMoment, anyMoment, anyMoment),
  })
  .map(({ after, length, moments }) => {
    const [earliest, read, latest] = moments.toSorted((a, b) => a - b) as [number, number, number];
    const stretch = { after: id(after), through: id(after + length) };
    return { read, sent: { ...stretch, earliest: moment(earliest), latest: moment(latest) } };
  });

/** When each event was dropped: never, or some time after it was published. */
const drops = fc.array(fc.option(fc.integer({ min: 1, max: 30 }), { nil: undefined }), {
  minLength: EVENTS,
  maxLength: EVENTS,
});

function droppedAt(all: readonly (number | undefined)[], event: number): number | undefined {
  const after = all[event - 1];
  return after === undefined ? undefined : event + after;
}

test("what stretches tell of an event is true, however many there are and however they overlap", () => {
  fc.assert(
    fc.property(fc.array(send, { maxLength: 60 }), drops, (sends, all) => {
      const stretches = sends.reduce<readonly Sent[]>((before, { sent }) => withSent(before, sent), []);
      expect(stretches.length).toBeLessThanOrEqual(32);
      for (const [index, { after, through }] of stretches.entries()) {
        expect(compareIds(after, through)).toBeLessThan(0);
        const next = stretches[index + 1];
        if (next) expect(compareIds(through, next.after)).toBeLessThanOrEqual(0);
      }
      for (let event = 1; event <= EVENTS; event++) {
        const dropped = droppedAt(all, event);
        const isTrue = sends.some(({ sent, read }) => {
          const isWithin = compareIds(sent.after, id(event)) < 0 && compareIds(id(event), sent.through) <= 0;
          return isWithin && (dropped === undefined || dropped > read);
        });
        const said = isSent(stretches, id(event), drop(event, dropped));
        if (said !== undefined) expect(said).toBe(isTrue);
      }
    }),
    { numRuns: 2000 },
  );
});

test("as long as they are few and their moments are known, nothing is unknown", () => {
  const apart = fc.array(fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 5 }), anyMoment), {
    maxLength: 16,
  });
  fc.assert(
    fc.property(apart, drops, (parts, all) => {
      let at = 0;
      let stretches: readonly Sent[] = [];
      for (const [skip, length, read] of parts) {
        const sent = {
          after: id(at + skip),
          through: id(at + skip + length),
          earliest: moment(read),
          latest: moment(read),
        };
        stretches = withSent(stretches, sent);
        at += skip + length;
      }
      for (let event = 1; event <= EVENTS; event++) {
        const dropped = droppedAt(all, event);
        expect(isSent(stretches, id(event), drop(event, dropped))).toBeDefined();
      }
    }),
  );
});

test("a stretch that goes on as it was stays one", () => {
  let stretches: readonly Sent[] = [];
  for (let at = 0; at < 100; at++) {
    stretches = withSent(stretches, { after: id(at), through: id(at + 1), earliest: LIVE, latest: LIVE });
  }
  expect(stretches).toEqual([{ after: id(0), through: id(100), earliest: LIVE, latest: LIVE }]);
  expect(sentWithin(stretches, { after: id(10), through: id(20) })).toMatchObject([{ after: id(10), through: id(20) }]);
});

test("what a client says to have, it was sent as far as that is known; the rest it may have, if it was dropped since", () => {
  const sent = { after: id(2), through: id(4), earliest: LIVE, latest: LIVE };
  const received = claimed([sent], { after: id(0), through: id(6) }, moment(50));
  expect(isSent(received, id(3), { by: id(9) })).toBe(true);
  expect([1, 5].map((event) => isSent(received, id(event), { by: id(9) }))).toEqual([undefined, undefined]);
  expect([1, 5].map((event) => isSent(received, id(event), {}))).toEqual([true, true]);
  expect(isSent(received, id(5), { at: 51 })).toBe(true);
  expect(isSent(received, id(7), {})).toBe(false);
  expect(claimed([sent], { after: id(6), through: id(6) }, moment(50))).toEqual([sent]);
  expect(claimed([], { after: id(6), through: id(5) }, moment(50))).toEqual([]);
});

test("where it is not known whether anything was sent, nothing is said of what was not dropped either", () => {
  const unknown = { after: id(0), through: id(9), earliest: LIVE, latest: NEVER };
  expect(isSent([unknown], id(3), {})).toBeUndefined();
  const read = { after: id(0), through: id(9), earliest: moment(20), latest: moment(20) };
  const both = withAllSent([unknown], [read]);
  expect(isSent(both, id(3), {})).toBe(true);
  expect(isSent(both, id(3), { by: id(15) })).toBeUndefined();
});
