// Default multiples of widths: quantised matrices keep their type, and a file never becomes larger than it was.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { GGUF_WRITE_TYPES } from "../../lib/formats/gguf/mixes.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { fileBytes } from "../../lib/units/file_size.ts";
import { fittingWidths } from "../../lib/units/fitting_widths.ts";
import type { Layout } from "../../lib/units/layout.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import { selectedSpec } from "../../lib/units/selection.ts";
import { hardSelection } from "../../lib/masks/harden.ts";
import { tableOf } from "../../lib/units/uniform.ts";
import { decoder } from "./helpers/decoders.ts";

function shape(
  { heads, kvHeads = heads, ffn, headDim, hidden = heads * headDim, count = 3 }: {
    readonly heads: number;
    readonly kvHeads?: number;
    readonly ffn: number;
    readonly headDim: number;
    readonly hidden?: number;
    readonly count?: number;
  },
): DecoderSpec {
  const layers = Array.from({ length: count }, () => ({ heads, kvHeads, ffn }));
  return { ...decoder(layers), hidden, headDim, vocab: 500 };
}

/** Shapes of real models, with fewer layers: SmolLM2 135M, LLaMA 7B (narrower), a grouped one, and small ones. */
const SHAPES: Readonly<Record<string, DecoderSpec>> = {
  smol: shape({ heads: 9, kvHeads: 3, ffn: 1536, headDim: 64 }),
  single: shape({ heads: 8, ffn: 2816, headDim: 128 }),
  grouped: shape({ heads: 16, kvHeads: 4, ffn: 1280, headDim: 64, hidden: 768 }),
  odd: shape({ heads: 6, kvHeads: 2, ffn: 1376, headDim: 48 }),
  small: shape({ heads: 4, kvHeads: 2, ffn: 192, headDim: 32 }),
};
const UNITS: readonly (readonly UnitKind[])[] = [["kv", "ffn"], ["heads", "ffn"], ["kv", "ffn", "hidden"], ["ffn"], [
  "hidden",
]];
const content = { tokenizer: null, name: "model" };

Deno.test("a GGUF is never larger than its input at a positive sparsity, of whatever type", () => {
  let cases = 0;
  for (const [name, spec] of Object.entries(SHAPES)) {
    for (const dtype of GGUF_WRITE_TYPES) {
      const before = fileBytes(spec, { format: "gguf", dtype }, content);
      for (const units of UNITS) {
        // Heads of a group that are cut one by one leave heads of zeros in the file.
        if (units.includes("heads") && name !== "single") continue;
        for (const layout of ["compact", "uniform"] as const satisfies readonly Layout[]) {
          const table = tableOf(spec, { units, layout, rules: fittingWidths(spec, units, dtype) });
          const scores = Float32Array.from({ length: table.count }, (_, unit) => Math.sin(unit * unit));
          for (const target of [0.001, 0.02, 0.2]) {
            const kept = hardSelection(table, scores, { target, layout });
            const after = fileBytes(selectedSpec(table, kept), { format: "gguf", dtype }, content);
            assert.ok(after < before, `${name} ${dtype} ${units} ${layout} ${target}: ${before} → ${after}`);
            cases++;
          }
        }
      }
    }
  }
  assert.ok(cases > 1000, `${cases}`);
});

Deno.test("without whole blocks it would be larger", () => {
  const spec = SHAPES["single"] ?? shape({ heads: 8, ffn: 2816, headDim: 128 }), dtype = "q4_0";
  const table = tableOf(spec, { units: ["ffn"], layout: "compact", rules: {} });
  const kept = hardSelection(table, new Float32Array(table.count), { target: 0.001, layout: "compact" });
  const bytes = (of: DecoderSpec): number => fileBytes(of, { format: "gguf", dtype }, content);
  assert.ok(bytes(selectedSpec(table, kept)) > bytes(spec));
});

Deno.test("multiples are 32, 256 where a K-quant fits the model, and 1 where the model is small", () => {
  const of = (name: string, units: readonly UnitKind[], dtype: "f16" | "q4_0" | "q4_k_m"): unknown =>
    fittingWidths(SHAPES[name] ?? assert.fail(name), units, dtype);
  assert.deepEqual(of("smol", ["kv", "ffn"], "f16"), { align: 32 });
  assert.deepEqual(of("smol", ["kv", "ffn", "hidden"], "q4_0"), { align: 32 });
  // The hidden size of 576 is no multiple of 256, nor are its 9 heads of 64.
  assert.deepEqual(of("smol", ["kv", "ffn", "hidden"], "q4_k_m"), { align: 256, fit: { hidden: 32 } });
  assert.deepEqual(of("single", ["heads", "ffn"], "q4_k_m"), { align: 256, fit: { heads: 2 } });
  assert.deepEqual(of("single", ["heads", "ffn"], "q4_0"), { align: 32 });
  assert.deepEqual(of("small", ["kv", "ffn"], "f16"), {});
  assert.deepEqual(of("small", ["kv", "ffn"], "q4_0"), { align: 32 });
  // Two heads of 48 are three blocks of 32; a KV group of three heads and another one would be all of them.
  const rare = shape({ heads: 12, kvHeads: 12, ffn: 1376, headDim: 48 });
  assert.deepEqual(fittingWidths(rare, ["kv", "ffn"], "q4_0"), { align: 32, fit: { heads: 2 } });
  assert.deepEqual(of("odd", ["kv", "ffn"], "q4_0"), { align: 32 });
  assert.deepEqual(fittingWidths(shape({ heads: 2, ffn: 32, headDim: 16 }), ["ffn"], "q8_0"), {});
});

Deno.test("heads fall as many at once as keep whole blocks, down to their least number", () => {
  const spec = SHAPES["single"] ?? assert.fail(), units = ["heads"] as const;
  const table = tableOf(spec, { units, layout: "compact", rules: { fit: { heads: 2 }, minimum: { heads: 3 } } });
  const scores = Float32Array.from({ length: table.count }, (_, unit) => Math.sin(unit * unit));
  for (const target of [0.01, 0.05, 0.1]) {
    const kept = hardSelection(table, scores, { target, layout: "compact" });
    const { layers } = selectedSpec(table, kept), widths = layers.map(({ heads }) => heads);
    assert.ok(widths.some((width) => width < 8) && widths.every((width) => width % 2 === 0), `${widths}`);
  }
  const most = selectedSpec(table, hardSelection(table, scores, { target: 0.99, layout: "compact", isNearest: true }));
  assert.deepEqual(new Set(most.layers.map(({ heads }) => heads)), new Set([4]));
  assert.throws(() => tableOf(spec, { units, layout: "compact", rules: { fit: { heads: 0 } } }), CompressoError);
});
