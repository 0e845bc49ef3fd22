// Means over seeds and pairs, by hand.
import assert from "node:assert/strict";
import { differenceOf } from "../../lib/experiment/statistics.ts";

Deno.test("pairs of one seed are one value of it, so that a setting that changes nothing makes no error smaller", () => {
  const bySeed = [["1", 1], ["2", 2], ["3", 6]] as const;
  const once = differenceOf(bySeed.map(([seed, value]) => ({ seed, value })));
  // Sample deviation √7, over three seeds.
  assert.deepEqual(once, { mean: 3, stderr: Math.sqrt(7) / Math.sqrt(3), n: 3, seeds: 3 });
  const twice = differenceOf([1, 2].flatMap(() => bySeed.map(([seed, value]) => ({ seed, value }))));
  assert.deepEqual(twice, { ...once, n: 6 });
  const apart = [{ seed: "1", value: 1 }, { seed: "1", value: 3 }, { seed: "2", value: 4 }];
  assert.deepEqual(differenceOf(apart), { mean: 3, stderr: 1, n: 3, seeds: 2 });
  assert.deepEqual(differenceOf(apart.slice(0, 2)), { mean: 2, stderr: null, n: 2, seeds: 1 });
  assert.equal(differenceOf([]), null);
});
