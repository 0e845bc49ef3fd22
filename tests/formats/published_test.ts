// Configurations of published sizes are read without weights, with as many parameters as transformers has, and planned.
import assert from "node:assert/strict";
import { planMemory } from "../../lib/run/memory/plan.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { type DecoderSpec, parameterCount } from "../../lib/spec/decoder.ts";

/** Written by scripts/golden/published.py. */
const PUBLISHED: Readonly<
  Record<string, { readonly parameters: number; readonly config: Readonly<Record<string, unknown>> }>
> = JSON.parse(await Deno.readTextFile(new URL("../../fixtures/golden/published.json", import.meta.url)));

function specOf(name: string): DecoderSpec {
  return parseHfConfig(PUBLISHED[name]?.config, { path: `${name}/config.json` });
}

Deno.test("configurations of published sizes have as many parameters as in transformers", () => {
  assert.ok(Object.keys(PUBLISHED).length > 10);
  for (const [name, { parameters }] of Object.entries(PUBLISHED)) {
    assert.equal(parameterCount(specOf(name)), parameters, name);
  }
});

/** What a configuration says beyond its counts. */
const FACTS: readonly (readonly [string, (spec: DecoderSpec) => unknown, unknown])[] = [
  ["swiss-ai/Apertus-8B-Instruct-2509", ({ rope, activation, qkNorm, eosIds }) => [rope, activation, qkNorm, eosIds], [
    {
      base: 12e6,
      scaling: { kind: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPosition: 8192 },
    },
    "xielu",
    "head",
    [68],
  ]],
  ["bigcode/starcoder2-3b", ({ layers }) => new Set(layers.map(({ window }) => window)), new Set([4096])],
  ["nvidia/Minitron-4B-Base", ({ rope, activation }) => [rope.dims, activation], [64, "relu2"]],
  ["allenai/Olmo-3-7B-Instruct", ({ rope, layers }) => [rope, layers.filter(({ rope }) => rope === "local").length], [{
    base: 500_000,
    localBase: 500_000,
    scaling: {
      kind: "yarn",
      factor: 8,
      betaFast: 32,
      betaSlow: 1,
      attention: 0.1 * Math.log(8) + 1,
      originalMaxPosition: 8192,
    },
  }, 24]],
  ["LGAI-EXAONE/EXAONE-4.0-1.2B", ({ layers }) => layers.filter(({ window, rope }) => window ?? rope).length, 0],
  ["LGAI-EXAONE/EXAONE-4.0-32B", ({ layers }) => layers.filter(({ rope }) => rope === "none").length, 16],
  ["zai-org/GLM-4-9B-0414", ({ rope, biases }) => [rope.dims, biases], [64, ["q", "k", "v"]]],
  ["ibm-granite/granite-4.0-micro", ({ layers, scales }) => [layers[0], scales?.logits], [
    { heads: 40, kvHeads: 8, ffn: 8192 },
    10,
  ]],
  ["tencent/Hunyuan-7B-Instruct", ({ rope }) => Math.round(rope.base), 11158840],
  ["Qwen/Qwen3-30B-A3B", ({ layers: [first], router }) => [first, router], [
    { heads: 32, kvHeads: 4, ffn: 0, experts: { count: 128, ffn: 768 } },
    { topK: 8, renormalised: true },
  ]],
  [
    "google/gemma-4-31B",
    ({ headDim, localHeadDim, layers, softCaps, rope: { base, localBase, scaling } }) => [
      ...[headDim, localHeadDim, layers[4], layers[5], softCaps, base, localBase],
      scaling.kind === "factors" ? scaling.factors.filter((factor) => factor === 1).length : null,
    ],
    [
      ...[512, 256, { heads: 32, kvHeads: 16, ffn: 21504, window: 1024, rope: "local" }],
      ...[{ heads: 32, kvHeads: 4, ffn: 21504 }, { logits: 30 }, 1e6, 1e4, 64],
    ],
  ],
  ["mistralai/Mixtral-8x7B-v0.1", ({ layers, router }) => [layers[31], router], [
    { heads: 32, kvHeads: 8, ffn: 0, experts: { count: 8, ffn: 14336 } },
    { topK: 2, renormalised: true },
  ]],
  ["CohereLabs/c4ai-command-r-v01", ({ scales, eosIds }) => [scales?.logits, eosIds], [16, [255001]]],
  [
    "CohereLabs/c4ai-command-r7b-12-2024",
    ({ layers }) => layers.map(({ rope = "" }) => rope).join().slice(0, 8),
    ",,,none,",
  ],
];

Deno.test("configurations of published sizes say windows, RoPE, biases and factors", () => {
  for (const [name, of, expected] of FACTS) assert.deepEqual(of(specOf(name)), expected, name);
});

Deno.test("the memory of published sizes is planned without weights", async () => {
  for (const name of ["tencent/Hunyuan-0.5B-Instruct", "CohereLabs/aya-23-8B"]) {
    const { parameters = NaN } = PUBLISHED[name] ?? {};
    const { stages: { weights } } = await planMemory(specOf(name), { baseDtype: "f16", batch: 1, seq: 64 });
    assert.ok(weights > 2 * parameters && weights < 2.1 * parameters, `${name}: ${weights} bytes`);
  }
});
