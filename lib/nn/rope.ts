// Rotary position embedding: the table of every scaling kind, and the dispatch that turns a buffer. Refuses positions outside the table.
import { ropeKernel } from "../../kernels/mod.ts";
import { CompressoError } from "../core/errors.ts";
import type { DeviceBuffer } from "../gpu/device.ts";
import { compileKernel, sourceOf } from "../gpu/kernel.ts";
import { f32, type Plan, u32 } from "../gpu/plan.ts";
import { headStride } from "./padding.ts";
import type { DecoderSpec } from "../spec/decoder.ts";

/** Angle per position of each of the headDim / 2 pairs, in radians, as Hugging Face transformers computes `inv_freq`. */
export function ropeFrequencies(spec: Pick<DecoderSpec, "headDim" | "rope">): Float64Array<ArrayBuffer> {
  const { headDim, rope: { base, scaling } } = spec;
  const half = headDim / 2;
  if (scaling.kind === "factors" && scaling.factors.length !== half) {
    throw new CompressoError("input", {
      what: "cannot use the RoPE factors",
      rule: `one factor for each of the headDim / 2 = ${half} frequencies`,
      value: `${scaling.factors.length} factors`,
      fix: "check rope_freqs.weight of the file",
    });
  }
  return Float64Array.from({ length: half }, (_, i) => {
    const frequency = base ** (-2 * i / headDim);
    switch (scaling.kind) {
      case "none":
        return frequency;
      case "linear":
        return frequency / scaling.factor;
      case "factors":
        return frequency / (scaling.factors[i] ?? 1);
      case "llama3": {
        // Wavelengths up to `short` stay, from `long` on they are stretched by the factor, in between the two are mixed.
        const { factor, lowFreqFactor, highFreqFactor, originalMaxPosition } = scaling;
        const wavelength = 2 * Math.PI / frequency;
        const long = originalMaxPosition / lowFreqFactor, short = originalMaxPosition / highFreqFactor;
        if (wavelength > long) return frequency / factor;
        if (wavelength < short) return frequency;
        const smooth = (originalMaxPosition / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
        return (1 - smooth) * frequency / factor + smooth * frequency;
      }
    }
  });
}

/** The (cos, sin) pairs [positions, headDim / 2, 2] of positions 0 … positions − 1, computed in f64. */
export function ropeTable(spec: Pick<DecoderSpec, "headDim" | "rope">, positions: number): Float32Array<ArrayBuffer> {
  const frequencies = ropeFrequencies(spec);
  const table = new Float32Array(positions * frequencies.length * 2);
  let at = 0;
  for (let position = 0; position < positions; position++) {
    for (const frequency of frequencies) {
      table[at++] = Math.cos(position * frequency);
      table[at++] = Math.sin(position * frequency);
    }
  }
  return table;
}

/** What {@link recordRope} turns. */
export interface RopeOptions {
  readonly rows: number;
  /** Tokens of one sequence: the position of row m is m % seq. */
  readonly seq: number;
  readonly heads: number;
  readonly headDim: number;
  /** Queries or keys [rows, stride] f32, changed in place. */
  readonly buffer: DeviceBuffer;
  /** f32 from one row to the next. */
  readonly stride: number;
  /** The table of {@link ropeTable}; positions past its end take its last row. */
  readonly cosSin: DeviceBuffer;
  /** Turns by −θ: the backward of RoPE. */
  readonly inverse?: boolean;
  /** One u32 that is added to every position. */
  readonly positionBuffer?: DeviceBuffer;
  /** The position of each row [rows] u32, in place of m % seq. */
  readonly positions?: DeviceBuffer;
}

/** Records the rotation of all heads of a q or k buffer in place ("rotate half": pairs (i, i + headDim / 2)). */
export function recordRope(plan: Plan, options: RopeOptions): void {
  const { rows, seq, heads, headDim, buffer, stride, cosSin, inverse = false } = options;
  const { positions, positionBuffer } = options, given = positions ?? positionBuffer;
  if (heads === 0 || rows === 0) return;
  const half = headDim / 2;
  const kernel = compileKernel(plan.device, sourceOf(ropeKernel, positions ? "rows" : given ? "offset" : "plain"));
  const params = [rows, seq, heads, half, headStride(headDim), stride, Math.floor(cosSin.bytes / (8 * half))].map(u32);
  const groups = Math.ceil(rows * half / 64), width = Math.min(groups, 32768);
  plan.dispatch(
    kernel,
    [cosSin, ...(given ? [given] : []), buffer, { params: [...params, f32(inverse ? -1 : 1)] }],
    { groups: [width, Math.ceil(groups / width)], cost: 20 * rows * half * heads },
  );
}
