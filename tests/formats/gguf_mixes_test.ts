// Types of the tensors of a GGUF against those that llama.cpp's own quantiser gives (scripts/golden/gguf_mixes.py).
import assert from "node:assert/strict";
import { GGUF_WRITE_TYPES, type GgufWriteType, matrixTypes, typeLike } from "../../lib/formats/gguf/mixes.ts";
import { ggufArchOf } from "../../lib/families/all.ts";
import { fusedGgufName, fusedTensors } from "../../lib/formats/fused.ts";
import { ggufNames } from "../../lib/formats/gguf/names.ts";
import { openGguf } from "../disk.ts";
import { exportGguf } from "../disk.ts";
import { type DecoderSpec, POSITIONS, projectionName, tensorShapes } from "../../lib/spec/decoder.ts";
import { ggufDtypeFor } from "../../lib/slice/export_options.ts";
import { fileBytes } from "../../lib/units/file_size.ts";
import { fixture, inTemporaryFolder } from "./files.ts";
import { randomSource, SPEC } from "./models.ts";

/** Shape of a model, and for each type of a file the types of each part by layer, or one for all layers. */
interface Golden {
  readonly arch: string;
  readonly shape: Pick<DecoderSpec, "vocab" | "hidden" | "headDim" | "layers" | "tied">;
  readonly types: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>;
}

const GOLDEN: readonly Golden[] = JSON.parse(await Deno.readTextFile(fixture("gguf_mixes.json")));
const QUANTISED = GGUF_WRITE_TYPES.filter((dtype) => /^q/.test(dtype));

/** What tensors of an architecture have beyond those of a LLaMA. */
const PARTS: Readonly<Record<string, Partial<DecoderSpec>>> = {
  gpt2: { ungated: true, positions: { offset: 0 } },
  gptneox: { ungated: true },
};

for (const { arch, shape, types } of GOLDEN) {
  const spec: DecoderSpec = { ...SPEC, ...shape, ...PARTS[arch] }, shapes = tensorShapes(spec);
  const { fused: fusions = [] } = ggufArchOf(arch) ?? {};
  const fused = fusedTensors(spec, fusions), input = { shapes, fusesQkv: fusions.length > 0 };
  const what = `${arch}, ${shape.layers.length} layers, hidden ${shape.hidden}${shape.tied ? ", tied" : ""}`;
  Deno.test(`matrices have the types that llama.cpp gives them: ${what}`, () => {
    assert.deepEqual(Object.keys(types).toSorted(), QUANTISED.toSorted());
    const names = ggufNames(spec.layers.length);
    for (const dtype of QUANTISED) {
      const matrices = matrixTypes(dtype, spec, input);
      assert.equal(matrices.has(POSITIONS), false, "they are f32");
      for (const [canonical, { type }] of matrices) {
        const { name: own, part } = names.get(canonical) ?? { name: "" }, whole = fused.get(canonical);
        const name = whole ? fusedGgufName(whole) : own, found = types[dtype]?.[name.split(".").at(-2) ?? ""];
        assert.equal(type, found?.[found.length > 1 ? part?.layer ?? 0 : 0], `${name} of ${dtype}`);
      }
    }
  });

  Deno.test(`a GGUF is known by the types of its layers: ${what}`, () => {
    for (const dtype of QUANTISED) {
      const chosen = matrixTypes(dtype, spec, input);
      const stored = { spec, storedDtype: (name: string): string => chosen.get(name)?.type ?? "f32" };
      const found = typeLike(stored, shapes), again = matrixTypes(found ?? "f32", spec, input);
      // Types may give the same file, such as where few layers leave nothing to mix.
      for (const [name, { type }] of chosen) {
        if (/layers/.test(name)) assert.equal(again.get(name)?.type, type, `${name} of ${dtype}, taken for ${found}`);
      }
    }
  });
}

Deno.test("the type auto is that of a quantised GGUF, which is written with the same values again; of others f16", async () => {
  const layer = { heads: 4, kvHeads: 1, ffn: 256 }, layers = Array.from({ length: 8 }, () => layer);
  const spec: DecoderSpec = { ...SPEC, hidden: 256, headDim: 64, layers }, source = randomSource(spec);
  const shared = { tokenizerMetadata: new Map<string, never>(), name: "test" };
  assert.equal(ggufDtypeFor(source, { ggufDtype: "auto" }), "f16");
  assert.equal(ggufDtypeFor(source, { dtype: "f32" }), "f32");
  // Rows of a cut model that fill no blocks have a type without blocks in each mix.
  const uneven = { ...spec, layers: layers.map((own, index) => ({ ...own, ffn: 256 - 20 * (index % 2) })) };
  assert.equal(ggufDtypeFor({ ...randomSource(uneven), storedDtype: () => "f16" }, { ggufDtype: "auto" }), "f16");
  await inTemporaryFolder(async (folder) => {
    for (const dtype of ["q4_k_m", "q4_1", "bf16", "f32"] as const satisfies readonly GgufWriteType[]) {
      await exportGguf(source, `${folder}/a.gguf`, { dtype, ...shared });
      const read = await openGguf(`${folder}/a.gguf`);
      assert.equal(ggufDtypeFor(read, { ggufDtype: "auto" }), dtype === "f32" ? "f16" : dtype);
      assert.equal(ggufDtypeFor(read, { ggufDtype: "q5_k_s" }), "q5_k_s");
      const { size } = await Deno.stat(`${folder}/a.gguf`);
      assert.equal(fileBytes(spec, { format: "gguf", dtype }, { tokenizer: null, name: "test" }), size, dtype);
      if (dtype !== "q4_1") continue;
      await exportGguf(read, `${folder}/b.gguf`, { dtype, ...shared });
      const again = await openGguf(`${folder}/b.gguf`);
      const name = projectionName(3, "down");
      assert.deepEqual(await again.read(name), await read.read(name));
    }
  });
});
