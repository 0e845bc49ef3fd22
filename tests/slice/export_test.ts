// Written models read back: each layout, each dtype, with tokenizer; and nothing half-written.
import assert from "node:assert/strict";
import { openDevice } from "../../mod.ts";
import { exportHf } from "../disk.ts";
import { hfConfig } from "../../lib/formats/hf/export.ts";
import { openHfFolder } from "../disk.ts";
import { ropeConfig } from "../../lib/formats/hf/rope_export.ts";
import { openWeights } from "../disk.ts";
import { demoData, modelPath, openModelFiles } from "../../lib/local/open_model.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { createTokenizer } from "../../lib/text/tokenizer.ts";
import { loadHfTokenizer } from "../disk.ts";
import { ropeFrequencies } from "../../lib/spec/rope.ts";
import {
  type DecoderSpec,
  parameterCount,
  type Projection,
  PROJECTIONS,
  tensorShapes,
  withBiases,
  withWindow,
} from "../../lib/spec/decoder.ts";
import { padded, uniformMasks } from "../../lib/slice/layouts.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { checkRefusal, refuses, rejects } from "../refuses.ts";
import { assertClose } from "../golden/helpers/golden.ts";
import { LOGIT_TOLERANCE, logitDistance, NAMES, openSource, randomLora, randomMasks } from "./helpers.ts";

async function names(folder: string): Promise<string[]> {
  const found: string[] = [];
  for await (const entry of Deno.readDir(folder)) found.push(entry.name);
  return found.sort();
}

/** Biases that a configuration can only announce together with others are there as zeros. */
async function equalTensors(actual: WeightSource, expected: WeightSource, form?: string): Promise<void> {
  const attention: readonly Projection[] = ["q", "k", "v", "o"], { biases = [] } = expected.spec;
  const isWritten = (projection: Projection): boolean =>
    form === "qwen2"
      ? biases.includes(projection)
      : biases.some((own) => attention.includes(own) === attention.includes(projection));
  assert.deepEqual(actual.spec, withBiases(expected.spec, PROJECTIONS.filter(isWritten)));
  const own = tensorShapes(expected.spec);
  for (const name of tensorShapes(actual.spec).keys()) {
    const values = await actual.read(name);
    if (own.has(name)) assert.deepEqual(values, await expected.read(name), name);
    else assert.ok(values.every((value) => value === 0), `${name} is zeros`);
  }
}

/**
 * Models that no class of transformers has although all layers are alike. Heads that do not divide the hidden size are Mistral's, which has no biases,
 * or Qwen2's, which has those of q, k and v; not those of Gemma with norms of outputs.
 */
function isOddlyShaped({ hidden, layers: [first], biases = [], rope, normPlaces, norm }: DecoderSpec): boolean {
  // Phi-3's class counts the factors of LongRoPE against hidden size / heads.
  if (rope.dims !== undefined) return Math.floor(0.6 * Math.floor(hidden / (first?.heads ?? 1))) !== rope.dims;
  if (normPlaces !== undefined || norm !== undefined) return hidden % (first?.heads ?? 1) !== 0;
  return biases.length > 0 && biases.join() !== "q,k,v" && hidden % (first?.heads ?? 1) !== 0;
}

Deno.test("exportModel() says the share that is written, of one file or both", async () => {
  const out = await Deno.makeTempDir(), { source, tokenizer } = await openModelFiles("demo");
  try {
    for (const formats of [["hf"], ["gguf"], ["hf", "gguf"]] as const) {
      const shares: number[] = [], onProgress = (share: number): void => void shares.push(share);
      await exportModel(source, `${out}/${formats.join()}`, { formats, tokenizer, name: "demo", onProgress });
      const { size } = tensorShapes(source.spec);
      assert.equal(shares.length, formats.length * size);
      assert.deepEqual(shares, shares.toSorted((a, b) => a - b));
      assert.equal(shares.at(-1), 1);
    }
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("each layout of each model reads back from a folder with the same spec and weights", async () => {
  const out = await Deno.makeTempDir();
  try {
    for (const name of NAMES) {
      const source = await openSource(name), { spec } = source;
      const masks = randomMasks(spec, { seed: 31, kinds: ["head", "ffn", "hidden"], soft: name === "gqa_f16" });
      const lora = randomLora(spec, { seed: 42 });
      const compact = sliceModel(source, { masks, lora });
      const even = sliceModel(source, { masks: uniformMasks(spec, {}, { masks, target: 0.3 }), lora });
      for (const [layout, made] of Object.entries({ compact, padded: padded(compact), uniform: even })) {
        const folder = `${out}/${name}/${layout}`;
        const { form } = await exportHf(made, folder, { dtype: "f32", tokenizer: null, maxShardBytes: 20000 });
        const isOwn = layout === "compact" || isOddlyShaped(made.spec);
        assert.equal(form === "compresso", isOwn, `${name} ${layout} is ${form}`);
        await equalTensors(await openHfFolder(folder), made, form);
        const files = await names(folder);
        assert.ok(files.includes("model.safetensors.index.json"), "the weights were cut into shards");
        assert.equal(files.includes("modeling_compresso.py"), isOwn);
      }
    }
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("exportModel() writes a folder and a GGUF that compute what the sliced model does", async () => {
  const out = await Deno.makeTempDir();
  try {
    using device = await openDevice();
    const { source, tokenizer } = await openModelFiles("demo"), { spec } = source;
    assert.ok(tokenizer);
    const masks = randomMasks(spec, { seed: 51, kinds: ["head", "ffn", "hidden"] });
    masks.head?.fill(0, 0, spec.layers[0]?.heads ?? 0);
    masks.ffn?.fill(0, spec.layers[0]?.ffn ?? 0, 2 * (spec.layers[0]?.ffn ?? 0));
    const sliced = sliceModel(source, { masks, lora: randomLora(spec, { seed: 52 }) });
    for (const layout of ["compact", "padded"] as const) {
      const result = await exportModel(sliced, `${out}/${layout}`, {
        layout,
        dtype: "f32",
        tokenizer,
        name: "demo cut",
      });
      assert.deepEqual(result.skipped, []);
      assert.deepEqual(await names(`${out}/${layout}`), ["model", "model.gguf"]);
      assert.deepEqual(result.loadableBy.map(({ file }) => file), [result.hf, result.gguf]);
      assert.equal(/trust_remote_code/.test(result.loadableBy[0]?.programs.join() ?? ""), layout === "compact");
      assert.equal(/deci/.test(result.loadableBy[1]?.programs.join() ?? ""), layout === "compact");
      for (const path of [result.hf ?? "", result.gguf ?? ""]) {
        const reopened = await openWeights(path);
        // One layer was left no heads and one no FFN: a GGUF needs one, and the norm before it.
        const { headDim } = spec, added = layout === "compact" && path === result.gguf ? 4 * headDim + 3 + 2 : 0;
        assert.equal(parameterCount(reopened.spec), result.parameters + added * reopened.spec.hidden);
        assertClose([await logitDistance(device, path, { expected: sliced, actual: reopened })], LOGIT_TOLERANCE);
      }
      const again = await loadHfTokenizer(result.hf ?? "");
      assert.deepEqual(again?.json, tokenizer.json);
      assert.deepEqual(again?.config, { ...tokenizer.config, model_input_names: ["input_ids", "attention_mask"] });
      assert.equal(again?.chatTemplate, tokenizer.chatTemplate);
      assert.ok("compresso_style" in (again?.config ?? {}));
    }
    const [line] = (await Deno.readTextFile(demoData("heldout"))).split("\n", 1);
    const again = await loadHfTokenizer(`${out}/compact/model`);
    assert.deepEqual(again?.encode(line ?? ""), tokenizer.encode(line ?? ""));
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("f16 and bf16 folders hold the rounded weights, and their config says so", async () => {
  const out = await Deno.makeTempDir();
  try {
    const source = await openSource("gqa_llama3");
    for (const [dtype, torch, relative] of [["f16", "float16", 2 ** -11], ["bf16", "bfloat16", 2 ** -8]] as const) {
      await exportHf(source, `${out}/${dtype}`, { dtype, tokenizer: null });
      const read = await openHfFolder(`${out}/${dtype}`);
      assert.deepEqual([read.config["dtype"], read.config["torch_dtype"]], [torch, torch]);
      const [ours, theirs] = [await read.read("model.norm.weight"), await source.read("model.norm.weight")];
      assert.equal(read.storedDtype("model.norm.weight"), dtype);
      ours.forEach((value, i) => {
        const exact = theirs[i] ?? NaN;
        assert.ok(Math.abs(value - exact) <= relative * Math.abs(exact), `${value} for ${exact}`);
      });
    }
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("nothing is left of a folder whose writing failed or was stopped", async () => {
  const out = await Deno.makeTempDir();
  try {
    const source = await openSource("gqa_f16");
    const controller = new AbortController();
    let reads = 0;
    const watched = (act: () => void): WeightSource => ({
      ...source,
      read(name, rows): Promise<Float32Array<ArrayBuffer>> {
        if (++reads === 5) act();
        return source.read(name, rows);
      },
    });
    const stopped = watched(() => controller.abort());
    const options = { dtype: "f32", tokenizer: null } as const;
    await assert.rejects(exportHf(stopped, `${out}/model`, { ...options, signal: controller.signal }), /abort/i);
    assert.equal(reads, 5);
    reads = 0;
    const failing = watched(() => {
      throw new Error("the disk is gone");
    });
    await assert.rejects(exportHf(failing, `${out}/model`, options), /the disk is gone/);
    assert.deepEqual(await names(out), []);

    await exportHf(source, `${out}/model`, options);
    await rejects(exportHf(source, `${out}/model`, options), "input", { value: 3 });
    reads = 0;
    await assert.rejects(exportHf(failing, `${out}/model`, { ...options, replace: true }), /the disk is gone/);
    assert.deepEqual(await names(out), ["model"]);
    await equalTensors(await openHfFolder(`${out}/model`), source);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("exportModel() refuses to overwrite, a layout that does not hold, and says why a format is skipped", async () => {
  const out = await Deno.makeTempDir();
  try {
    const source = await openSource("gqa_f16");
    const options = { dtype: "f32", tokenizer: null, name: "x" } as const;
    const cut = sliceModel(source, { masks: randomMasks(source.spec, { seed: 1, kinds: ["ffn"] }) });
    await rejects(exportModel(cut, out, { ...options, layout: "uniform" }), "usage", { names: ["KV", "FFN"] });
    assert.deepEqual(await names(out), []);
    await exportModel(source, out, { ...options, formats: ["gguf"] });
    await rejects(exportModel(source, out, options), "input", { names: "model.gguf" });
    assert.deepEqual(await names(out), ["model.gguf"], "refused before the folder was written");
    await exportModel(source, out, { ...options, replace: true });

    const factors = [1, 1, 2, 3, 4];
    const odd = {
      ...source,
      spec: { ...source.spec, rope: { base: 1e4, scaling: { kind: "factors", factors } } },
    } as const;
    const result = await exportModel(odd, `${out}/odd`, options);
    assert.deepEqual([result.hf, result.gguf], [null, `${out}/odd/model.gguf`]);
    checkRefusal(result.skipped[0]?.error, "input", { names: "GGUF" });
    await rejects(exportModel(odd, `${out}/odd2`, { ...options, formats: ["hf"] }), "input", { names: "GGUF" });
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("a GGUF of a model that chats has a Modelfile; only an export that replaces files changes or removes it", async () => {
  const out = await Deno.makeTempDir(), path = `${out}/Modelfile`;
  try {
    const { source } = await openModelFiles("demo"), dense = await loadHfTokenizer(await modelPath("demo"));
    assert.ok(dense);
    const chatTemplate = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}" +
      "{% if add_generation_prompt %}assistant: {% endif %}";
    const chatting = { ...dense, chatTemplate }, own = "FROM ./model.gguf\n";
    const write = async (tokenizer: typeof dense, replace = true): Promise<string | null> =>
      (await exportModel(source, out, { dtype: "f32", name: "x", formats: ["gguf"], tokenizer, replace })).modelfile;
    assert.equal(await write(dense), null);
    assert.deepEqual(await names(out), ["model.gguf"]);
    assert.equal(await write(chatting), path);
    assert.match(await Deno.readTextFile(path), /^FROM \.\/model\.gguf\nTEMPLATE /m);
    assert.equal(await write(dense), path, "the template of the model before is not that of this one");
    assert.doesNotMatch(await Deno.readTextFile(path), /TEMPLATE/);

    await Deno.remove(`${out}/model.gguf`);
    await Deno.writeTextFile(path, own);
    assert.equal(await write(chatting, false), null);
    assert.equal(await Deno.readTextFile(path), own);

    // No architecture of llama.cpp is for OPT.
    const opt = await openSource("opt"), options = { dtype: "f32", name: "x", tokenizer: null, replace: true } as const;
    const { modelfile, removed } = await exportModel(opt, out, options);
    assert.deepEqual([modelfile, removed], [null, [`${out}/model.gguf`, path]]);
    assert.deepEqual(await names(out), ["model"]);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("config.json has the class that loads the shape, and RoPE in both forms", async () => {
  const { spec } = await openSource("gqa_llama3");
  const shaped = (change: Partial<DecoderSpec>): Record<string, unknown> => ({
    ...hfConfig({ ...spec, ...change }, { dtype: "f16" }),
  });
  const llama = shaped({ eosIds: [2, 3], bosId: null });
  assert.deepEqual(
    [llama["model_type"], llama["architectures"], llama["head_dim"], llama["eos_token_id"], llama["bos_token_id"]],
    ["llama", ["LlamaForCausalLM"], 8, [2, 3], null],
  );
  const own = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 64,
  };
  assert.deepEqual(llama["rope_parameters"], { ...own, rope_theta: 10000 });
  assert.deepEqual([llama["rope_scaling"], llama["rope_theta"]], [own, 10000]);
  const mistral = shaped({ hidden: 47 });
  assert.deepEqual(
    [mistral["model_type"], mistral["architectures"], mistral["sliding_window"]],
    ["mistral", ["MistralForCausalLM"], null],
  );
  // Before 5.0.0, or without it, transformers 5 takes the tokenizers of large Mistrals for faulty ones.
  assert.equal(mistral["transformers_version"], "5.0.0");
  // transformers' Qwen2 takes any width of heads.
  for (const hidden of [48, 47]) {
    const qwen2 = shaped({ hidden, biases: ["q", "k", "v"] });
    assert.deepEqual(
      [qwen2["model_type"], qwen2["architectures"], qwen2["use_sliding_window"], "attention_bias" in qwen2],
      ["qwen2", ["Qwen2ForCausalLM"], false, false],
    );
  }
  const qwen3 = shaped({ hidden: 47, qkNorm: "head" });
  assert.deepEqual([qwen3["model_type"], qwen3["attention_bias"], "mlp_bias" in qwen3], ["qwen3", false, false]);
  // Its class has no biases of the FFN.
  assert.equal(shaped({ qkNorm: "head", biases: ["o", "down"] })["qk_norm"], "head");
  // One window for all layers, for some, several, and beside biases.
  const windows = (...of: readonly (number | undefined)[]): Partial<DecoderSpec> => ({
    layers: of.map((window) => withWindow({ heads: 6, kvHeads: 2, ffn: 7 }, window)),
  });
  const types = ["full_attention", "sliding_attention"], whole = shaped(windows(5, 5));
  assert.deepEqual([whole["model_type"], whole["sliding_window"], "layer_types" in whole], ["mistral", 5, false]);
  const some = shaped(windows(undefined, 5));
  assert.deepEqual([some["model_type"], some["architectures"], some["sliding_window"], some["layer_types"]], [
    "ministral",
    ["MinistralForCausalLM"],
    5,
    types,
  ]);
  const sliding = shaped({ ...windows(undefined, 5), biases: ["q", "k", "v"] });
  assert.deepEqual(
    [sliding["model_type"], sliding["use_sliding_window"], sliding["sliding_window"], sliding["layer_types"]],
    ["qwen2", true, 5, types],
  );
  for (const change of [windows(7, 5, undefined), { ...windows(7, 5, undefined), biases: PROJECTIONS }]) {
    const several = shaped(change);
    assert.deepEqual([several["model_type"], several["layer_windows"]], ["compresso", [7, 5, null]]);
    assert.ok(!("sliding_window" in several) && !("layer_types" in several));
  }
  const layers = [{ heads: 6, kvHeads: 2, ffn: 7 }, { heads: 0, kvHeads: 0, ffn: 9 }];
  const remote = shaped({ layers });
  assert.deepEqual([remote["model_type"], remote["intermediate_size"], remote["num_attention_heads"]], [
    "compresso",
    9,
    6,
  ]);
  assert.deepEqual(remote["layer_counts"], [
    { num_attention_heads: 6, num_key_value_heads: 2, intermediate_size: 7 },
    { num_attention_heads: 0, num_key_value_heads: 0, intermediate_size: 9 },
  ]);
  assert.ok("auto_map" in remote && !("auto_map" in llama));
});

Deno.test("RoPE factors of a GGUF are recognised as the llama3 setting that they came from", () => {
  for (const [factor, base, headDim] of [[8, 500000, 128], [32, 500000, 64]] as const) {
    const scaling = { kind: "llama3", factor, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPosition: 8192 } as const;
    const plain = ropeFrequencies({ headDim, rope: { base, scaling: { kind: "none" } } });
    const scaled = ropeFrequencies({ headDim, rope: { base, scaling } });
    const factors = Array.from(plain, (value, i) => Math.fround(value / (scaled[i] ?? NaN)));
    const config = ropeConfig({ headDim, maxPosition: 131072, rope: { base, scaling: { kind: "factors", factors } } });
    assert.deepEqual(config, ropeConfig({ headDim, maxPosition: 131072, rope: { base, scaling } }));
    const changed = factors.with(-1, 7);
    refuses(
      () =>
        ropeConfig({ headDim, maxPosition: 131072, rope: { base, scaling: { kind: "factors", factors: changed } } }),
      "input",
      { names: "GGUF" },
    );
  }
});

Deno.test("a tokenizer with a token beyond the embedding goes whole into the folder, and without that token into the GGUF", async () => {
  const out = await Deno.makeTempDir();
  try {
    const { source, tokenizer } = await openModelFiles("demo"), { vocab } = source.spec;
    assert.equal(tokenizer?.vocabSize, vocab);
    const pad = { id: vocab, content: "<more>", single_word: false, lstrip: false, rstrip: false, special: true };
    const { added_tokens: added } = tokenizer.json;
    const json = { ...tokenizer.json, added_tokens: [...Array.isArray(added) ? added : [], pad] };
    const larger = createTokenizer(json, { config: { ...tokenizer.config, pad_token: "<more>" } });
    assert.deepEqual([larger.vocabSize, larger.padId], [vocab + 1, vocab]);
    const { skipped } = await exportModel(source, out, { tokenizer: larger, dtype: "f32", name: "x" });
    assert.deepEqual(skipped, []);
    const folder = await openModelFiles(`${out}/model`), file = await openModelFiles(`${out}/model.gguf`);
    await equalTensors(folder.source, source);
    assert.deepEqual([folder.tokenizer?.vocabSize, folder.tokenizer?.padId], [vocab + 1, vocab]);
    assert.deepEqual([file.tokenizer?.vocabSize, file.tokenizer?.padId], [vocab, source.spec.padId]);
    const text = "Tom went to Rome.";
    assert.deepEqual(file.tokenizer?.encode(text), tokenizer.encode(text));
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("a tokenizer that had Python files of its own is written without them, as tokenizer.json says all", async () => {
  const out = await Deno.makeTempDir();
  try {
    const { source, tokenizer } = await openModelFiles("demo");
    assert.ok(tokenizer);
    const own = { auto_map: { AutoTokenizer: ["tokenization_x.XTokenizer", null] }, tokenizer_class: "XTokenizer" };
    const custom = createTokenizer(tokenizer.json, { config: { ...tokenizer.config, ...own } });
    await exportHf(source, `${out}/model`, { dtype: "f16", tokenizer: custom });
    const config = JSON.parse(await Deno.readTextFile(`${out}/model/tokenizer_config.json`));
    assert.deepEqual([config.auto_map, config.tokenizer_class], [undefined, "PreTrainedTokenizerFast"]);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("a folder of the demo keeps its tokenizer's ids and the model's end tokens", async () => {
  const out = await Deno.makeTempDir();
  try {
    const { source, tokenizer } = await openModelFiles(await modelPath("demo"));
    await exportHf(source, `${out}/model`, { dtype: "f16", tokenizer, generation: { temperature: 0.5 } });
    await equalTensors(await openHfFolder(`${out}/model`), source);
    assert.deepEqual(JSON.parse(await Deno.readTextFile(`${out}/model/generation_config.json`)), {
      eos_token_id: 1,
      pad_token_id: 0,
      temperature: 0.5,
    });
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});
