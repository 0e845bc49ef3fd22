// Statistics of KL divergences against llama.cpp's definitions.
import assert from "node:assert/strict";
import { agreementOf } from "../../lib/eval/agreement.ts";

/** llama.cpp's mean_and_uncertainty and percentile (tools/perplexity/perplexity.cpp), which keeps sums of squares. */
function reference(values: readonly number[]): { kl: number; klError: number; klMedian: number; kl99: number } {
  const n = values.length, sorted = [...values].sort((a, b) => a - b), at = (i: number): number => sorted[i] ?? NaN;
  const kl = values.reduce((sum, value) => sum + value, 0) / n;
  const variance = values.reduce((sum, value) => sum + value * value, 0) / n - kl * kl;
  const place = 0.99 * (n - 1), low = Math.trunc(place);
  return {
    kl,
    klError: Math.sqrt(variance / (n - 1)),
    klMedian: n % 2 === 0 ? (at(n / 2) + at(n / 2 - 1)) / 2 : at((n - 1) / 2),
    kl99: (1 - (place - low)) * at(low) + (place - low) * at(Math.min(low + 1, n - 1)),
  };
}

Deno.test("agreementOf() gives llama.cpp's statistics for odd and even numbers of tokens, and ties", () => {
  for (
    const values of [[3, 1], [0.5, 0.1, 0.9], Array.from({ length: 250 }, (_, i) => ((i * 37) % 97) / 50), [
      2,
      2,
      2,
      2,
      5,
    ]]
  ) {
    const found = agreementOf({
      divergence: values,
      isSame: values.map((_, i) => i % 2),
      dropped: values.map((_, i) => i / 8),
    });
    assert.ok(found);
    for (const [name, want] of Object.entries(reference(values))) {
      const got = found[name as keyof ReturnType<typeof reference>];
      assert.ok(Math.abs(got - want) <= 1e-12, `${name} of ${values.length} tokens: ${got}, expected ${want}`);
    }
    const n = values.length;
    assert.deepEqual([found.tokens, found.top1, found.dropped], [n, Math.floor(n / 2) / n, (n - 1) / 16]);
  }
});

Deno.test("agreementOf() of one token has no error, of equal models is 0, and of none is null", () => {
  const one = agreementOf({ divergence: [0.25], isSame: [1], dropped: [0] });
  assert.deepEqual(one, { kl: 0.25, klError: NaN, klMedian: 0.25, kl99: 0.25, top1: 1, tokens: 1, dropped: 0 });
  const equal = agreementOf({ divergence: [0, 0, 0], isSame: [1, 1, 1], dropped: [0, 0, 0] });
  assert.deepEqual(equal, { kl: 0, klError: 0, klMedian: 0, kl99: 0, top1: 1, tokens: 3, dropped: 0 });
  assert.equal(agreementOf({ divergence: [], isSame: [], dropped: [] }), null);
});
