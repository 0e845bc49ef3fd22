// Biases of models that are cut: they follow their rows, and outlive the part they belong to.
import assert from "node:assert/strict";
import { exportModel } from "../../mod.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import type { MaskValues } from "../../lib/nn/mask_slots.ts";
import {
  biasName,
  type DecoderSpec,
  FINAL_NORM,
  type Projection,
  projectionName,
  PROJECTIONS,
} from "../../lib/spec/decoder.ts";
import { padded } from "../../lib/slice/layouts.ts";
import { remapSource } from "../../lib/slice/remap.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { verifySliced } from "../../lib/slice/verify.ts";
import { assertClose } from "../golden/helpers/golden.ts";
import { fixture, inTemporaryFolder } from "../formats/files.ts";
import {
  LOGIT_TOLERANCE,
  logitDistance,
  openSource,
  randomLora,
  randomMasks,
  randomSource,
  someTokens,
  tampered,
} from "./helpers.ts";
import { sharedDevice } from "../device.ts";
import { rejects } from "../refuses.ts";

const LAYERS = 4;

async function specWith(biases: readonly Projection[]): Promise<DecoderSpec> {
  const { spec } = await openSource("gqa_llama3"), [layer] = spec.layers;
  assert.ok(layer);
  return { ...spec, layers: Array.from({ length: LAYERS }, () => layer), biases };
}

/** Masks that cut whole parts, and in what is left some dims and units softly. */
function without(spec: DecoderSpec, heads: readonly number[], ffn: readonly number[]): MaskValues {
  const soft = randomMasks(spec, { seed: 9, kinds: ["head", "ffn", "hidden"], soft: true });
  const cut = (values: Float32Array | undefined, key: "heads" | "ffn", layers: readonly number[]): Float32Array =>
    Float32Array.from(spec.layers.flatMap((layer, i) => {
      const own = values?.subarray(i * layer[key], (i + 1) * layer[key]) ?? [];
      return layers.includes(i) ? Array.from(own, () => 0) : [...own];
    }));
  return { ...soft, head: cut(soft.head, "heads", heads), ffn: cut(soft.ffn, "ffn", ffn) };
}

for (const biases of [PROJECTIONS, ["o"], ["down"], ["o", "down"], ["q", "k", "v"]] as const) {
  Deno.test(`parts that are cut whole leave their output's bias, with biases of ${biases.join(", ")}`, async () => {
    const device = await sharedDevice();
    const spec = await specWith(biases), source = randomSource(spec);
    const cases: readonly (readonly [readonly number[], readonly number[]])[] = [
      [[2], []],
      [[], [1, 3]],
      [[1, 2], [0, 1]], // three writes in a row go: their biases gather at the first one
      [[0], [2]],
      [[0, 1], [0, 3]],
      [[0, 1, 2, 3], [0, 1, 2, 3]],
    ];
    for (const [heads, ffn] of cases) {
      const masks = without(spec, heads, ffn), lora = randomLora(spec, { seed: 4 });
      const sliced = sliceModel(source, { masks, lora });
      const name = `no heads in [${heads}], no FFN in [${ffn}]`;
      // Before the first write that is left there is nowhere to go.
      const has = (part: Projection): boolean => biases.some((projection) => projection === part);
      const isGone = heads.includes(0) && ffn.includes(0);
      const keepsHead = heads.includes(0) && !isGone && has("o"), keepsColumn = isGone && (has("o") || has("down"));
      assert.deepEqual(
        sliced.spec.layers.map((layer) => [layer.heads > 0, layer.ffn > 0]),
        spec.layers.map((_, i) => [
          !heads.includes(i) || (i === 0 && keepsHead),
          !ffn.includes(i) || (i === 0 && keepsColumn),
        ]),
        name,
      );
      for (const actual of [sliced, padded(sliced)]) {
        assertClose(
          [await logitDistance(device, name, { expected: source, adapters: { masks, lora }, actual })],
          LOGIT_TOLERANCE,
        );
      }
    }
  });
}

Deno.test("verifySliced() agrees where biases moved to other layers", async () => {
  const device = await sharedDevice();
  const spec = await specWith(["o", "down"]), source = randomSource(spec);
  const masks = without(spec, [1, 2], [0, 1]), sliced = sliceModel(source, { masks });
  const compared = { device, adapters: { masks }, tokens: [someTokens(spec)] };
  const { maxAbs, range } = await verifySliced(source, sliced, compared);
  assert.ok(maxAbs <= LOGIT_TOLERANCE * range, `${maxAbs} of ${range}`);
  // Biases that the masked model adds only later are no fault.
  for (const [tensor, place] of [[FINAL_NORM, "final norm"], [projectionName(3, "v"), "output of layer 3"]] as const) {
    const broken = tampered(sliced, tensor, (values) => values.forEach((value, i) => values[i] = value * 1.05));
    await rejects(verifySliced(source, broken, compared), "mismatch", { value: place });
  }
});

Deno.test("without a bias of the kind that is cut, the biases stay those of the base", async () => {
  const spec = await specWith(["q", "down"]), source = randomSource(spec);
  const sliced = sliceModel(source, { masks: { head: without(spec, [1, 2], []).head ?? new Float32Array() } });
  assert.deepEqual(sliced.spec.biases, ["q", "down"]);
  assert.equal(sliced.storedDtype(biasName(0, "down")), "f32");
  assert.deepEqual(await sliced.read(biasName(1, "down")), await source.read(biasName(1, "down")));
});

Deno.test("a head or column of zeros that holds a bias has no weights", async () => {
  const spec = await specWith(["o"]);
  for (
    const { ffn, left, counts } of [
      { ffn: [], left: ["q", "k", "v", "o"], counts: [1, 1] },
      { ffn: [0], left: ["gate", "up", "down"], counts: [0, 0] },
    ] as const
  ) {
    const sliced = sliceModel(randomSource(spec), { masks: without(spec, [0], ffn) }), [first] = sliced.spec.layers;
    assert.deepEqual([first?.heads, first?.kvHeads], counts);
    assert.equal(first?.ffn === 1, ffn.length > 0);
    for (const projection of left) {
      assert.ok((await sliced.read(projectionName(0, projection))).every((value) => value === 0), projection);
    }
  }
});

Deno.test("remapSource() adds tensors before it picks and scales rows", async () => {
  const spec = await specWith(["o", "down"]), source = randomSource(spec);
  const names = [biasName(0, "o"), biasName(2, "o"), biasName(1, "down")];
  const [a = [], b = [], c = []] = await Promise.all(names.map((name) => source.read(name)));
  const [from = "", ...plus] = names;
  const made = remapSource(source, { ...spec, hidden: 2 }, () => ({
    from,
    plus,
    rows: Int32Array.of(7, 3),
    rowScale: Float64Array.of(1, 0.5),
  }));
  const sum = (i: number): number => Math.fround(Math.fround((a[i] ?? 0) + (b[i] ?? 0)) + (c[i] ?? 0));
  assert.deepEqual([...await made.read(from)], [sum(7), sum(3) / 2]);
  assert.equal(made.storedDtype(from), "f32");
});

Deno.test("a GGUF whose first layer gets a head of zeros with biases says which programs take so few of them", async () => {
  const { source, tokenizer } = await openModelFiles(fixture("demo_qwen2")), { layers } = source.spec;
  const heads = layers.flatMap(({ heads }, layer) => new Array<number>(heads).fill(layer === 0 ? 0 : 1));
  const cut = sliceModel(source, { masks: { head: Float32Array.from(heads) } });
  await inTemporaryFolder(async (folder) => {
    const programsOf = async (model: WeightSource, name: string): Promise<string> => {
      const how = { tokenizer, name, formats: ["gguf"] } as const;
      return (await exportModel(model, `${folder}/${name}`, how)).loadableBy.flatMap(({ programs }) => programs).join();
    };
    assert.doesNotMatch(await programsOf(source, "whole"), /21245/);
    assert.match(await programsOf(cut, "cut"), /since its pull request 21245/);
  });
});
