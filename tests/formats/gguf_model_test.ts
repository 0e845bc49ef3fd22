import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { openGgufFile } from "../disk.ts";
import { openGguf } from "../disk.ts";
import { ggufNames } from "../../lib/formats/gguf/names.ts";
import { neighbourRow } from "../../lib/spec/rope.ts";
import type { GgufTyped, GgufValue } from "../../lib/formats/gguf/types.ts";
import { type GgufItem } from "../../lib/formats/gguf/write.ts";
import { writeGguf } from "../disk.ts";
import { PROJECTIONS, tensorShapes, withBiases } from "../../lib/spec/decoder.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { inTemporaryFolder, sharedFile } from "./files.ts";
import { randomNumbers, randomSource, SPEC } from "./models.ts";

function item(name: string, shape: number[], type: GgufItem["type"] = "f32"): GgufItem {
  return { name, type, shape, data: () => randomNumbers(shape.reduce((a, b) => a * b, 1), 5) };
}

Deno.test("neighbourRow() reorders a head as reshape(2, headDim / 2).swapaxes(0, 1) does", () => {
  const order = Array.from({ length: 12 }, (_, row) => neighbourRow(row, { headDim: 6, dims: 6 }));
  // The rest of a head stays.
  const part = Array.from({ length: 6 }, (_, row) => neighbourRow(row, { headDim: 6, dims: 4 }));
  assert.deepEqual(part, [0, 2, 1, 3, 4, 5]);
  assert.deepEqual(order, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
});

Deno.test("ggufNames() gives every canonical tensor its own name", () => {
  const names = ggufNames(SPEC.layers.length);
  assert.deepEqual(
    new Set(names.keys()),
    new Set(
      tensorShapes({
        ...withBiases(SPEC, PROJECTIONS),
        layers: SPEC.layers.map((layer) => ({ ...layer, experts: { count: 2, ffn: 3 }, conv: true as const })),
        convolution: { length: 3 },
        router: { topK: 1, sharedGate: true, choiceBias: true },
        qkNorm: "head",
        layerScale: true,
        normPlaces: "both",
        norm: "layer",
        positions: { offset: 0 },
        headBias: true,
      }).keys(),
    ),
  );
  assert.equal(new Set([...names.values()].map(({ name }) => name)).size, names.size);
  assert.equal(names.get("model.layers.1.self_attn.o_proj.weight")?.name, "blk.1.attn_output.weight");
  assert.equal(names.get("model.layers.0.mlp.down_proj.bias")?.name, "blk.0.ffn_down.bias");
});

/** The files of a small model: metadata and tensors that a test may change before writing. */
function parts(): { metadata: Map<string, GgufValue | GgufTyped>; tensors: GgufItem[] } {
  const source = randomSource({ ...SPEC, tied: true });
  const names = ggufNames(2);
  return {
    metadata: new Map<string, GgufValue | GgufTyped>([
      ["general.architecture", "llama"],
      ["llama.block_count", 2],
      ["llama.context_length", 128],
      ["llama.embedding_length", 20],
      ["llama.feed_forward_length", 33],
      ["llama.attention.head_count", 4],
      ["llama.attention.head_count_kv", 2],
      ["llama.attention.key_length", 6],
      ["llama.attention.layer_norm_rms_epsilon", { type: "f32", value: 1e-5 }],
      ["llama.rope.freq_base", { type: "f32", value: 12345 }],
      ["tokenizer.ggml.bos_token_id", 1],
      ["tokenizer.ggml.eos_token_id", 2],
      ["tokenizer.ggml.eot_token_id", 5],
      ["tokenizer.ggml.padding_token_id", 4294967295],
    ]),
    tensors: [...tensorShapes(source.spec)].map(([name, shape]) => ({
      name: names.get(name)?.name ?? "",
      type: "f32",
      shape,
      data: () => source.read(name),
    })),
  };
}

Deno.test("openGguf() reads the spec of a llama, end of turn and −1 for no padding included", async () => {
  await inTemporaryFolder(async (folder) => {
    await writeGguf(`${folder}/a`, parts());
    const source = await openGguf(`${folder}/a`);
    assert.deepEqual(source.spec, { ...SPEC, tied: true });
    assert.equal(source.storedDtype("model.norm.weight"), "f32");
    await rejects(source.read("lm_head.weight"), "input", { names: "lm_head.weight" });
  });
});

Deno.test("openGguf() reads q and k rows in Hugging Face's order, whole and in ranges", async () => {
  await inTemporaryFolder(async (folder) => {
    await writeGguf(`${folder}/a`, parts());
    const source = await openGguf(`${folder}/a`);
    const stored = randomSource({ ...SPEC, tied: true });
    for (
      const [name, rows] of [["model.layers.1.self_attn.q_proj.weight", 24], [
        "model.layers.0.self_attn.k_proj.weight",
        12,
      ]] as const
    ) {
      const [read, raw] = [await source.read(name), await stored.read(name)];
      for (let row = 0; row < rows; row++) {
        const at = neighbourRow(row, { headDim: 6, dims: 6 }) * 20;
        assert.deepEqual(read.slice(row * 20, row * 20 + 20), raw.slice(at, at + 20), `${name} row ${row}`);
      }
      for (const [start, count] of [[0, 1], [5, 2], [7, 5], [rows, 0]] as const) {
        assert.deepEqual(await source.read(name, { start, count }), read.slice(start * 20, (start + count) * 20));
      }
    }
  });
});

const ROPE: readonly (readonly [string, Record<string, GgufValue>, readonly number[] | null, unknown])[] = [
  ["linear scaling", { "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5 }, null, {
    kind: "linear",
    factor: 2.5,
  }],
  ["a factor without a type as linear", { "llama.rope.scaling.factor": 2.5 }, null, { kind: "linear", factor: 2.5 }],
  ["the older key of the factor", { "llama.rope.scale_linear": 2.5 }, null, { kind: "linear", factor: 2.5 }],
  ["type none, whatever the factor", { "llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 2.5 }, null, {
    kind: "none",
  }],
  ["rope_freqs.weight", {}, [1, 2, 8], { kind: "factors", factors: [1, 2, 8] }],
  ["rope_freqs.weight with a linear factor", { "llama.rope.scaling.factor": 2.5 }, [1, 2, 8], {
    kind: "factors",
    factors: [2.5, 5, 20],
  }],
];

for (const [name, keys, factors, expected] of ROPE) {
  Deno.test(`openGguf() reads ${name}`, async () => {
    await inTemporaryFolder(async (folder) => {
      const { metadata, tensors } = parts();
      for (const [key, value] of Object.entries(keys)) metadata.set(key, value);
      if (factors) {
        tensors.push({
          name: "rope_freqs.weight",
          type: "f32",
          shape: [3],
          data: () => Float32Array.from(factors),
        });
      }
      await writeGguf(`${folder}/a`, { metadata, tensors });
      assert.deepEqual((await openGguf(`${folder}/a`)).spec.rope.scaling, expected);
    });
  });
}

Deno.test("openGguf() reads the growth of queries and the logarithm of YaRN of a mistral3", async () => {
  await inTemporaryFolder(async (folder) => {
    const { metadata, tensors } = parts();
    const own = new Map([...metadata].map(([key, value]) => [key.replace(/^llama\./, "mistral3."), value]));
    own.set("general.architecture", "mistral3").set("mistral3.rope.scaling.type", "yarn");
    own.set("mistral3.rope.scaling.original_context_length", 16);
    for (const [key, value] of [["rope.scaling.factor", 4], ["rope.scaling.yarn_log_multiplier", 1]] as const) {
      own.set(`mistral3.${key}`, { type: "f32", value });
    }
    own.set("mistral3.attention.temperature_scale", { type: "f32", value: 0.5 });
    await writeGguf(`${folder}/a`, { metadata: own, tensors });
    assert.deepEqual((await openGguf(`${folder}/a`)).spec.rope.scaling, {
      kind: "yarn",
      factor: 4,
      betaFast: 32,
      betaSlow: 1,
      attention: 1,
      originalMaxPosition: 16,
      queryGrowth: 0.5,
    });
  });
});

const REFUSED: readonly (readonly [string, (model: ReturnType<typeof parts>) => void, Refusal])[] = [
  [
    "another architecture",
    ({ metadata }) => metadata.set("general.architecture", "mamba"),
    { names: "general.architecture" },
  ],
  [
    "an architecture of experts",
    ({ metadata }) => metadata.set("general.architecture", "deepseek2"),
    { value: "deepseek2" },
  ],
  [
    "a vision part",
    ({ metadata }) => metadata.set("general.architecture", "clip"),
    { names: ["GGUF", "general.architecture"] },
  ],
  ["no architecture", ({ metadata }) => metadata.delete("general.architecture"), { value: "undefined" }],
  [
    "more layers than tensors",
    ({ metadata }) => metadata.set("llama.block_count", 4_000_000_000),
    { value: 4000000000, names: 20 },
  ],
  ["one part of several", ({ metadata }) => metadata.set("split.count", 3), { names: "GGUF" }],
  [
    "a later part, without the metadata of the first",
    ({ metadata }) => {
      metadata.clear();
      metadata.set("split.count", 3);
    },
    { names: "GGUF" },
  ],
  [
    "experts without their number for a token",
    ({ metadata }) => metadata.set("llama.expert_count", 8),
    { names: "llama.expert_used_count" },
  ],
  [
    "experts of an architecture without any",
    ({ metadata }) => {
      const own = [...metadata].filter(([key]) => key.startsWith("llama."));
      for (const [key, value] of own) metadata.set(key.replace("llama.", "qwen2."), value);
      metadata.set("general.architecture", "qwen2").set("qwen2.expert_count", 8);
    },
    { value: ["qwen2.expert_count", 8] },
  ],
  [
    "no head count",
    ({ metadata }) => metadata.delete("llama.attention.head_count"),
    { names: 2 },
  ],
  [
    "too many head counts",
    ({ metadata }) => metadata.set("llama.attention.head_count", Int32Array.of(4, 4, 4)),
    { value: 3 },
  ],
  [
    "KV heads that do not divide",
    ({ metadata }) => metadata.set("llama.attention.head_count_kv", 3),
    { value: ["KV", "layer 0", 4, 3] },
  ],
  [
    "linear attention",
    ({ metadata }) => metadata.set("llama.attention.head_count_kv", Int32Array.of(2, 0)),
    { value: "layer 1" },
  ],
  [
    "a text for a number",
    ({ metadata }) => metadata.set("llama.context_length", "128"),
    { names: "llama.context_length" },
  ],
  [
    "a width of values unlike that of keys",
    ({ metadata }) => metadata.set("llama.attention.value_length", 8),
    { value: 8, names: 6 },
  ],
  ["partial rotation", ({ metadata }) => metadata.set("llama.rope.dimension_count", 4), { value: 4 }],
  [
    "half a window",
    ({ metadata }) => metadata.set("llama.attention.sliding_window", 64.5),
    { value: 64.5, names: 0 },
  ],
  ["attention that looks ahead", ({ metadata }) => metadata.set("llama.attention.causal", false), { value: "false" }],
  [
    "an ε of 0",
    ({ metadata }) => metadata.set("llama.attention.layer_norm_rms_epsilon", { type: "f32", value: 0 }),
    { value: 0, names: "llama.attention.layer_norm_rms_epsilon" },
  ],
  [
    "an ε below 0",
    ({ metadata }) => metadata.set("llama.attention.layer_norm_rms_epsilon", { type: "f32", value: -1 }),
    { value: -1 },
  ],
  [
    "a base of RoPE of 0",
    ({ metadata }) => metadata.set("llama.rope.freq_base", { type: "f32", value: 0 }),
    { value: 0, names: "llama.rope.freq_base" },
  ],
  [
    "another scaling",
    ({ metadata }) => metadata.set("llama.rope.scaling.type", "ntk"),
    { value: "ntk" },
  ],
  [
    "a token id outside the vocabulary",
    ({ metadata }) => metadata.set("tokenizer.ggml.eos_token_id", 37),
    { value: 37 },
  ],
  ["a missing tensor", ({ tensors }) => tensors.splice(3, 1), { names: ["blk.0.attn_q.weight", "[24, 20]"] }],
  [
    "a wrong shape",
    ({ metadata }) => metadata.set("llama.feed_forward_length", 32),
    { value: "[33, 20]", names: ["blk.0.ffn_gate.weight", "[32, 20]"] },
  ],
  [
    "a bias that one layer has and another has not",
    ({ tensors }) => tensors.push(item("blk.0.attn_q.bias", [24])),
    { names: ["blk.1.attn_q.bias", "[24]"] },
  ],
  [
    "a bias of no projection",
    ({ tensors }) => tensors.push(item("blk.0.attn_norm.bias", [20])),
    { value: "blk.0.attn_norm.bias" },
  ],
  [
    "too few RoPE divisors",
    ({ tensors }) => tensors.push(item("rope_freqs.weight", [2])),
    { names: ["rope_freqs.weight", 3, 0] },
  ],
];

for (const [name, change, message] of REFUSED) {
  Deno.test(`openGguf() refuses ${name}`, async () => {
    await inTemporaryFolder(async (folder) => {
      const model = parts();
      change(model);
      await writeGguf(`${folder}/a`, model);
      await rejects(openGguf(`${folder}/a`), "input", message);
    });
  });
}

Deno.test("random byte flips in a GGUF header give a CompressoError or a model, never anything else", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a`;
    await writeGguf(path, parts());
    const original = await Deno.readFile(path);
    const first = Math.min(...[...(await openGgufFile(path)).tensors.values()].map(({ offset }) => offset));
    const noise = randomNumbers(800, 7);
    let refused = 0;
    for (let round = 0; round < 400; round++) {
      const bytes = original.slice();
      const at = Math.floor((Number(noise[2 * round]) + 1) / 2 * first);
      bytes[at] = Math.floor((Number(noise[2 * round + 1]) + 1) * 128);
      await Deno.writeFile(path, bytes);
      await openGguf(path).catch((error) => {
        assert.ok(error instanceof CompressoError, `round ${round}: ${error}`);
        refused++;
      });
    }
    assert.ok(refused > 200, `${refused} of 400 refused`);
  });
});

const SMOLLM2 = sharedFile("models/SmolLM2-135M-Instruct.Q4_1.gguf");

Deno.test("openGguf() reads SmolLM2-135M as its model card has it", { ignore: SMOLLM2 === null }, async () => {
  const source = await openGguf(SMOLLM2 ?? "");
  assert.deepEqual(source.spec, {
    vocab: 49152,
    hidden: 576,
    headDim: 64,
    layers: Array.from({ length: 30 }, () => ({ heads: 9, kvHeads: 3, ffn: 1536 })),
    normEps: 1e-5,
    rope: { base: 100000, scaling: { kind: "none" } },
    tied: true,
    maxPosition: 8192,
    bosId: 1,
    eosIds: [2],
    padId: 2,
  });
  assert.equal(source.storedDtype("model.layers.0.mlp.down_proj.weight"), "q4_1");
  assert.equal(source.storedDtype("model.embed_tokens.weight"), "q8_0");
  const rows = await source.read("model.layers.29.self_attn.k_proj.weight", { start: 60, count: 70 });
  assert.deepEqual(rows, (await source.read("model.layers.29.self_attn.k_proj.weight")).slice(60 * 576, 130 * 576));
  assert.ok(rows.every((value) => Math.abs(value) < 10));
});
