// Apertus: the curve of each layer in folders and GGUFs, in cuts of every layout, in sizes, and where it is broken.
import assert from "node:assert/strict";
import { ggufFileBytes } from "../../lib/formats/gguf/export.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { padded, shallow } from "../../lib/slice/layouts.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { curveName, parameterCount, tensorShapes } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { byteMeasure } from "../../lib/units/file_size.ts";
import { parameterMeasure } from "../../lib/units/target_size.ts";
import { hfWeightBytes } from "../../lib/formats/hf/export.ts";
import type { GgufTyped, GgufValue } from "../../lib/formats/gguf/types.ts";
import { sharedDevice } from "../device.ts";
import { exportGguf, openGguf, openHfFolder, writeGguf } from "../disk.ts";
import { assertClose, distance, openGolden } from "../golden/helpers/golden.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { inTemporaryFolder } from "./files.ts";

const TOKENS = [3, 9, 20, 44, 5, 60, 1, 33, 12];
const GGUF = { dtype: "f32", name: "x", tokenizerMetadata: new Map() } as const;
const source = await openHfFolder((await openGolden("apertus")).modelPath), { spec } = source;
const [{ heads, ffn: width } = assert.fail()] = spec.layers;

type Masks = Record<"head" | "ffn", Float32Array>;

function masksOf(keeps: Record<"head" | "ffn", (layer: number, at: number) => boolean>): Masks {
  const of = (kind: "head" | "ffn", count: number): Float32Array =>
    Float32Array.from(
      spec.layers.flatMap((_, layer) => Array.from({ length: count }, (_, at) => keeps[kind](layer, at) ? 1 : 0)),
    );
  return { head: of("head", heads), ffn: of("ffn", width) };
}

const CUTS: Readonly<Record<string, Masks>> = {
  "some columns": masksOf({ head: () => true, ffn: (_, at) => at % 3 > 0 }),
  "the FFN of the first layer": masksOf({ head: () => true, ffn: (layer) => layer > 0 }),
  "the first layer": masksOf({ head: (layer) => layer > 0, ffn: (layer) => layer > 0 }),
};

async function logitsOf(of: WeightSource, masks?: Masks): Promise<Float32Array> {
  using model = await loadModelFrom(of, { device: await sharedDevice(), baseDtype: "f32" });
  return await model.logits(TOKENS, masks ? { masks } : {});
}

for (const [name, masks] of Object.entries(CUTS)) {
  Deno.test(`apertus without ${name} computes what its masks do, compact, shallow and padded`, async () => {
    const wanted = await logitsOf(source, masks), compact = sliceModel(source, { masks });
    for (const [layout, made] of Object.entries({ compact, shallow: shallow(compact), padded: padded(compact) })) {
      assertClose([distance(layout, await logitsOf(made), wanted)], 1e-5);
    }
  });

  Deno.test(`the sizes of apertus without ${name} count the curves that are left`, async () => {
    const made = shallow(sliceModel(source, { masks })), { spec } = made;
    const sizeOf = ({ layer, rest }: ReturnType<typeof parameterMeasure>): number =>
      spec.layers.reduce((sum, own) => sum + layer(own, spec.hidden), rest(spec.hidden));
    assert.equal(sizeOf(parameterMeasure(spec)), parameterCount(spec));
    const values = [...tensorShapes(spec).values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
    assert.equal(sizeOf(byteMeasure(spec, { format: "hf", dtype: "f32" })), 4 * values);
    assert.ok(hfWeightBytes(spec, { dtype: "f32" }) > 4 * values);
    if (spec.layers.some(({ ffn }) => ffn === 0)) return;
    await inTemporaryFolder(async (folder) => {
      await exportGguf(made, `${folder}/a.gguf`, GGUF);
      assert.equal((await Deno.stat(`${folder}/a.gguf`)).size, ggufFileBytes(spec, GGUF));
    });
  });
}

/** Changes of the header of a GGUF, and what is refused of them. */
const BROKEN: readonly (readonly [string, (metadata: Map<string, GgufValue | GgufTyped>) => void, Refusal])[] = [
  ["no list", (metadata) => metadata.delete("xielu.beta"), { names: ["xielu.beta", 2] }],
  ["a short list", (metadata) => metadata.set("xielu.alpha_n", Float32Array.of(1)), { names: ["xielu.alpha_n", 2] }],
  ["a text", (metadata) => metadata.set("xielu.eps", "small"), { names: ["xielu.eps", 2] }],
  [
    "a number that is not finite",
    (metadata) => metadata.set("xielu.alpha_p", Float32Array.of(1, Infinity)),
    { names: ["xielu.alpha_p", 2] },
  ],
];

Deno.test("a GGUF has a list for each part of the curves, where a number stands for all layers; others are refused", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a.gguf`;
    await exportGguf(source, path, GGUF);
    const { metadata, tensors } = await openGguf(path), whole = await openGguf(path);
    const items = [...tensors.values()].map(({ name, shape }) => ({
      name,
      shape,
      type: "f32" as const,
      data: () => new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1),
    }));
    assert.deepEqual(
      await whole.read(curveName(1, "alpha_p")),
      await source.read(curveName(1, "alpha_p")),
    );
    assert.equal(whole.storedDtype(curveName(0, "beta")), "f32");
    assert.equal(await whole.readStored?.(curveName(0, "beta")), null);
    const changed = async (change: (own: Map<string, GgufValue | GgufTyped>) => void): Promise<string> => {
      const own = new Map<string, GgufValue | GgufTyped>(metadata);
      change(own);
      await writeGguf(`${folder}/b.gguf`, { metadata: own, tensors: items });
      return `${folder}/b.gguf`;
    };
    const single = await changed((own) => own.set("xielu.eps", { type: "f32", value: -0.5 }));
    for (const layer of [0, 1]) {
      assert.deepEqual(await (await openGguf(single)).read(curveName(layer, "eps")), Float32Array.of(-0.5));
    }
    for (const [, change, refusal] of BROKEN) await rejects(openGguf(await changed(change)), "input", refusal);
  });
});
