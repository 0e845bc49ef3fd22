// Adapters in PEFT's format: what PEFT wrote gives PEFT's logits, what we write is what PEFT reads, and everything else is refused by name.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { openHfFolder } from "../disk.ts";
import { readPeftAdapter, writePeftAdapter } from "../../lib/local/adapter.ts";
import { openSafetensors } from "../disk.ts";
import { type SafetensorsItem } from "../../lib/formats/safetensors/write.ts";
import { writeSafetensors } from "../disk.ts";
import { type LoraConfig, loraModules, loraScale } from "../../lib/spec/lora.ts";
import { type DecoderSpec, PROJECTIONS } from "../../lib/spec/decoder.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import { fixture, inTemporaryFolder } from "./files.ts";
import { randomNumbers, SPEC } from "./models.ts";

const BASE = fixture("golden/gqa_f16/model");
const adapterPath = (name: string): string => fixture(`golden/peft/${name}`);

// PEFT itself, in f32, is within 4e-6 of its float64; the rest is room for other orders of summation.
const TOLERANCE = 2e-5;

for (const name of ["all_rslora", "qv", "patterns", "opt"]) {
  Deno.test(`the adapter ${name} that PEFT wrote gives PEFT's logits, unmerged and merged`, async () => {
    const golden = await openSafetensors(fixture("golden/peft/golden.safetensors"));
    const expected = await golden.read(`${name}.logits`);
    using device = await openDevice();
    const base = name === "opt" ? fixture("golden/opt/model") : BASE;
    using model = await loadModel(base, { device, baseDtype: "f32" });
    const tokens = Array.from(await golden.read("tokens"), (token) => token % model.spec.vocab);
    const { config, weights } = await readPeftAdapter(adapterPath(name), model.spec);
    const lora = { ...config, weights };
    const merged = sliceModel(model.source, { lora });
    assert.deepEqual(merged.spec, model.spec);
    using mergedModel = await loadModelFrom(merged, { device, baseDtype: "f32" });
    assertClose([
      distance("logits", await model.logits(tokens, { lora }), expected),
      distance("merged logits", await mergedModel.logits(tokens), expected),
    ], TOLERANCE);
  });
}

Deno.test("readPeftAdapter() reads settings, targets and the base's name", async () => {
  const { spec } = await openHfFolder(BASE);
  const all = await readPeftAdapter(adapterPath("all_rslora"), spec);
  assert.deepEqual(all.config, { rank: 3, alpha: 5, rsLora: true, targets: PROJECTIONS, dropout: 0.25 });
  assert.equal(all.baseModel, "gqa_f16");
  const qv = await readPeftAdapter(`${adapterPath("qv")}/adapter_model.safetensors`, spec);
  assert.deepEqual(qv.config, { rank: 2, alpha: 7, rsLora: false, targets: ["q", "v"], dropout: 0 });
  assert.deepEqual([...qv.weights.keys()].slice(0, 4), ["lora.0.q.A", "lora.0.q.B", "lora.0.v.A", "lora.0.v.B"]);
});

Deno.test("layers that an adapter leaves out get zeros", async () => {
  const { spec } = await openHfFolder(BASE);
  const { config, weights } = await readPeftAdapter(adapterPath("patterns"), spec);
  assert.deepEqual(config.targets, ["k", "o", "up", "down"]);
  for (const [name, values] of weights) {
    assert.equal(values.some((value) => value !== 0), name.startsWith("lora.1."), name);
  }
});

for (const rsLora of [false, true]) {
  const scaling = rsLora ? "alpha / √rank" : "alpha / rank";
  Deno.test(`modules of different rank and alpha keep their products under one scale of ${scaling}`, async () => {
    await inTemporaryFolder(async (folder) => {
      const spec = one(SPEC), { hidden } = spec;
      const modules = { q: { rank: 5, alpha: 3 }, k: { rank: 2, alpha: 8 }, v: { rank: 3, alpha: 8 } };
      const drawn = loraModules(spec, ["q", "k", "v"]).map(({ projection, shape: [rows] }, index) => {
        assert.ok(projection === "q" || projection === "k" || projection === "v");
        const { rank, alpha } = modules[projection];
        const a = randomNumbers(rank * hidden, 2 * index + 1), b = randomNumbers(rows * rank, 2 * index + 2);
        return { projection, rank, alpha, rows, a, b };
      });
      await writeRaw(
        folder,
        {
          ...{ r: 2, lora_alpha: 8, target_modules: ["q_proj", "k_proj", "v_proj"], use_rslora: rsLora },
          ...{ rank_pattern: { q_proj: 5, "layers.0.self_attn.v_proj": 3 }, alpha_pattern: { q_proj: 3 } },
        },
        drawn.flatMap(({ projection, rank, rows, a, b }) => [
          item(`layers.0.self_attn.${projection}_proj.lora_A.weight`, [rank, hidden], a),
          item(`layers.0.self_attn.${projection}_proj.lora_B.weight`, [rows, rank], b),
        ]),
      );
      const { config, weights } = await readPeftAdapter(folder, spec);
      assert.deepEqual([config.rank, config.alpha], [5, 3]);
      assertClose(
        drawn.map(({ projection, rank, alpha, rows, a, b }) => {
          const read = (side: "A" | "B"): Float32Array =>
            weights.get(`lora.0.${projection}.${side}`) ?? new Float32Array();
          const actual = product(read("B"), read("A"), { rows, rank: 5, cols: hidden, scale: loraScale(config) });
          const scale = alpha / (rsLora ? Math.sqrt(rank) : rank);
          return distance(projection, actual, product(b, a, { rows, rank, cols: hidden, scale }));
        }),
        1e-6, // B is rounded once more than PEFT's
      );
    });
  });
}

Deno.test("writePeftAdapter() writes the keys and tensors that PEFT reads, and readPeftAdapter() gives them back", async () => {
  // A layer without attention and one without FFN: no tensors for them.
  const spec = { ...SPEC, layers: [{ heads: 0, kvHeads: 0, ffn: 9 }, { heads: 2, kvHeads: 1, ffn: 0 }] };
  const config: LoraConfig = { rank: 3, alpha: 2.5, rsLora: true, targets: ["q", "o", "down"], dropout: 0.1 };
  const weights = randomLora(spec, config);
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/adapter`;
    await writePeftAdapter(path, { spec, config, weights, baseModel: "owner/name" });
    assert.deepEqual(JSON.parse(await Deno.readTextFile(`${path}/adapter_config.json`)), {
      base_model_name_or_path: "owner/name",
      bias: "none",
      fan_in_fan_out: false,
      inference_mode: true,
      init_lora_weights: true,
      layers_pattern: null,
      layers_to_transform: null,
      lora_alpha: 2.5,
      lora_dropout: 0.1,
      modules_to_save: null,
      peft_type: "LORA",
      r: 3,
      revision: null,
      target_modules: ["q_proj", "o_proj", "down_proj"],
      task_type: "CAUSAL_LM",
      use_rslora: true,
    });
    const { tensors, metadata } = await openSafetensors(`${path}/adapter_model.safetensors`);
    assert.equal(metadata.get("format"), "pt");
    assert.deepEqual(
      [...tensors.values()].map(({ name, shape, dtype }) => [name, ...shape, dtype]),
      [
        ["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight", 3, 9, "F32"],
        ["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight", 20, 3, "F32"],
        ["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight", 3, 20, "F32"],
        ["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight", 12, 3, "F32"],
        ["base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight", 3, 12, "F32"],
        ["base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight", 20, 3, "F32"],
      ],
    );
    const read = await readPeftAdapter(path, spec);
    assert.deepEqual(read, { config, weights, baseModel: "owner/name" });
    await rejects(writePeftAdapter(path, { spec, config, weights, baseModel: null }), "input", { value: 2 });
    await writePeftAdapter(path, {
      ...{ spec, config: { rank: 3, alpha: 4, targets: config.targets }, weights, baseModel: null, replace: true },
    });
    const again = await readPeftAdapter(path, spec);
    assert.deepEqual(again.config, { rank: 3, alpha: 4, rsLora: false, targets: config.targets, dropout: 0 });
    assert.equal(again.baseModel, null);
  });
});

Deno.test("writePeftAdapter() refuses matrices that do not fit and leaves nothing", async () => {
  const config: LoraConfig = { rank: 2, alpha: 4, targets: ["q", "up"] };
  const good = randomLora(SPEC, config);
  const changed = (name: string, data: Float32Array): Map<string, Float32Array> => new Map([...good, [name, data]]);
  const without = new Map([...good].filter(([name]) => name !== "lora.1.up.B"));
  await inTemporaryFolder(async (folder) => {
    const write = (weights: ReadonlyMap<string, Float32Array>, settings: LoraConfig = config): Promise<void> =>
      writePeftAdapter(`${folder}/adapter`, { spec: SPEC, config: settings, weights, baseModel: null });
    await rejects(write(without), "input", { names: ["lora.1.up.B", "[33, 2]"] });
    await rejects(write(changed("lora.0.q.A", new Float32Array(39))), "input", {
      value: 39,
      names: ["lora.0.q.A", "[2, 20]"],
    });
    await rejects(write(changed("lora.0.v.A", new Float32Array(40))), "input", { value: "lora.0.v.A" });
    await rejects(write(changed("lora.2.q.A", new Float32Array(40))), "input", { value: "lora.2.q.A" });
    await rejects(write(changed("lora.0.q.A", new Float32Array(40).fill(NaN))), "numeric", {
      value: "NaN",
      names: "lora.0.q.A",
    });
    await rejects(write(good, { ...config, rank: 0 }), "usage", { value: 0 });
    const bare = { ...SPEC, layers: [{ heads: 0, kvHeads: 0, ffn: 0 }] };
    const nothing = writePeftAdapter(`${folder}/adapter`, { spec: bare, config, weights: new Map(), baseModel: null });
    await rejects(nothing, "input", { value: ["q", "up"] });
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  });
});

const REFUSED: readonly {
  readonly name: string;
  readonly config: Record<string, unknown>;
  readonly message: Refusal;
}[] = [
  { name: "another method", config: { peft_type: "IA3" }, message: { value: ["peft_type", '"IA3"'], names: '"LORA"' } },
  { name: "no method", config: { peft_type: undefined }, message: { value: "peft_type" } },
  { name: "DoRA", config: { use_dora: true }, message: { value: "use_dora", names: "LoRA" } },
  {
    name: "saved modules",
    config: { modules_to_save: ["lm_head"] },
    message: { value: ["modules_to_save", '"lm_head"'] },
  },
  { name: "trained tokens", config: { trainable_token_indices: [3] }, message: { value: "trainable_token_indices" } },
  { name: "repeated layers", config: { layer_replication: [[0, 1], [0, 2]] }, message: { value: "layer_replication" } },
  { name: "parameters", config: { target_parameters: ["mlp.experts.w"] }, message: { value: "target_parameters" } },
  { name: "a variant yet unknown", config: { use_next_lora: true }, message: { value: "use_next_lora" } },
  { name: "its settings", config: { next_config: { depth: 3 } }, message: { value: "next_config" } },
  { name: "biases", config: { bias: "all" }, message: { value: '"all"', names: '"none"' } },
  { name: "LoRA's own bias", config: { lora_bias: true }, message: { value: "lora_bias" } },
  { name: "transposed weights", config: { fan_in_fan_out: true }, message: { value: "fan_in_fan_out" } },
  {
    name: "PiSSA",
    config: { init_lora_weights: "pissa_niter_4" },
    message: { value: "init_lora_weights" },
  },
  { name: "LoftQ", config: { init_lora_weights: "loftq" }, message: { value: '"loftq"' } },
  {
    name: "the output head",
    config: { target_modules: ["q_proj", "lm_head"] },
    message: { value: ["target_modules", "lm_head"] },
  },
  { name: "no targets", config: { target_modules: null }, message: { value: "target_modules" } },
  { name: "rank 0", config: { r: 0 }, message: { value: 0 } },
  { name: "half a rank", config: { r: 1.5 }, message: { value: 1.5 } },
  { name: "alpha 0", config: { lora_alpha: 0 }, message: { value: ["lora_alpha", 0] } },
  { name: "dropout 1", config: { lora_dropout: 1 }, message: { value: ["lora_dropout", 1] } },
  {
    name: "a regular expression",
    config: { rank_pattern: { "(q|v)_proj": 4 } },
    message: { value: ["rank_pattern", "_proj"] },
  },
  {
    name: "a regular expression for alpha",
    config: { alpha_pattern: { "layers.[01].*": 4 } },
    message: { value: "alpha_pattern" },
  },
  { name: "another rank", config: { r: 3 }, message: { value: "[2, 40]", names: "[3, 40]" } },
  {
    name: "targets without tensors",
    config: { target_modules: ["q_proj", "v_proj", "o_proj"] },
    message: { names: ["base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight", "[2, 40]"] },
  },
  {
    name: "tensors without targets",
    config: { target_modules: ["q_proj"] },
    message: { names: "target_modules" },
  },
  {
    name: "tensors of other layers",
    config: { layers_to_transform: 1 },
    message: { value: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" },
  },
  {
    name: "excluded tensors",
    config: { exclude_modules: ["layers.1.self_attn.v_proj"] },
    message: { value: "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight" },
  },
];

for (const { name, config, message } of REFUSED) {
  Deno.test(`readPeftAdapter() refuses ${name} by its key`, async () => {
    const { spec } = await openHfFolder(BASE);
    await inTemporaryFolder(async (folder) => {
      await copyAdapter("qv", folder, config);
      await rejects(readPeftAdapter(folder, spec), "input", message);
    });
  });
}

Deno.test("keys that change nothing are let through, and a regular expression leaves the choice to the tensors", async () => {
  const { spec } = await openHfFolder(BASE), plain = await readPeftAdapter(adapterPath("qv"), spec);
  const harmless: readonly Record<string, unknown>[] = [
    { target_modules: ".*\\.(q|v)_proj" },
    { target_modules: ["self_attn.q_proj", "model.layers.0.self_attn.v_proj", "layers.1.self_attn.v_proj"] },
    { target_modules: ["q_proj", "k_proj", "v_proj"], exclude_modules: ["k_proj"] },
    { layers_to_transform: [0, 1], layers_pattern: "layers" },
    { layers_to_transform: [0, 1], layers_pattern: "", use_next_lora: false },
    { layers_to_transform: [], init_lora_weights: "gaussian", loftq_config: { loftq_bits: 4 }, next_size: 16 },
    { rank_pattern: { o_proj: 7 }, eva_config: { rho: 2 }, modules_to_save: [], init_lora_weights: "mica" },
  ];
  for (const config of harmless) {
    await inTemporaryFolder(async (folder) => {
      await copyAdapter("qv", folder, config);
      assert.deepEqual(await readPeftAdapter(folder, spec), plain, JSON.stringify(config));
    });
  }
});

Deno.test("readPeftAdapter() refuses tensors that are missing, strange or of another model", async () => {
  const spec = one(SPEC), { hidden } = spec;
  const a = item("layers.0.self_attn.q_proj.lora_A.weight", [2, hidden]);
  const b = item("layers.0.self_attn.q_proj.lora_B.weight", [24, 2]);
  const config = { r: 2, target_modules: ".*q_proj" };
  const cases: readonly (readonly [string, readonly SafetensorsItem[], Refusal])[] = [
    ["no B", [a], { names: "[24, 2]" }],
    ["nothing", [], { names: "LoRA" }],
    [
      "another width",
      [a, item("layers.0.self_attn.q_proj.lora_B.weight", [23, 2])],
      { value: "[23, 2]", names: ["[24, 2]", "q_proj", "[24, 20]"] },
    ],
    ["B transposed", [a, item("layers.0.self_attn.q_proj.lora_B.weight", [2, 24])], { value: "[2, 24]" }],
    ["a layer too many", [a, b, item("layers.1.self_attn.q_proj.lora_A.weight", [2, hidden])], {
      value: "model.layers.1.self_attn.q_proj",
    }],
    ["another block", [a, b, item("layers.0.mlp.q_proj.lora_A.weight", [2, hidden])], {
      value: "model.layers.0.mlp.q_proj",
    }],
    [
      "an expert",
      [a, b, item("layers.0.mlp.experts.0.up_proj.lora_A.weight", [2, hidden])],
      { names: "merge_and_unload" },
    ],
    ["the embedding", [a, b, item("embed_tokens.lora_embedding_A", [2, 37])], { names: "merge_and_unload" }],
    ["a magnitude", [a, b, item("layers.0.self_attn.q_proj.lora_magnitude_vector", [24])], {
      value: "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
    }],
    ["A twice", [a, b, item("layers.0.self_attn.q_proj.lora_A.default.weight", [2, hidden])], { names: "lora_A" }],
    ["whole numbers", [a, { ...b, dtype: "I32", data: () => new Int32Array(48) }], {
      value: "I32",
      names: ["F32", "BF16"],
    }],
  ];
  for (const [name, items, message] of cases) {
    await inTemporaryFolder(async (folder) => {
      await writeRaw(folder, config, items);
      await rejects(readPeftAdapter(folder, spec), "input", message).catch((error) => {
        throw new Error(name, { cause: error });
      });
    });
  }
  await inTemporaryFolder(async (folder) => {
    await writeRaw(folder, config, [
      a,
      item("layers.0.self_attn.q_proj.lora_B.weight", [24, 2], new Float32Array(48).fill(Infinity)),
    ]);
    await rejects(readPeftAdapter(folder, spec), "numeric", { value: 0 });
  });
});

Deno.test("tensors with the adapter's name, or of a base without head, are read too", async () => {
  const spec = one(SPEC), { hidden } = spec, values = randomNumbers(2 * hidden, 3);
  await inTemporaryFolder(async (folder) => {
    await writeRaw(folder, { r: 2, target_modules: ["q_proj"] }, [
      item("layers.0.self_attn.q_proj.lora_A.default.weight", [2, hidden], values),
      { ...item("", [24, 2]), name: "base_model.model.layers.0.self_attn.q_proj.lora_B.weight" },
    ]);
    const { config, weights } = await readPeftAdapter(folder, spec);
    assert.deepEqual(config, { rank: 2, alpha: 8, rsLora: false, targets: ["q"], dropout: 0 });
    assert.deepEqual(weights.get("lora.0.q.A"), values);
    // A byte order mark is no part of it.
    const path = `${folder}/adapter_config.json`;
    await Deno.writeTextFile(path, "\uFEFF" + await Deno.readTextFile(path));
    assert.deepEqual((await readPeftAdapter(folder, spec)).config, config);
    // A pattern for a whole name is of that name, which lacks the head's part here.
    const anchored = { peft_type: "LORA", r: 2, alpha_pattern: { "^layers.0.self_attn.q_proj": 64 } };
    await Deno.writeTextFile(path, JSON.stringify({ ...anchored, target_modules: ["q_proj"] }));
    assert.equal((await readPeftAdapter(folder, spec)).config.alpha, 64);
  });
});

Deno.test("readPeftAdapter() says what a path is instead of an adapter", async () => {
  const { spec } = await openHfFolder(BASE);
  await rejects(readPeftAdapter("/no/such/adapter", spec), "input", { names: "no/such/adapter" });
  await rejects(readPeftAdapter(BASE, spec), "input", { names: "adapter_config.json" });
  await inTemporaryFolder(async (folder) => {
    await rejects(readPeftAdapter(folder, spec), "input", { names: "adapter_config.json" });
    await Deno.writeTextFile(`${folder}/adapter_config.json`, "{");
    await Deno.writeTextFile(`${folder}/adapter_model.bin`, "");
    await rejects(readPeftAdapter(folder, spec), "input", { value: "adapter_model.bin" });
    await rejects(readPeftAdapter(`${folder}/adapter_model.bin`, spec), "input", { value: "JSON" });
    await Deno.writeTextFile(`${folder}/adapter_config.json`, "[]");
    await rejects(readPeftAdapter(`${folder}/adapter_model.bin`, spec), "input", { value: "[]" });
    await copyAdapter("qv", folder, {});
    await rejects(readPeftAdapter(`${folder}/adapter_model.bin`, spec), "input", { names: ["adapter_model.bin", "{"] });
  });
});

function one(spec: DecoderSpec): DecoderSpec {
  return { ...spec, layers: spec.layers.slice(0, 1) };
}

function item(name: string, shape: readonly number[], data?: Float32Array): SafetensorsItem {
  const values = data ?? new Float32Array(shape.reduce((a, b) => a * b, 1));
  return { name: `base_model.model.model.${name}`, dtype: "F32", shape, data: () => values };
}

async function writeRaw(
  folder: string,
  config: Record<string, unknown>,
  items: readonly SafetensorsItem[],
): Promise<void> {
  await Deno.writeTextFile(`${folder}/adapter_config.json`, JSON.stringify({ peft_type: "LORA", ...config }));
  await writeSafetensors(`${folder}/adapter_model.safetensors`, items);
}

/** Copies a fixture, its configuration changed; undefined leaves a key out. */
async function copyAdapter(name: string, folder: string, change: Record<string, unknown>): Promise<void> {
  const config = JSON.parse(await Deno.readTextFile(`${adapterPath(name)}/adapter_config.json`));
  await Deno.writeTextFile(`${folder}/adapter_config.json`, JSON.stringify({ ...config, ...change }));
  await Deno.copyFile(`${adapterPath(name)}/adapter_model.safetensors`, `${folder}/adapter_model.safetensors`);
}

function randomLora(spec: DecoderSpec, { rank, targets }: LoraConfig): Map<string, Float32Array> {
  const weights = new Map<string, Float32Array>();
  for (const { layer, projection, shape: [rows, cols] } of loraModules(spec, targets)) {
    weights.set(`lora.${layer}.${projection}.A`, randomNumbers(rank * cols, weights.size + 1));
    weights.set(`lora.${layer}.${projection}.B`, randomNumbers(rows * rank, weights.size + 1));
  }
  return weights;
}

/** scale · B·A in f64. */
function product(
  b: Float32Array,
  a: Float32Array,
  { rows, rank, cols, scale }: {
    readonly rows: number;
    readonly rank: number;
    readonly cols: number;
    readonly scale: number;
  },
): Float64Array {
  const out = new Float64Array(rows * cols);
  for (let i = 0; i < rows; i++) {
    for (let r = 0; r < rank; r++) {
      for (let j = 0; j < cols; j++) {
        out[i * cols + j] = (out[i * cols + j] ?? 0) + scale * (b[i * rank + r] ?? NaN) * (a[r * cols + j] ?? NaN);
      }
    }
  }
  return out;
}
