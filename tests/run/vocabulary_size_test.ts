// How vocabulary and layers share a size.
import assert from "node:assert/strict";
import { sharedSize } from "../../lib/run/vocabulary_size.ts";

/** A vocabulary of 1,000 tokens of which 100 stay; texts grow with the square of what is cut, up to `most`. */
function choiceOf(most: number): Parameters<typeof sharedSize>[0] {
  return { tokens: 1000, least: 100, growth: (size) => most * ((1000 - size) / 900) ** 2 };
}

Deno.test("where the vocabulary is most of the model and cheap, it gives nearly all, and the layers a little", () => {
  // Rows of 8 bytes, layers of 2,000: whole 10,000.
  const sizes = { whole: 10_000, smallest: 2800, most: 5000 };
  const size = sharedSize(choiceOf(0.02), sizes), share = (10_000 - 8 * (1000 - size) - 5000) / 2000;
  assert.ok(share >= 0.02 && share < 0.03, `${size} tokens, ${share} of the layers`);
});

Deno.test("where the texts need the tokens, the layers give more", () => {
  const sizes = { whole: 10_000, smallest: 8200, most: 8000 };
  const [cheap, dear] = [0.05, 0.8].map((most) => sharedSize(choiceOf(most), sizes));
  assert.ok(cheap !== undefined && dear !== undefined && dear > cheap + 100, `${cheap}, ${dear}`);
  // By hand: rows of 2 bytes, layers of 8,000. The least of 2 g + s/(1 − s) over all sizes.
  const cost = (size: number): number => {
    const share = (10_000 - 2 * (1000 - size) - 8000) / 8000;
    return 2 * choiceOf(0.8).growth(size) + share / (1 - share);
  };
  for (let size = 100; size <= 1000; size++) assert.ok(cost(dear) <= cost(size), `${size}`);
});

Deno.test("a size just below the whole leaves the vocabulary as it is", () => {
  assert.equal(sharedSize(choiceOf(0.1), { whole: 10_000, smallest: 8200, most: 9_900 }), 1000);
});
