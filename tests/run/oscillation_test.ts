// Masks that turn: which shares of which kinds raise the alarm, and what it says. Without a GPU.
import assert from "node:assert/strict";
import type { Finding } from "../../lib/run/monitors/alarm.ts";
import { watchTurns } from "../../lib/run/monitors/oscillation.ts";
import { fresh, FRESH_MONITORS } from "../../lib/run/monitors/watch.ts";
import { turningLook } from "./helpers/looks.ts";
import type { MaskHistory } from "../../lib/run/contract.ts";

const setting = { action: "warn", threshold: 0.1 } as const;

Deno.test("masks oscillate when units turn back three times, not when each turns once or turns back once", () => {
  const turns = (looks: readonly string[]): boolean[] => {
    let history: MaskHistory | null = null;
    return looks.map((flags) => {
      const watched = watchTurns(history, turningLook(Uint8Array.from(flags, Number)), { isHard: false, setting });
      history = JSON.parse(JSON.stringify(watched.history)); // as a checkpoint has it
      return watched.found.length > 0;
    });
  };
  const [a, b] = ["1100000000", "0000000000"];
  assert.deepEqual(turns([a, b, a, b, a]), [false, false, false, false, true]);
  // A look that finds the masks where the one before did may have fallen on the same phase.
  assert.deepEqual(turns([a, b, b, a, b, b, a]), [false, false, false, false, false, false, true]);
  assert.deepEqual(turns([a, a, b, b, a, a, a, b, b]), Array(9).fill(false));
  // Four turns that are further apart than looks are remembered.
  assert.deepEqual(turns([a, b, b, b, b, b, a, a, a, a, a, b, b, b, b, b, a]), Array(17).fill(false));
  assert.deepEqual(turns(["0000000000", "1000000000", "1100000000", "1110000000", "1111000000"]), Array(5).fill(false));
});

Deno.test("masks that are hard and oscillate only warn: no rate chooses them", () => {
  const looks = ["1100000000", "0000000000"],
    instead = (isHard: boolean): unknown => {
      let history: MaskHistory | null = null;
      return [0, 1, 0, 1, 0].map((place) => {
        const look = turningLook(Uint8Array.from(looks[place] ?? "", Number));
        const watched = watchTurns(history, look, { isHard, setting });
        history = watched.history;
        return watched.found;
      }).at(-1)?.[0]?.instead;
    };
  assert.deepEqual([instead(true), instead(false)], ["warn", undefined]);
});

Deno.test("what is said of masks that turn names what the run takes", () => {
  const turning = (isHard: boolean): string | undefined =>
    [0, 1, 0, 1, 0].reduce<ReturnType<typeof watchTurns>>(
      ({ history }, flag) => watchTurns(history, turningLook(Uint8Array.of(flag)), { isHard, setting }),
      { history: { looks: [] }, found: [] },
    ).found[0]?.change;
  assert.match(turning(false) ?? "", /lower ⟨rates\.mask⟩/);
  assert.match(turning(true) ?? "", /^look at more rows in each step \(⟨batch⟩\)/);
});

/** What is found at the last of five looks, where so many of each kind turn at every one. */
function found(kinds: Readonly<Record<string, readonly [turning: number, count: number]>>): readonly Finding[] {
  const counts = Object.fromEntries(Object.entries(kinds).map(([name, [, count]]) => [name, count]));
  let history: MaskHistory | null = null, last: readonly Finding[] = [];
  for (let look = 0; look < 5; look++) {
    const closed = Object.values(kinds).flatMap(([turning, count]) =>
      Array.from({ length: count }, (_, unit) => unit < turning ? look % 2 : 0)
    );
    const seen = watchTurns(history, turningLook(Uint8Array.from(closed), counts), {
      isHard: false,
      setting: { ...setting, threshold: 0.25 },
    });
    [history, last] = [seen.history, seen.found];
  }
  return last;
}

Deno.test("a kind of few units that turns raises the alarm beside one of many that stays, and is named", () => {
  const [alarm, ...others] = found({ "KV groups": [90, 90], "FFN columns": [0, 46_080] });
  assert.match(alarm?.message ?? "", /100\.0 % of the KV groups turned back 3 times .*, limit 25\.0 %$/);
  assert.deepEqual([alarm?.key, others], ["oscillation KV groups", []]);
  assert.deepEqual(found({ "KV groups": [22, 90], "FFN columns": [0, 46_080] }), []);
  assert.equal(found({ "KV groups": [23, 90], "FFN columns": [0, 46_080] }).length, 1);
  // Each of them, so that none is told anew where another comes to turn more.
  const keys = found({ "KV groups": [30, 90], "FFN columns": [200, 400], "hidden dims": [10, 64] }).map(({ key }) =>
    key
  );
  assert.deepEqual(keys, ["oscillation KV groups", "oscillation FFN columns"]);
});

Deno.test("a few units that turn say nothing of their kind, unless no kind has more", () => {
  assert.deepEqual(found({ "FFN columns": [0, 64], layers: [8, 8] }), []);
  assert.deepEqual(found({ "FFN columns": [0, 64], layers: [2, 9] }), []);
  assert.deepEqual(found({ "FFN columns": [0, 64], layers: [3, 9] }).map(({ key }) => key), ["oscillation layers"]);
  assert.deepEqual(found({ "KV groups": [2, 4], layers: [0, 4] }).map(({ key }) => key), ["oscillation units"]);
});

Deno.test("masks of a kind that go on turning are told once, and those of another one as well", () => {
  const of = (kind: string): readonly Finding[] => found({ [kind]: [10, 10] });
  const { state, found: first } = fresh(FRESH_MONITORS, of("heads"), ["oscillation"]);
  assert.equal(first.length, 1);
  assert.deepEqual(fresh(state, of("heads"), ["oscillation"]).found, []);
  assert.equal(fresh(state, of("FFN columns"), ["oscillation"]).found.length, 1);
});
