// Rotary position embedding (Su et al. 2021): frequencies and tables of every scaling kind.
import { CompressoError } from "../core/errors.ts";
import type { DecoderSpec } from "./decoder.ts";

/**
 * Angle per position of each of the headDim / 2 pairs, in radians, computed like `inv_freq` in Hugging Face
 * transformers.
 */
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
        // Wavelengths up to `short` are kept, those from `long` are scaled by the factor, and those in between are
        // interpolated.
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
