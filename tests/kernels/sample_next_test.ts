// Tokens that the GPU draws against those that the CPU draws.
import assert from "node:assert/strict";
import { Plan } from "../../lib/gpu/plan.ts";
import { createSampler, drawSettings, type SamplingOptions } from "../../lib/generate/sampling.ts";
import { createChoice, recordChoice, writeChoice } from "../../lib/nn/decode/choice.ts";
import type { DecodeState } from "../../lib/nn/decode/step.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { normal, uniform } from "../../lib/core/random.ts";
import { sharedDevice } from "../device.ts";

const NONE = 0xffffffff;
const OPTIONS: readonly SamplingOptions[] = [
  { temperature: 1 },
  { temperature: 0.3, topK: 7 },
  { temperature: 1.7, topP: 0.9 },
  { temperature: 1, topP: 0 },
  { temperature: 0.8, topK: 40, topP: 0.95, repetitionPenalty: 1.2 },
  { temperature: 1, topK: 3, repetitionPenalty: 0.7 },
  { temperature: 0, repetitionPenalty: 1.3 },
  { temperature: 0, frequencyPenalty: 0.7 },
  { temperature: 1, frequencyPenalty: -0.2, presencePenalty: 1.3, topP: 0.9 },
  { temperature: 0.9, repetitionPenalty: 1.3, frequencyPenalty: 0.4, presencePenalty: -0.1 },
  {},
];

/** Draws `steps` tokens of each row from the same logits. */
async function drawn(
  logits: readonly Float32Array<ArrayBuffer>[],
  { rows, steps, start }: {
    readonly rows:
      readonly (SamplingOptions & { readonly prompt: readonly number[]; readonly chosen?: readonly number[] })[];
    readonly steps: number;
    readonly start: number;
  },
): Promise<number[][]> {
  const device = await sharedDevice(),
    vocab = logits[0]?.length ?? 0,
    stride = strideOf(vocab),
    capacity = start + steps;
  const all = new Float32Array(rows.length * stride).fill(1e30); // padding is larger than every logit
  logits.forEach((own, row) => all.set(own, row * stride));
  using choice = createChoice(device, { rows: rows.length, vocab });
  using input = device.uploadBuffer("logits", all);
  using token = device.createBuffer("token", 4 * rows.length);
  using picks = device.createBuffer("picks", 4 * rows.length * capacity);
  using position = device.uploadBuffer("position", new Uint32Array(rows.length).fill(start));
  using plan = new Plan(device);
  const buffers = { logits: input, token, picks, position, capacity, rows: rows.length, choice };
  recordChoice(plan, { ...buffers, weights: { spec: { vocab } } } as Omit<DecodeState, "masks" | "rope">);
  writeChoice(device, choice, rows.map((row) => drawSettings(row, row.prompt, row)));
  assert.ok(choice.draws);
  await plan.run({ repeat: steps });
  const [bytes = new ArrayBuffer(0)] = await device.read([{ buffer: picks, bytes: 4 * rows.length * capacity }]);
  const read = new Uint32Array(bytes);
  return rows.map((_, row) => [...read.subarray(row * capacity + start, (row + 1) * capacity)]);
}

Deno.test("the GPU draws the tokens that the CPU draws, for every option, any vocabulary, and equal logits", async () => {
  for (const vocab of [1, 2, 255, 257, 1000, 40_001]) {
    for (const equal of [false, true]) {
      const prompt = [0, vocab - 1, vocab >> 1], chosen = [vocab >> 2, 0, 0];
      const rows = OPTIONS.map((options, row) => ({ ...options, seed: 7 * row + 1, prompt, chosen }));
      const logits = rows.map((_, row) =>
        Float32Array.from({ length: vocab }, (_, id) => {
          const value = 3 * normal(5, row, id);
          return equal ? Math.round(value / 2) : value;
        })
      );
      const steps = vocab > 10_000 ? 6 : 12;
      const want = rows.map((row, index) => {
        const sampler = createSampler(row, row.prompt, row), own = logits[index] ?? new Float32Array();
        return Array.from({ length: steps }, (_, step) => sampler.choose(own, 9 + step + 1));
      });
      assert.deepEqual(await drawn(logits, { rows, steps, start: 9 }), want, `${vocab}, equal ${equal}`);
    }
  }
});

Deno.test("the GPU draws by weight, whatever the size of the logits, and chooses nothing where one is not finite", async () => {
  const vocab = 300, row = { temperature: 1, seed: 3, prompt: [] };
  for (const size of [0, 1e-6, 1, 80, 1e30]) {
    const logits = Float32Array.from({ length: vocab }, (_, id) => size * (uniform(2, id) - 0.5));
    const sampler = createSampler(row, []),
      want = Array.from({ length: 40 }, (_, step) => sampler.choose(logits, step + 1));
    assert.deepEqual(await drawn([logits], { rows: [row], steps: 40, start: 0 }), [want], `${size}`);
    assert.ok(size > 1 || new Set(want).size > 20);
  }
  for (const bad of [NaN, Infinity, -Infinity]) {
    const logits = Float32Array.from({ length: vocab }, (_, id) => id === 271 ? bad : 0);
    assert.deepEqual(await drawn([logits], { rows: [row], steps: 1, start: 0 }), [[NONE]]);
  }
});

Deno.test("the GPU takes as much as the CPU from tokens that were chosen very often, and no more than 256", async () => {
  for (
    const [penalty, times] of [[2, 127], [2, 128], [2, 20_000], [-2, 300], [1 / 3, 700], [-1 / 3, 17_000]] as const
  ) {
    const row = { temperature: 0, frequencyPenalty: penalty, prompt: [1], chosen: Array<number>(times).fill(0) };
    const taken = Math.min(256, Math.abs(penalty) * times);
    for (const gap of [0.99, 1.01]) {
      const logits = Float32Array.of(taken * gap * Math.sign(penalty), 0, -500);
      const want = createSampler(row, row.prompt, row).choose(logits, 1);
      assert.equal(want, (gap > 1) === (penalty > 0) ? 0 : 1, `${penalty}, ${times}, ${gap}`);
      assert.deepEqual(await drawn([logits], { rows: [row], steps: 1, start: 0 }), [[want]]);
    }
  }
});
