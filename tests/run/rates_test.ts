// The numbers of the loop that follow from the step budget, and what is left of them when a run has gone back.
import assert from "node:assert/strict";
import { defaultRates, halvedAnew, slowedRates } from "../../lib/run/options/rates.ts";

const GONE_BACK = ["lora", "postfinetune", "mask", "lambda", "saliencyDecay"] as const;

Deno.test("with few steps log α and the running saliency move further in each, within limits", () => {
  const of = (steps: number): readonly number[] => {
    const { mask, saliencyDecay } = defaultRates(steps);
    return [mask, saliencyDecay].map((value) => Number(value.toFixed(4)));
  };
  assert.deepEqual(of(1), [0.3, 0.95]);
  assert.deepEqual(of(60), [0.3, 0.95]);
  assert.deepEqual(of(150), [0.1333, 0.95]);
  assert.deepEqual(of(400), [0.05, 0.98]);
  assert.deepEqual(of(1000), [0.03, 0.99]);
  assert.deepEqual(of(100_000), [0.03, 0.99]);
});

Deno.test("a run that went back has half of every rate that learns, and half as much of each step in the saliency", () => {
  const rates = defaultRates(150), { saliencyDecay } = rates;
  for (const halvings of [0, 1, 3]) {
    const slowed = slowedRates(rates, { halvings }), share = 2 ** -halvings;
    for (const name of GONE_BACK) {
      const expected = name === "saliencyDecay" ? 1 - (1 - saliencyDecay) * share : rates[name] * share;
      assert.ok(Math.abs(slowed[name] - expected) < 1e-12, `${name}: ${slowed[name]}`);
    }
    const others = Object.keys(rates).filter((name) => !GONE_BACK.some((one) => one === name));
    assert.equal(others.length, 9);
    for (const [name, value] of Object.entries(slowed)) {
      if (others.includes(name)) assert.equal(value, Object.entries(rates).find(([one]) => one === name)?.[1], name);
    }
  }
});

Deno.test("rates that are given anew hold as they are given, and the others stay halved", () => {
  const rates = defaultRates(150), anew = halvedAnew({ halvings: 2, halvedBefore: { mask: 1 } }, new Set(["lora"]));
  assert.equal(anew.halvings, 0);
  const then = slowedRates(rates, anew), back = slowedRates(rates, { ...anew, halvings: 1 });
  assert.deepEqual([then.lora, then.postfinetune, then.lambda, then.mask], [
    rates.lora,
    rates.postfinetune / 4,
    rates.lambda / 4,
    rates.mask / 8,
  ]);
  assert.deepEqual([back.lora, back.mask], [rates.lora / 2, rates.mask / 16]);
  const untouched = { halvings: 2, halvedBefore: { mask: 1 } };
  assert.deepEqual(halvedAnew(untouched, new Set(["clipNorm"])), untouched);
});
