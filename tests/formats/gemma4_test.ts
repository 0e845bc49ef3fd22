// Gemma 4: values that are keys, the forms of its configuration, its GGUF, and the sizes that are refused.
import assert from "node:assert/strict";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { uniformMasks } from "../../lib/slice/layouts.ts";
import { whyWhole } from "../../lib/units/fitting_kinds.ts";
import { unitTable } from "../../lib/units/table.ts";
import { exportGguf, exportHf, openGguf, openGgufFile, openHfFolder, writeGguf } from "../disk.ts";
import { openGolden } from "../golden/helpers/golden.ts";
import { refuses, rejects } from "../refuses.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights } from "./models.ts";

const { modelPath } = await openGolden("gemma4"), source = await openHfFolder(modelPath), { spec } = source;
const CONFIG = JSON.parse(await Deno.readTextFile(`${modelPath}/config.json`));
const OPTIONS = { dtype: "f32", name: "x", tokenizerMetadata: new Map() } as const;
const parse = (keys: object, without: readonly string[] = []): DecoderSpec => {
  const config = { ...CONFIG, ...keys };
  for (const key of without) delete config[key];
  return parseHfConfig(config, { path: "config.json" });
};

Deno.test("layers without v have the values of their keys, where the configuration says so", async () => {
  const of = (layer: number, one: "k" | "v"): string => `model.layers.${layer}.self_attn.${one}_proj.weight`;
  assert.deepEqual(await source.read(of(1, "v")), await source.read(of(1, "k")));
  assert.notDeepEqual(await source.read(of(0, "v")), await source.read(of(0, "k")));
  assert.deepEqual(
    await source.read(of(3, "v"), { start: 3, count: 2 }),
    (await source.read(of(3, "k"))).subarray(3 * 42, 5 * 42),
  );
  await inTemporaryFolder(async (folder) => {
    await Deno.copyFile(`${modelPath}/model.safetensors`, `${folder}/model.safetensors`);
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify({ ...CONFIG, attention_k_eq_v: false }));
    await rejects(openHfFolder(folder), "input", { value: "no such tensor" });
  });
});

Deno.test("both forms of the configuration give the same model", () => {
  const form = { global_head_dim: 10, num_global_key_value_heads: 2 }, without = ["per_layer_config"];
  assert.deepEqual(parse(form, without), spec);
  // Numbers of KV heads count where keys are values alone.
  const alike = parse({ ...form, attention_k_eq_v: false }, without);
  assert.deepEqual(alike.layers.map(({ kvHeads }) => kvHeads), [3, 3, 3, 3]);
  assert.deepEqual([alike.headDim, alike.localHeadDim], [10, 6]);
  assert.deepEqual(parse({}, ["layer_types", "per_layer_config"]).layers.map(({ rope }) => rope), [
    ...["local", "local", "local", undefined],
  ]);
  const wrapped = { model_type: "gemma4", text_config: CONFIG, vision_config: {} };
  assert.deepEqual(parseHfConfig(wrapped, { path: "config.json" }), spec);
});

Deno.test("what other sizes have is refused by its key", () => {
  for (
    const [keys, value] of [
      [{ hidden_size_per_layer_input: 256 }, "hidden_size_per_layer_input"],
      [{ num_kv_shared_layers: 2 }, "num_kv_shared_layers"],
      [{ enable_moe_block: true }, "enable_moe_block"],
      [{ num_experts: 8 }, "num_experts"],
      [{ attention_bias: true }, "attention_bias"],
      [{ use_bidirectional_attention: "all" }, "use_bidirectional_attention"],
      [{ per_layer_config: { 0: { head_dim: 10 } } }, "per_layer_config"],
      [{ per_layer_config: { 1: { head_dim: 10 }, 3: { head_dim: 12 } } }, "per_layer_config"],
      [{ per_layer_config: { 1: { head_dim: 7 }, 3: { head_dim: 7 } } }, "global_head_dim"],
      [{ head_dim: 5 }, "head_dim"],
      [{ num_key_value_heads: 4 }, "num_key_value_heads"],
    ] as const
  ) refuses(() => parse(keys), "input", { value });
  refuses(() => parse({}, ["hidden_size_per_layer_input"]), "input", { value: "hidden_size_per_layer_input" });
});

Deno.test("its GGUF is read back, also without the values that are keys", async () => {
  await inTemporaryFolder(async (folder) => {
    const { arch } = await exportGguf(source, `${folder}/x.gguf`, OPTIONS);
    assert.equal(arch.arch, "gemma4");
    const read = await openGguf(`${folder}/x.gguf`);
    assert.deepEqual(read.spec, spec);
    await assertSameWeights(read, source);
    assert.deepEqual(read.metadata.get("gemma4.attention.sliding_window_pattern"), [true, false, true, false]);
    assert.deepEqual([...read.metadata.get("gemma4.attention.head_count_kv") as Int32Array], [3, 2, 3, 2]);
    assert.deepEqual(
      ["key_length", "key_length_swa"].map((key) => read.metadata.get(`gemma4.attention.${key}`)),
      [10, 6],
    );
    const file = await openGgufFile(`${folder}/x.gguf`);
    const write = async (without: string, keys: Readonly<Record<string, number>> = {}): Promise<void> => {
      const kept = [...file.tensors].filter(([name]) => name !== without);
      const tensors = await Promise.all(kept.map(async ([name, { shape }]) => {
        const data = await file.readTensor(name);
        return { name, type: "f32" as const, shape, data: () => data };
      }));
      await writeGguf(`${folder}/y.gguf`, { metadata: new Map([...file.metadata, ...Object.entries(keys)]), tensors });
    };
    await write("blk.3.attn_v.weight");
    await assertSameWeights(await openGguf(`${folder}/y.gguf`), source);
    await write("", { "gemma4.attention.value_length_swa": 8 });
    await rejects(openGguf(`${folder}/y.gguf`), "input", { names: "attention.value_length_swa", value: "8" });
    await write("", { "gemma4.attention.shared_kv_layers": 1 });
    await rejects(openGguf(`${folder}/y.gguf`), "input", { names: "gemma4.attention.shared_kv_layers" });
  });
});

Deno.test("a folder of its class has a v in all layers, and KV heads by layer", async () => {
  await inTemporaryFolder(async (folder) => {
    await exportHf(source, folder, { dtype: "f32", tokenizer: null, replace: true });
    const config = JSON.parse(await Deno.readTextFile(`${folder}/config.json`));
    assert.deepEqual([config.head_dim, config.global_head_dim, config.attention_k_eq_v], [6, 10, false]);
    const own = { head_dim: 10, num_key_value_heads: 2 };
    assert.deepEqual(config.per_layer_config, { 1: own, 3: own });
    assert.deepEqual((await openHfFolder(folder)).spec, spec);
  });
});

Deno.test("heads of two widths and layers with a factor stay whole, columns and hidden dims can be cut", () => {
  for (const kind of ["heads", "kv", "attention", "layers"] as const) {
    assert.ok(whyWhole(kind, spec, "compact"), kind);
    refuses(() => unitTable(spec, [kind]), "usage");
  }
  refuses(() => uniformMasks(spec, {}, { masks: {} }), "usage", { value: "two widths" });
  const table = unitTable(spec, ["ffn", "hidden"]);
  assert.equal(table.count, 4 * 61 + 42);
});
