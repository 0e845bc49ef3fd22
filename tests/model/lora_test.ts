// The scale of LoRA and its rank, in gradients and in generation; against the golden values of torch.
import assert from "node:assert/strict";
import { checkLora, loraScale } from "../../lib/spec/lora.ts";
import { generate } from "../../lib/generate/generate.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { loadModelFrom, type LoraInput } from "../../lib/model/model.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { refuses } from "../refuses.ts";
import { assertClose, distance, type Golden, openGolden } from "../golden/helpers/golden.ts";
import { sharedDevice } from "../device.ts";

// Those of tests/golden, with the same reasons.
const LOSS_TOLERANCE = 1e-4, GRADIENT_TOLERANCE = 1e-3;

Deno.test("loraScale() is alpha / rank, and alpha / √rank for rsLoRA", () => {
  assert.equal(loraScale({ rank: 16, alpha: 8 }), 0.5);
  assert.equal(loraScale({ rank: 16, alpha: 8, rsLora: false }), 0.5);
  assert.equal(loraScale({ rank: 16, alpha: 8, rsLora: true }), 2);
});

Deno.test("a target that is named twice is refused", () => {
  const config = { rank: 2, alpha: 2, targets: ["q", "v", "q"] } as const;
  refuses(() => checkLora(config), "usage", { names: "LoRA" });
  checkLora({ ...config, targets: ["q", "v"] });
});

Deno.test("an alpha whose scale is no normal number of f32 is refused: LoRA would do nothing, or be infinite", () => {
  const config = { rank: 4, alpha: 1, targets: ["q"] } as const, rsLora = true;
  for (const alpha of [1e-50, 4 * 2 ** -127, 1e40]) {
    refuses(() => checkLora({ ...config, alpha }), "usage", { value: 4, names: "f32" });
  }
  refuses(() => checkLora({ ...config, alpha: 2 ** -126, rsLora }), "usage", { value: 1.1754943508222875e-38 });
  checkLora({ ...config, alpha: 2 ** -124 });
  checkLora({ ...config, alpha: 2 ** -125, rsLora });
  checkLora({ ...config, alpha: 3e38 });
});

Deno.test("loss and gradients under rsLoRA are torch's at the same scale", async () => {
  const golden = await openGolden("gqa_f16"), { rank, alpha, targets, lora: weights } = golden;
  // alpha' / √rank = alpha / rank, at which the golden values were taken.
  await compareGradients(golden, { rank, alpha: alpha / Math.sqrt(rank), rsLora: true, targets, weights });
});

Deno.test("a LoRA of rank 300 padded with zeros has torch's gradients in its first rows and columns", async () => {
  const golden = await openGolden("gqa_f16"), { alpha, targets, lora: weights } = golden, small = golden.rank;
  const lora = { rank: 300, alpha: alpha * 300 / small, targets, weights: padded(weights, { from: small, to: 300 }) };
  await compareGradients(golden, lora, (name, values) => first(name, values, { from: 300, to: small }));
});

Deno.test("two scales in turn give a model two answers", async () => {
  const { modelPath, rank, alpha, targets, lora: weights } = await openGolden("gqa_f16");
  const device = await sharedDevice();
  using model = await loadModel(modelPath, { device, baseDtype: "f32" });
  const plain = { rank, alpha, targets, weights }, tokens = [5, 9, 17];
  const first = await model.logits(tokens, { lora: plain });
  const second = await model.logits(tokens, { lora: { ...plain, rsLora: true } });
  const same = await model.logits(tokens, { lora: { ...plain, rsLora: true, alpha: alpha / Math.sqrt(rank) } });
  assert.ok(distance("logits", second, first).relative > 0.01, "rsLoRA changes nothing");
  assertClose([distance("logits", same, first)], 1e-5);
});

for (const rank of [3, 300]) {
  Deno.test(`generation with an rsLoRA adapter of rank ${rank} writes what the merged model writes`, async () => {
    const golden = await openGolden("gqa_f16"), { modelPath, targets } = golden;
    const device = await sharedDevice();
    using model = await loadModel(modelPath, { device, baseDtype: "f32" });
    const weights = padded(golden.lora, { from: golden.rank, to: rank });
    const lora = { rank, alpha: golden.alpha * Math.sqrt(rank / 3), rsLora: true, targets, weights };
    using merged = await loadModelFrom(sliceModel(model.source, { lora }), { device, baseDtype: "f32" });
    const prompt = [5, 9, 17, 33], options = { maxTokens: 12 };
    const bare = await Array.fromAsync(generate(model, prompt, options));
    const actual = await Array.fromAsync(generate(model, prompt, { ...options, adapters: { lora } }));
    assert.deepEqual(actual, await Array.fromAsync(generate(merged, prompt, options)));
    assert.notDeepEqual(actual, bare);
    assert.ok(actual.length > 4, `only ${actual.length} tokens`);
  });
}

async function compareGradients(
  golden: Golden,
  lora: LoraInput,
  part: (name: string, values: Float32Array) => Float32Array = (_, values) => values,
): Promise<void> {
  const device = await sharedDevice();
  using model = await loadModel(golden.modelPath, { device, baseDtype: "f32" });
  const { tokens, labels } = await golden.batch("pair"), expected = await golden.run("pair", "lora");
  const { loss, gradients } = await model.lossAndGradients({ tokens, labels, lora });
  assertClose([distance("loss", [loss], [expected.loss])], LOSS_TOLERANCE);
  const names = [...expected.gradients.keys()].filter((name) => name.startsWith("lora."));
  assertClose(
    names.map((name) =>
      distance(
        name,
        part(name, gradients.get(name) ?? new Float32Array()),
        expected.gradients.get(name) ?? [],
      )
    ),
    GRADIENT_TOLERANCE,
  );
}

/** The same product with zeros as further rows of A and columns of B. */
function padded(
  weights: ReadonlyMap<string, Float32Array>,
  { from, to }: { readonly from: number; readonly to: number },
): Map<string, Float32Array> {
  return new Map([...weights].map(([name, values]) => {
    const width = values.length / from, out = new Float32Array(width * to);
    if (name.endsWith(".A")) out.set(values);
    else for (let row = 0; row < width; row++) out.set(values.subarray(row * from, (row + 1) * from), row * to);
    return [name, out];
  }));
}

/** The first rows of A or columns of B. */
function first(
  name: string,
  values: Float32Array,
  { from, to }: { readonly from: number; readonly to: number },
): Float32Array {
  const width = values.length / from;
  if (name.endsWith(".A")) return values.subarray(0, to * width);
  return Float32Array.from({ length: width * to }, (_, i) => values[Math.floor(i / to) * from + i % to] ?? NaN);
}
