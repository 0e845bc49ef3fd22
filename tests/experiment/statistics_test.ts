// Means over seeds and pairs, by hand.
import assert from "node:assert/strict";
import { differenceOf, type SeedValue } from "../../lib/experiment/statistics.ts";

Deno.test("pairs of one seed are one value of it, so that a setting that changes nothing makes no error smaller", () => {
  const of = (setting: string, values: readonly number[]): SeedValue[] =>
    values.map((value, seed) => ({ setting, seed: String(seed), value }));
  const once = differenceOf(of("", [1, 2, 6]));
  // Sample deviation √7, over three seeds.
  assert.deepEqual(once, { mean: 3, stderr: Math.sqrt(7) / Math.sqrt(3), n: 3, seeds: 3, leftOut: 0 });
  const twice = differenceOf([...of("a", [1, 2, 6]), ...of("b", [1, 2, 6])]);
  assert.deepEqual(twice, { ...once, n: 6 });
  const apart = differenceOf([...of("a", [1, 5]), ...of("b", [3, 3])]);
  assert.deepEqual(apart, { mean: 3, stderr: 1, n: 4, seeds: 2, leftOut: 0 });
  assert.deepEqual(differenceOf([...of("a", [1]), ...of("b", [3])]), {
    mean: 2,
    stderr: null,
    n: 2,
    seeds: 1,
    leftOut: 0,
  });
  assert.equal(differenceOf([]), null);
});

Deno.test("settings that one seed alone has are no spread of seeds", () => {
  const at = (setting: string, seed: string, value: number): SeedValue => ({ setting, seed, value });
  const shared = [at("0.2", "1", 1), at("0.2", "2", 2), at("0.2", "3", 6)];
  const alone = [at("0.1", "1", -10), at("0.3", "1", 100)];
  assert.deepEqual(differenceOf([...alone, ...shared]), { ...differenceOf(shared), leftOut: 2 });
  // A seed of another setting alone takes nothing from the others.
  assert.deepEqual(differenceOf([at("0.4", "4", 90), ...shared]), { ...differenceOf(shared), leftOut: 1 });
  const most = [at("a", "1", 1), at("b", "1", 3), at("a", "2", 2), at("b", "2", 6), at("c", "3", 50)];
  assert.deepEqual(differenceOf(most), { mean: 3, stderr: 1, n: 4, seeds: 2, leftOut: 1 });
  // Where no two have the same there is a mean, and no error.
  assert.deepEqual(differenceOf([at("0.1", "1", 1), at("0.2", "2", 3), at("0.3", "2", 5)]), {
    ...{ mean: 3, stderr: null, n: 3, seeds: 2, leftOut: 0 },
  });
});
