// Rotary position embedding (Su et al. 2021): frequencies and tables of every scaling kind.
import { refuse } from "../core/errors.ts";
import { type DecoderSpec, ropeDims, type RopeScaling } from "./decoder.ts";

/**
 * Angle per position of each of the `ropeDims` / 2 pairs, in radians, computed like `inv_freq` in Hugging Face
 * transformers, for a sequence of `positions` tokens. Default: a sequence too short for LongRoPE's long factors.
 */
export function ropeFrequencies(
  spec: Pick<DecoderSpec, "headDim" | "rope">,
  positions = 0,
): Float64Array<ArrayBuffer> {
  const { rope: { base, scaling } } = spec, dims = ropeDims(spec), half = dims / 2;
  const factors = divisors(scaling, positions), ramp = scaling.kind === "yarn" ? yarnRamp(scaling, base, dims) : null;
  if (factors && factors.length !== half) {
    refuse("input", "cannot use the RoPE factors", {
      rule: `one factor for each of the ${half} frequencies, half of the dims that rotate`,
      value: `${factors.length} factors`,
    });
  }
  return Float64Array.from({ length: half }, (_, i) => {
    const frequency = base ** (-2 * i / dims);
    switch (scaling.kind) {
      case "none":
        return frequency;
      case "linear":
        return frequency / scaling.factor;
      case "factors":
      case "longrope":
        return frequency / (factors?.[i] ?? 1);
      case "yarn": {
        const share = ramp?.(i) ?? 0;
        return share * frequency / scaling.factor + (1 - share) * frequency;
      }
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

/** Divisor of frequencies that do not turn, as llama.cpp's files have it, and the least that is taken for one. */
const STILL = Math.fround(1e30), LEAST_STILL = 1e29;

/** Scaling of heads of which the first `turned` pairs turn as without it, and the others do not ("proportional" in transformers). */
export function proportionalScaling(headDim: number, turned: number): RopeScaling {
  const half = headDim / 2;
  return turned === half
    ? { kind: "none" }
    : { kind: "factors", factors: Array.from({ length: half }, (_, i) => i < turned ? 1 : STILL) };
}

/** The pairs that turn with {@link proportionalScaling}, all without a scaling; null with another one. */
export function proportionalPairs(
  { headDim, rope: { scaling } }: Pick<DecoderSpec, "headDim" | "rope">,
): number | null {
  if (scaling.kind === "none") return headDim / 2;
  if (scaling.kind !== "factors") return null;
  const first = scaling.factors.findIndex((factor) => factor !== 1), turned = first < 0 ? headDim / 2 : first;
  return scaling.factors.slice(turned).every((factor) => factor >= LEAST_STILL) ? turned : null;
}

/** The factor of cos and sin. */
export function ropeAttention({ scaling }: DecoderSpec["rope"]): number {
  return scaling.kind === "longrope" || scaling.kind === "yarn" ? scaling.attention : 1;
}

/** How much queries grow with the position, see `queryGrowth` of YaRN; undefined if they do not. */
export function queryGrowth({ scaling }: DecoderSpec["rope"]): number | undefined {
  return scaling.kind === "yarn" ? scaling.queryGrowth : undefined;
}

/** A further factor of the query of a position, in addition to {@link ropeAttention}. */
export function queryScale({ scaling }: DecoderSpec["rope"], position: number): number {
  if (scaling.kind !== "yarn" || scaling.queryGrowth === undefined) return 1;
  return 1 + scaling.queryGrowth * Math.log(1 + Math.floor(position / scaling.originalMaxPosition));
}

/** The share of the divided frequency in that of pair i: it grows from 0 to 1 between two whole pairs. */
function yarnRamp(
  { betaFast, betaSlow, originalMaxPosition }: Extract<RopeScaling, { kind: "yarn" }>,
  base: number,
  dims: number,
): (pair: number) => number {
  const pairOf = (turns: number): number =>
    dims * Math.log(originalMaxPosition / (turns * 2 * Math.PI)) / (2 * Math.log(base));
  const low = Math.max(0, Math.floor(pairOf(betaFast))), high = Math.min(dims - 1, Math.ceil(pairOf(betaSlow)));
  return (pair) => Math.min(1, Math.max(0, (pair - low) / Math.max(0.001, high - low)));
}

/** The divisors of the frequencies for a sequence of `positions` tokens; null for scaling by a rule. */
function divisors(scaling: RopeScaling, positions: number): readonly number[] | null {
  if (scaling.kind === "factors") return scaling.factors;
  if (scaling.kind !== "longrope") return null;
  return positions > scaling.originalMaxPosition ? scaling.long : scaling.short;
}

/** RoPE of the layers with `rope: "local"` in the place of the model's; undefined without `localBase`. */
export function localRope(
  { headDim, localHeadDim, rope: { localBase, scaling: _, ...rope } }: Pick<
    DecoderSpec,
    "headDim" | "localHeadDim" | "rope"
  >,
): Pick<DecoderSpec, "headDim" | "rope"> | undefined {
  if (localBase === undefined) return undefined;
  return { headDim: localHeadDim ?? headDim, rope: { ...rope, base: localBase, scaling: { kind: "none" } } };
}

/**
 * The (cos, sin) pairs [positions, `ropeDims` / 2, 2] of positions 0 … positions − 1, computed in f64. LongRoPE chooses
 * its factors by `positions`, as llama.cpp does by the size of its context. `of` is "q" for the table of queries, which differs from that of keys where
 * {@link queryGrowth} is given.
 */
export function ropeTable(
  spec: Pick<DecoderSpec, "headDim" | "rope">,
  positions: number,
  { of = "k" }: { readonly of?: "q" | "k" } = {},
): Float32Array<ArrayBuffer> {
  const frequencies = ropeFrequencies(spec, positions), attention = ropeAttention(spec.rope);
  const table = new Float32Array(positions * frequencies.length * 2);
  let at = 0;
  for (let position = 0; position < positions; position++) {
    const size = attention * (of === "q" ? queryScale(spec.rope, position) : 1);
    for (const frequency of frequencies) {
      table[at++] = size * Math.cos(position * frequency);
      table[at++] = size * Math.sin(position * frequency);
    }
  }
  return table;
}

/**
 * Index of a row of a q or k weight, or of a value of its bias, where RoPE turns value 2i of a head with 2i + 1: in the order here it turns value i
 * with i + dims / 2, for the `dims` first values of each head.
 */
export function neighbourRow(
  row: number,
  { headDim, dims }: { readonly headDim: number; readonly dims: number },
): number {
  const inHead = row % headDim, half = dims / 2;
  return inHead < dims ? row - inHead + 2 * (inHead % half) + Math.floor(inHead / half) : row;
}
