// The choice of a token against the plain definitions in f64, and against what transformers' processors leave.
import assert from "node:assert/strict";
import { checkNames } from "../../lib/core/check_options.ts";
import { z } from "zod";
import { uniform } from "../../lib/core/random.ts";
import {
  type ChoiceOptions,
  createSampler,
  isGreedy,
  sampleToken,
  SAMPLING_NAMES,
} from "../../lib/generate/sampling.ts";
import { refuses } from "../refuses.ts";
import { argmax } from "../run/helpers/reference.ts";

const Golden = z.object({
  logits: z.array(z.number()),
  seen: z.array(z.number()),
  cases: z.array(z.object({
    temperature: z.number(),
    top_k: z.number().default(0),
    top_p: z.number().default(1),
    repetition_penalty: z.number().default(1),
    probabilities: z.array(z.number()),
  })),
});

type Choice = Omit<ChoiceOptions, "u">;

const DRAWS = 2000;

Deno.test("sampleToken() draws what transformers' processors leave, as often as they say", async () => {
  const file = new URL("../../fixtures/golden/sampling.json", import.meta.url);
  const { logits, seen, cases } = Golden.parse(JSON.parse(await Deno.readTextFile(file)));
  for (const { probabilities, ...options } of cases) {
    const { temperature, top_k: topK, top_p: topP, repetition_penalty: repetitionPenalty } = options;
    const choice = { temperature, topK, topP, repetitionPenalty, seen };
    const expected = repetitionPenalty === 1 ? lowerFirst(probabilities, logits) : probabilities;
    assertDraws(Float32Array.from(logits), choice, { probabilities: expected, what: JSON.stringify(options) });
  }
});

Deno.test("sampleToken() draws as the definitions say, for odd sizes and many equal logits", () => {
  for (const size of [1, 2, 7, 63, 200]) {
    // Whole numbers: many are equal.
    const logits = Float32Array.from({ length: size }, (_, id) => Math.floor(9 * uniform(5, size, id)) - 4);
    const seen = [0, size - 1, Math.floor(size / 2), 0];
    for (const topK of [0, 1, 3, size]) {
      for (const topP of [0, 0.31, 0.87, 1]) {
        for (const repetitionPenalty of [1, 1.5]) {
          const choice = { temperature: 1.3, topK, topP, repetitionPenalty, seen };
          const what = `${size} logits, ${JSON.stringify(choice)}`;
          assertDraws(logits, choice, { probabilities: definition(logits, choice), what });
        }
      }
    }
  }
});

Deno.test("at temperature 0 the largest logit is taken after the repetition penalty, the first of equal ones", () => {
  const logits = Float32Array.of(1, 4, -1, 3.9, 4, -0.5);
  const choose = (options: Choice): number => sampleToken(logits, { ...options, u: 0.99 });
  assert.equal(choose({}), 1);
  assert.equal(choose({ topK: 3, topP: 0.9 }), 1);
  assert.equal(choose({ repetitionPenalty: 1.2, seen: [1, 1] }), 4);
  assert.equal(choose({ repetitionPenalty: 1.2, seen: [1, 4] }), 3);
  assert.equal(choose({ repetitionPenalty: 0.5, seen: [3] }), 3);
  assert.equal(sampleToken(Float32Array.of(-3, -1), { repetitionPenalty: 4, seen: [1], u: 0.5 }), 0);
});

Deno.test("penalties of frequency and presence are those of OpenAI's API: of the continuation alone, by how often it has a token", () => {
  const logits = Float32Array.from({ length: 40 }, (_, id) => 4 * uniform(6, id) - 2);
  const chosen = new Map([[3, 1], [0, 2], [39, 5]]);
  for (const frequencyPenalty of [-2, 0, 0.3, 2]) {
    for (const presencePenalty of [-1, 0, 0.7]) {
      for (const repetitionPenalty of [1, 1.5]) {
        const choice = {
          temperature: 1,
          frequencyPenalty,
          presencePenalty,
          repetitionPenalty,
          seen: [5, 3, 0, 39],
          chosen,
        };
        assertDraws(logits, choice, { probabilities: definition(logits, choice), what: JSON.stringify(choice) });
      }
    }
  }
  const sampler = createSampler({ frequencyPenalty: 0.6 }, [0, 0, 0, 0], { chosen: [0] });
  const picked = [1, 2, 3, 4, 5].map((position) => sampler.choose(Float32Array.of(4, 3, -9), position));
  assert.deepEqual(picked, [0, 1, 0, 1, 0]);
});

Deno.test("a sampler counts the prompt and the tokens it chose itself", () => {
  const logits = Float32Array.of(4, 3, 2, 1), sampler = createSampler({ repetitionPenalty: 10 }, [1]);
  assert.deepEqual([1, 2, 3, 4].map((position) => sampler.choose(logits, position)), [0, 2, 3, 0]);
  const plain = createSampler({}, [0]);
  assert.deepEqual([1, 2].map((position) => plain.choose(logits, position)), [0, 0]);
});

Deno.test("only a choice that no processor can change counts as greedy", () => {
  assert.ok(isGreedy({}));
  assert.ok(isGreedy({ temperature: 0, topK: 5, topP: 0.5, repetitionPenalty: 1 }));
  assert.ok(!isGreedy({ temperature: 0.1 }));
  assert.ok(!isGreedy({ repetitionPenalty: 1.1 }));
  assert.ok(!isGreedy({ frequencyPenalty: 0.1 }));
  assert.ok(!isGreedy({ presencePenalty: -0.1 }));
});

Deno.test("sampling options out of range are refused", () => {
  const check = (options: object): void => checkNames(options, SAMPLING_NAMES, { whose: "generate" });
  const cases = [
    { temperature: -1 },
    { topK: -1 },
    { topK: 1.5 },
    { topP: 1.01 },
    { topP: NaN },
    { repetitionPenalty: 0 },
    { repetitionPenalty: Infinity },
    { frequencyPenalty: 2.1 },
    { presencePenalty: -2.1 },
    { seed: 0.5 },
  ];
  for (const options of cases) {
    const [[option = "", value = 0] = []] = Object.entries(options);
    refuses(() => check(options), "usage", { option, value });
  }
  check({ temperature: 2, topK: 0, topP: 0, repetitionPenalty: 0.1, seed: 4294967295 });
});

/** Evenly spaced u hit an interval of length p in p·DRAWS ± 1 points; the intervals lie in the order of ids. */
function assertDraws(
  logits: Float32Array,
  choice: Choice,
  { probabilities, what }: { readonly probabilities: readonly number[]; readonly what: string },
): void {
  const counts = probabilities.map(() => 0);
  const draws = logits.length < 50 ? DRAWS : 250;
  for (let i = 0; i < draws; i++) {
    const id = sampleToken(logits, { ...choice, u: (i + 0.5) / draws });
    counts[id] = (counts[id] ?? 0) + 1;
  }
  counts.forEach((count, id) => {
    const p = probabilities[id] ?? NaN;
    // 1.01, as the interval's ends are rounded.
    assert.ok(Math.abs(count - p * draws) <= 1.01, `${what}: token ${id} drawn ${count} times, expected ${p * draws}`);
    assert.ok(p > 0 || count === 0, `${what}: token ${id} was ruled out`);
  });
}

/** Where top-p parts tokens of equal logits, torch's sort leaves open which of them remain: here it is those with lower ids. */
function lowerFirst(probabilities: readonly number[], logits: readonly number[]): number[] {
  return probabilities.map((own, id) => {
    const equal = [...logits.keys()].filter((other) => logits[other] === logits[id]);
    const sorted = equal.map((other) => probabilities[other] ?? NaN).sort((a, b) => b - a);
    return sorted.includes(0) ? sorted[equal.indexOf(id)] ?? NaN : own;
  });
}

/** Probabilities as the docstrings of transformers' processors define them, by sorting everything. */
function definition(logits: Float32Array, choice: Choice): number[] {
  const { temperature = 1, topK = 0, topP = 1, repetitionPenalty = 1, seen = [] } = choice;
  const counted = new Set(seen), { frequencyPenalty = 0, presencePenalty = 0, chosen = new Map() } = choice;
  let scores = [...logits].map((score, id) => {
    if (!counted.has(id)) return score;
    return score < 0 ? score * repetitionPenalty : score / repetitionPenalty;
  }).map((score, id) => {
    const times = chosen.get(id) ?? 0;
    return (score - times * frequencyPenalty - (times > 0 ? presencePenalty : 0)) / temperature;
  });
  if (topK > 0) {
    const least = [...scores].sort((a, b) => b - a)[Math.min(topK, scores.length) - 1] ?? NaN;
    scores = scores.map((score) => score < least ? -Infinity : score);
  }
  if (topP < 1) {
    const probabilities = softmax(scores);
    const ascending = [...scores.keys()].sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || b - a);
    let sum = 0;
    const removed = new Set(ascending.filter((id, index) => {
      sum += probabilities[id] ?? 0;
      return sum <= 1 - topP && index < ascending.length - 1;
    }));
    scores = scores.map((score, id) => removed.has(id) ? -Infinity : score);
  }
  return softmax(scores);
}

function softmax(scores: readonly number[]): number[] {
  const top = scores[argmax(scores)] ?? NaN, weights = scores.map((score) => Math.exp(score - top));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}
