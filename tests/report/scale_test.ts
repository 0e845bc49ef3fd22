// Scales and ticks of figures against d3-scale.
import assert from "node:assert/strict";
// @ts-types="npm:@types/d3-scale@^4.0.9"
import { scaleLinear } from "npm:d3-scale@^4.0.2";
import { linearScale, niceDomain, tickFormat, tickValues } from "../../lib/report/scale.ts";
import { uniform } from "../../lib/core/random.ts";

const DOMAINS: readonly (readonly [number, number])[] = [
  ...[[0, 1], [0, 0.3], [-0.5, 7.5], [-3, 5], [-2e-7, 3e-7], [0, 1234567], [17, 18], [99.5, 100], [-8, -1]] as const,
  ...Array.from({ length: 300 }, (_, at): readonly [number, number] => {
    const [low = 0, size = 0, power = 0] = [0, 1, 2].map((part) => uniform(7, 3 * at + part));
    const first = (low - 0.5) * 10 ** (6 * power - 3);
    return [first, first + (size + 1e-3) * 10 ** (9 * low - 5)];
  }),
];

Deno.test("pixels, wider domains, ticks and their labels are those of d3-scale", () => {
  for (const domain of DOMAINS) {
    for (const count of [2, 3.7, 6, 8]) {
      const name = `${domain.join(" to ")}, ${count} ticks`, theirs = scaleLinear().domain(domain).range([40, 317]);
      const format = tickFormat(domain, count), written = theirs.tickFormat(count);
      assert.deepEqual(tickValues(domain, count), theirs.ticks(count), name);
      assert.deepEqual(tickValues(domain, count).map(format), theirs.ticks(count).map(written), name);
      assert.deepEqual(niceDomain(domain, count), theirs.copy().nice(count).domain(), name);
      for (const value of theirs.ticks(count)) assert.equal(linearScale(domain, [40, 317])(value), theirs(value), name);
    }
  }
});

Deno.test("a scale of one value has its pixel in the middle, and one tick", () => {
  assert.equal(linearScale([3, 3], [10, 20])(3), 15);
  assert.deepEqual(tickValues([3, 3], 5), [3]);
});
