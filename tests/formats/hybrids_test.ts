// Models with short convolutions in folders and GGUFs: what is written is read again, what is cut equals what is masked, and what is broken is refused.
import assert from "node:assert/strict";
import { loadModelFrom } from "../../lib/model/model.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { peftConfig } from "../../lib/formats/peft/config.ts";
import { padded, shallow, uniformMasks } from "../../lib/slice/layouts.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { verifySliced } from "../../lib/slice/verify.ts";
import {
  convName,
  type DecoderSpec,
  layersAlike,
  linearCount,
  parameterCount,
  tensorShapes,
} from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { hardSparsity, selectedSpec, selectUnits } from "../../lib/units/selection.ts";
import { selectionMasks, unitTable } from "../../lib/units/table.ts";
import { parameterTarget } from "../../lib/units/target_size.ts";
import {
  exportGguf,
  exportHf,
  openGguf,
  openGgufFile,
  openHfFolder,
  openSafetensors,
  writeGguf,
  writeSafetensors,
} from "../disk.ts";
import type { GgufTyped, GgufValue } from "../../lib/formats/gguf/types.ts";
import { sharedDevice } from "../device.ts";
import { assertClose, distance, HYBRID_NAMES, openGolden } from "../golden/helpers/golden.ts";
import { refuses, rejects } from "../refuses.ts";
import { someTokens } from "../run/helpers/reference.ts";
import { LOGIT_TOLERANCE, randomMasks } from "../slice/helpers.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights } from "./models.ts";

const OPTIONS = { dtype: "f32", name: "x", tokenizerMetadata: new Map() } as const;

async function sourceOf(name: string): Promise<WeightSource> {
  return await openHfFolder((await openGolden(name)).modelPath);
}

for (const name of HYBRID_NAMES) {
  Deno.test(`${name} is written as a folder of its class and read back, also padded; unlike layers are refused`, async () => {
    const source = await sourceOf(name), { spec } = source, columns = spec.layers[0]?.ffn ?? 0;
    const ffn = Float32Array.from(
      { length: spec.layers.length * columns },
      (_, at) => at < 3 || at % columns > 5 ? 1 : 0,
    );
    const uneven = sliceModel(source, { masks: { ffn } });
    assert.ok(!layersAlike(uneven.spec));
    await inTemporaryFolder(async (folder) => {
      for (const [nth, made] of [source, padded(uneven)].entries()) {
        const { form } = await exportHf(made, `${folder}/${nth}`, { dtype: "f32", tokenizer: null });
        assert.equal(form, "lfm2");
        const read = await openHfFolder(`${folder}/${nth}`);
        assert.deepEqual(read.spec, made.spec);
        await assertSameWeights(read, made);
        const rows = { start: 2, count: 7 }, taps = convName(spec.layers.findIndex(({ conv }) => conv), "taps");
        assert.deepEqual(
          await read.read(taps, rows),
          (await made.read(taps)).subarray(2 * length(spec), 9 * length(spec)),
        );
      }
      await rejects(exportHf(uneven, `${folder}/other`, { dtype: "f32", tokenizer: null }), "input");
    });
  });
}

function length({ convolution }: DecoderSpec): number {
  return convolution?.length ?? NaN;
}

Deno.test("a model whose heads fill the hidden dims is a GGUF of lfm2, and is read back from it", async () => {
  const source = await sourceOf("lfm2_long");
  await inTemporaryFolder(async (folder) => {
    const { arch } = await exportGguf(source, `${folder}/x.gguf`, OPTIONS);
    assert.equal(arch.arch, "lfm2");
    const read = await openGguf(`${folder}/x.gguf`);
    assert.deepEqual(read.spec, source.spec);
    await assertSameWeights(read, source);
    assert.deepEqual([...read.metadata.get("lfm2.attention.head_count_kv") as Int32Array], [1, 0, 1]);
    assert.equal(read.metadata.get("lfm2.attention.head_count"), 3);
    assert.equal(read.metadata.get("lfm2.shortconv.l_cache"), 5);
    assert.deepEqual(read.tensors.get("blk.1.shortconv.conv.weight")?.shape, [36, 5]);
    assert.ok(read.tensors.has("token_embd_norm.weight") && !read.tensors.has("output_norm.weight"));
    const quantised = await exportGguf(source, `${folder}/q.gguf`, { ...OPTIONS, dtype: "q8_0" });
    assert.ok(quantised.fellBack.includes("blk.1.shortconv.in_proj.weight"), "36 columns fill no blocks");
    assert.equal((await openGguf(`${folder}/q.gguf`)).tensors.get("blk.1.shortconv.conv.weight")?.type, "f32");
    // The heads of the other are wider together than the hidden dims, which llama.cpp does not have.
    await rejects(exportGguf(await sourceOf("lfm2"), `${folder}/y.gguf`, OPTIONS), "input", { value: "60" });
  });
});

Deno.test("a sliced model computes what the masked one does: with heads, columns, channels and whole convolutions cut", async () => {
  const source = await sourceOf("lfm2"), { spec } = source, device = await sharedDevice();
  using whole = await loadModelFrom(source, { device, baseDtype: "f32" });
  const tokens = someTokens(19, spec.vocab);
  for (const soft of [false, true]) {
    for (const kinds of [["ffn"], ["head"], ["hidden"], ["head", "ffn", "hidden"]] as const) {
      const masks = randomMasks(spec, { seed: 8, kinds, soft });
      const sliced = sliceModel(source, { masks });
      using model = await loadModelFrom(sliced, { device, baseDtype: "f32" });
      const wanted = await whole.logits(tokens, { masks });
      assertClose([distance(`${kinds} ${soft}`, await model.logits(tokens), wanted)], LOGIT_TOLERANCE);
      await verifySliced(source, sliced, { device, adapters: { masks }, tokens: [tokens, [5]], window: 8 });
    }
  }
  // The mask of the convolution of layer 2, between six heads and another convolution, and all columns of that layer.
  const head = Float32Array.of(1, 1, 1, 1, 1, 1, 1, 0, 1),
    ffn = new Float32Array(4 * 37).fill(1).fill(0, 2 * 37, 3 * 37);
  const sliced = sliceModel(source, { masks: { head, ffn } }), short = shallow(sliced);
  assert.deepEqual(sliced.spec.layers.map(({ conv, ffn }) => [conv ?? false, ffn]), [[true, 37], [false, 37], [
    false,
    0,
  ], [true, 37]]);
  assert.equal(short.spec.layers.length, 3);
  using model = await loadModelFrom(short, { device, baseDtype: "f32" });
  assertClose(
    [distance("shallow", await model.logits(tokens), await whole.logits(tokens, { masks: { head, ffn } }))],
    LOGIT_TOLERANCE,
  );
});

Deno.test("uniform masks cut the layers with attention alike, and columns of all layers, and keep convolutions", async () => {
  const { spec } = await sourceOf("lfm2_long"),
    two = { ...spec, layers: spec.layers.map((own) => own.conv ? own : { ...own, heads: 4, kvHeads: 2 }) };
  const scores = randomMasks(two, { seed: 4, kinds: ["head", "ffn", "hidden"], soft: true });
  const masks = uniformMasks(two, scores, { masks: {}, target: 0.3 });
  assert.equal(masks.head.length, 4 + 1 + 4);
  assert.equal(masks.head[4], 1);
  const count = (from: number): number => masks.head.subarray(from, from + 4).filter(Boolean).length;
  assert.ok(count(0) === count(5) && count(0) % 2 === 0, masks.head.join());
  const columns = spec.layers[0]?.ffn ?? 0;
  const kept = spec.layers.map((_, layer) =>
    masks.ffn.subarray(layer * columns, (layer + 1) * columns).filter(Boolean).length
  );
  assert.ok(new Set(kept).size === 1 && (kept[0] ?? 0) < columns, kept.join());
});

Deno.test("a table of units counts the weights of convolutions, which fall with hidden dims or with their layer", async () => {
  const { spec } = await sourceOf("lfm2"), table = unitTable(spec, ["kv", "ffn", "hidden"]);
  assert.equal(table.total, linearCount(spec));
  const linear = [...tensorShapes(spec)].filter(([name]) => /_proj\.weight$/.test(name));
  assert.equal(table.total, linear.reduce((sum, [, [rows = 0, columns = 0]]) => sum + rows * columns, 0));
  assert.equal(table.ranges.attention.end - table.ranges.attention.first, 2);
  // As counted by the shapes of the sliced model.
  const kept = selectUnits(table, Float64Array.from({ length: table.count }, (_, unit) => unit * 7919 % 101), {
    target: 0.4,
  });
  const sliced = sliceModel(await sourceOf("lfm2"), { masks: selectionMasks(table, kept) });
  assert.ok(sliced.spec.hidden < spec.hidden);
  const share = 1 - linearCount(sliced.spec) / linearCount(spec);
  assert.ok(Math.abs(hardSparsity(table, kept) - share) < 1e-12 && share >= 0.4, `${share}`);
  const size = parameterTarget(spec, 12_000), fitted = selectUnits(table, new Float64Array(table.count), { size });
  assert.ok(parameterCount({ ...spec, ...selectedSpec(table, fitted) }) <= 12_000);
  assert.equal(unitTable(spec, ["layers"]).ranges.layers.end, 4);
  refuses(() => unitTable(spec, ["hidden", "layers"]), "usage", { option: "units", value: ["hidden", "layers"] });
});

Deno.test("an adapter names the modules of attention and FFN so that PEFT finds no out_proj of a convolution", async () => {
  const { spec } = await sourceOf("lfm2"), { rank, alpha, targets } = await openGolden("lfm2");
  const { target_modules: names } = peftConfig({ rank, alpha, targets }, { spec, baseModel: null }) as {
    target_modules: readonly string[];
  };
  assert.equal(names.length, targets.length);
  assert.ok(names.includes("self_attn.out_proj") && names.includes("feed_forward.w2"), names.join());
});

const CONFIG = JSON.parse(await Deno.readTextFile(`${(await openGolden("lfm2")).modelPath}/config.json`));
const parse = (changes: Record<string, unknown>): DecoderSpec =>
  parseHfConfig({ ...CONFIG, ...changes }, { path: "config.json" });

Deno.test("configurations say FFN columns and layers in several ways", () => {
  const { layers, convolution } = parse({ layer_types: undefined, full_attn_idxs: [0, 2], conv_L_cache: undefined });
  assert.deepEqual(layers.map(({ conv }) => conv ?? false), [false, true, false, true]);
  assert.equal(convolution?.length, 3);
  assert.equal(parse({ layer_types: null, full_attn_idxs: null }).convolution, undefined);
  const columns = (changes: Record<string, unknown>): number | undefined => parse(changes).layers[0]?.ffn;
  assert.equal(columns({ block_auto_adjust_ff_dim: true, intermediate_size: 12288 }), 8192);
  assert.equal(columns({ block_auto_adjust_ff_dim: true, block_ff_dim: 6656 }), 4608);
  assert.equal(
    columns({
      block_auto_adjust_ff_dim: true,
      block_ff_dim: 100,
      block_ffn_dim_multiplier: 1.3,
      block_multiple_of: 10,
    }),
    90,
  );
  assert.equal(columns({ block_auto_adjust_ff_dim: true, block_ff_dim: 100, block_ffn_dim_multiplier: null }), 66);
  assert.equal(parse({ tie_embedding: false }).tied, false);
});

Deno.test("broken configurations are refused by the key that is wrong", () => {
  const cases: readonly (readonly [Record<string, unknown>, string, string])[] = [
    [{ layer_types: ["conv", "linear_attention", "conv", "conv"] }, "layer_types.1", "linear_attention"],
    [{ layer_types: ["conv", "full_attention", "conv"] }, "layer_types", "conv"],
    [{ conv_L_cache: 1 }, "conv_L_cache", "1"],
    [{ conv_L_cache: 65 }, "conv_L_cache", "65"],
    [{ conv_L_cache: 2.5 }, "conv_L_cache", "2.5"],
    [{ conv_bias: true }, "conv_bias", "true"],
    [{ full_attn_idxs: [-1] }, "full_attn_idxs.0", "-1"],
    [
      { intermediate_size: 1, block_auto_adjust_ff_dim: true, block_ffn_dim_multiplier: null },
      "block_ff_dim",
      "1",
    ],
  ];
  for (const [changes, key, value] of cases) refuses(() => parse(changes), "input", { names: key, value });
});

/** A copy of a folder with other tensors. */
async function changed(
  change: (tensors: Map<string, { shape: readonly number[]; data: Float32Array<ArrayBuffer> }>) => void,
  check: (folder: string) => Promise<void>,
): Promise<void> {
  const { modelPath } = await openGolden("lfm2"), file = await openSafetensors(`${modelPath}/model.safetensors`);
  const tensors = new Map();
  for (const [key, { shape }] of file.tensors) tensors.set(key, { shape, data: await file.read(key) });
  change(tensors);
  await inTemporaryFolder(async (folder) => {
    await Deno.copyFile(`${modelPath}/config.json`, `${folder}/config.json`);
    const items = [...tensors].map(([name, { shape, data }]) => ({
      name,
      shape,
      dtype: "F32" as const,
      data: () => data,
    }));
    await writeSafetensors(`${folder}/model.safetensors`, items);
    await check(folder);
  });
}

Deno.test("tensors of a convolution that are missing or have another shape are refused by name", async () => {
  const taps = "model.layers.2.conv.conv.weight", inner = "model.layers.0.conv.in_proj.weight";
  await changed((tensors) => tensors.delete(taps), async (folder) => {
    await rejects(openHfFolder(folder), "input", { names: taps });
  });
  await changed((tensors) => tensors.set(taps, { shape: [42, 3, 1], data: new Float32Array(126) }), async (folder) => {
    await rejects(openHfFolder(folder), "input", { names: taps, value: [42, 3, 1] });
  });
  await changed(
    (tensors) => tensors.set(inner, { shape: [84, 42], data: new Float32Array(84 * 42) }),
    async (folder) => {
      await rejects(openHfFolder(folder), "input", { names: inner, value: [84, 42] });
    },
  );
});

Deno.test("a GGUF with a wrong length of its convolutions, or without, is refused by the key", async () => {
  const source = await sourceOf("lfm2_long");
  await inTemporaryFolder(async (folder) => {
    await exportGguf(source, `${folder}/x.gguf`, OPTIONS);
    const file = await openGgufFile(`${folder}/x.gguf`);
    const cases: readonly (readonly [GgufValue | GgufTyped | null, string])[] = [[null, "not given"], [1, "1"], [
      65,
      "65",
    ]];
    for (const [value, shown] of cases) {
      const metadata = new Map<string, GgufValue | GgufTyped>(file.metadata), key = "lfm2.shortconv.l_cache";
      if (value === null) metadata.delete(key);
      else metadata.set(key, value);
      const tensors = await Promise.all([...file.tensors].map(async ([name, { shape }]) => {
        const data = await file.readTensor(name);
        return { name, type: "f32" as const, shape, data: () => data };
      }));
      await writeGguf(`${folder}/y.gguf`, { metadata, tensors });
      await rejects(openGguf(`${folder}/y.gguf`), "input", { names: key, value: shown });
    }
  });
});
