// Matrices that files hold as one, row after row: which projections they are, and where each lies.
import { biasName, type DecoderSpec, hasBias, projectionName, projectionShape } from "../spec/decoder.ts";
import type { Fusion } from "../families/fusion.ts";
import type { RowRange } from "../spec/source.ts";

/** A stored matrix, or the stored biases, of several projections. */
export interface FusedTensor {
  readonly layer: number;
  readonly fusion: Fusion;
  readonly kind: "weight" | "bias";
  readonly shape: readonly number[];
  /** The canonical tensors in it, and the rows of each. */
  readonly parts: readonly { readonly name: string; readonly rows: RowRange }[];
}

/** The fused tensor of each canonical tensor that is stored in one. Layers without the projections add no entry. */
export function fusedTensors(spec: DecoderSpec, fusions: readonly Fusion[]): Map<string, FusedTensor> {
  const found = new Map<string, FusedTensor>();
  for (const [index, layer] of spec.layers.entries()) {
    for (const fusion of fusions) {
      for (const kind of ["weight", "bias"] as const) {
        const nameOf = kind === "weight" ? projectionName : biasName;
        const those = kind === "weight" ? fusion.parts : fusion.parts.filter((part) => hasBias(spec, part));
        if (those.length === 0) continue;
        let start = 0;
        const parts = those.map((part) => {
          const [count] = projectionShape(spec, layer, part), rows = { start, count };
          start += count;
          return { name: nameOf(index, part), rows };
        });
        if (start === 0) continue;
        const shape = kind === "weight" ? [start, spec.hidden] : [start];
        for (const { name } of parts) found.set(name, { layer: index, fusion, kind, shape, parts });
      }
    }
  }
  return found;
}

/** Rows of a part of a stored tensor as rows of that tensor. */
export function rowsWithin(part: RowRange, rows: RowRange | undefined): RowRange {
  return rows ? { start: part.start + rows.start, count: rows.count } : part;
}

/** The values of tensors one after another. */
export function joined(parts: readonly Float32Array[]): Float32Array<ArrayBuffer> {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Name of a fused tensor in a folder of Hugging Face. */
export function fusedModuleName({ layer, fusion, kind }: Pick<FusedTensor, "layer" | "fusion" | "kind">): string {
  const [first = "q"] = fusion.parts;
  return projectionName(layer, first).replace(/\w+_proj\.weight$/, `${fusion.module}.${kind}`);
}

/** Name of a fused tensor in a GGUF. */
export function fusedGgufName({ layer, fusion, kind }: Pick<FusedTensor, "layer" | "fusion" | "kind">): string {
  return `blk.${layer}.${fusion.gguf}.${kind}`;
}
