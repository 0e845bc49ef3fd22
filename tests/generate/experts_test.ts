// Models with experts decode what they compute of the whole text, alone and together.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { loadModel } from "../../mod.ts";
import { generateMany } from "../../lib/generate/many.ts";
import { prefillRows } from "../../lib/nn/decode/prefill.ts";
import { ROW_ALIGN } from "../../lib/nn/padding.ts";
import { sharedDevice } from "../device.ts";
import { rejects } from "../refuses.ts";
import { greedyReference, someTokens } from "../run/helpers/reference.ts";

const ROOT = fileURLToPath(new URL("../../fixtures/golden_experts/", import.meta.url));

for (const name of ["qwen3_moe", "qwen2_moe", "granitemoe"]) {
  Deno.test(`${name} decodes several sequences together as each alone computes`, async () => {
    using model = await loadModel(`${ROOT}${name}/model`, { device: await sharedDevice(), baseDtype: "f32" });
    const prompts = [1, 9, 4].map((count) => someTokens(count, model.spec.vocab));
    const texts = await generateMany(model, prompts.map((prompt) => ({ prompt, maxTokens: 12 })), { sequences: 3 });
    for (const [index, prompt] of prompts.entries()) {
      const wanted = await greedyReference(model, prompt, { maxTokens: 12 });
      assert.deepEqual(texts[index]?.tokens, wanted, `prompt ${index}`);
    }
  });
}

Deno.test("the slots of the experts bound the tokens of a prefill", async () => {
  const device = await sharedDevice();
  using model = await loadModel(`${ROOT}olmoe/model`, { device });
  const { spec } = model, wide = { ...spec, hidden: 1 << 14, router: { topK: 3 } };
  const { router: _, ...dense } = wide, most = prefillRows(device, wide);
  assert.ok(most < prefillRows(device, { ...dense, layers: dense.layers.map(({ experts: _, ...layer }) => layer) }));
  const { maxStorageBufferBindingSize: bytes } = device.limits;
  // Each of the 3 experts may pad its slots by 7. One step more would not fit.
  const bytesOf = (rows: number): number => 4 * wide.hidden * (3 * rows + 3 * 7);
  assert.ok(bytesOf(most) <= bytes && bytesOf(most + ROW_ALIGN) > bytes, `${most} tokens`);
});

Deno.test("hidden states and gradients of a model with experts are refused, its logits and losses are not", async () => {
  using model = await loadModel(`${ROOT}olmoe/model`, { device: await sharedDevice() });
  const tokens = someTokens(5, model.spec.vocab), value = [model.spec.layers[0]?.experts?.count ?? NaN];
  await rejects(model.hiddenStates(tokens), "usage", { value });
  await rejects(model.lossAndGradients({ tokens, labels: tokens }), "usage", { value });
  const logits = await model.logits(tokens), losses = await model.tokenLosses(tokens, tokens, { batch: 1 });
  assert.ok(logits.every(Number.isFinite) && losses.slice(0, -1).every((loss) => loss > 0));
});
