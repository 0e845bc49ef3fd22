// RoPE settings as keys of config.json, in the forms of transformers 5 (rope_parameters) and 4 (rope_theta, rope_scaling).
import { refuse } from "../../core/errors.ts";
import type { RopeRules } from "../../families/family.ts";
import { longRopeAttention } from "./rope.ts";
import { proportionalPairs, ropeFrequencies } from "../../spec/rope.ts";
import type { DecoderSpec, RopeScaling } from "../../spec/decoder.ts";
import type { Json } from "../../core/guards.ts";

type Llama3 = Extract<RopeScaling, { kind: "llama3" }>;
type LongRope = Extract<RopeScaling, { kind: "longrope" }>;

/** The llama3 settings in use: Llama 3.1 and 3.3 (factor 8), Llama 3.2 (factor 32). */
const KNOWN: readonly Llama3[] = [8, 32].map((factor) => ({
  kind: "llama3",
  factor,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalMaxPosition: 8192,
}));

/** Factors of a GGUF are f32, computed in f32. */
const TOLERANCE = 1e-4;

/**
 * The keys of a model's RoPE. Where a family's layers with a window have a RoPE of their own, `rules` say it.
 *
 * @throws CompressoError("input") for factors of a GGUF that are those of no known llama3 setting.
 */
export function ropeConfig(
  spec: Pick<DecoderSpec, "headDim" | "rope" | "maxPosition">,
  rules: Pick<RopeRules, "localBase" | "isProportional"> = {},
): Json {
  const { base, dims, localBase = base } = spec.rope;
  const pairs = rules.isProportional && spec.rope.scaling.kind === "factors" ? proportionalPairs(spec) : null;
  const scaling = pairs === null ? named(spec) : { kind: "none" as const };
  const own = pairs === null ? scalingKeys(scaling, spec) : proportionalKeys(pairs, spec.headDim);
  const partial = dims === undefined ? {} : { partial_rotary_factor: partialFactor(dims, spec.headDim) };
  const parameters = { ...own, rope_theta: base, ...partial }, isLayered = rules.localBase !== undefined;
  const local = { rope_type: "default", rope_theta: localBase };
  return {
    rope_parameters: isLayered ? { full_attention: parameters, sliding_attention: local } : parameters,
    ...(scaling.kind === "none" ? {} : { rope_scaling: olderKeys(own) }),
    rope_theta: base,
    ...partial,
    // Phi-3's class reads it here.
    ...scaling.kind === "longrope" ? { original_max_position_embeddings: scaling.originalMaxPosition } : {},
    ...isLayered ? { rope_local_base_freq: localBase } : {},
  };
}

function proportionalKeys(pairs: number, headDim: number): Json {
  return { rope_type: "proportional", partial_rotary_factor: partialFactor(2 * pairs, headDim) };
}

/** The share of a head that rotates: transformers rounds headDim · share down to the dims. */
function partialFactor(dims: number, headDim: number): number {
  const share = dims / headDim;
  return Math.floor(headDim * share) === dims ? share : (dims + 0.5) / headDim;
}

function scalingKeys(
  scaling: Exclude<RopeScaling, { kind: "factors" }>,
  { maxPosition }: Pick<DecoderSpec, "maxPosition">,
): Json {
  switch (scaling.kind) {
    case "none":
      return { rope_type: "default" };
    case "linear":
      return { rope_type: "linear", factor: scaling.factor };
    case "llama3":
      return {
        rope_type: "llama3",
        factor: scaling.factor,
        low_freq_factor: scaling.lowFreqFactor,
        high_freq_factor: scaling.highFreqFactor,
        original_max_position_embeddings: scaling.originalMaxPosition,
      };
    case "yarn":
      return {
        rope_type: "yarn",
        factor: scaling.factor,
        beta_fast: scaling.betaFast,
        beta_slow: scaling.betaSlow,
        attention_factor: scaling.attention,
        original_max_position_embeddings: scaling.originalMaxPosition,
        ...scaling.queryGrowth === undefined ? {} : { llama_4_scaling_beta: scaling.queryGrowth },
      };
    case "longrope":
      return {
        rope_type: "longrope",
        short_factor: [...scaling.short],
        long_factor: [...scaling.long],
        ...isImplied(scaling, maxPosition) ? {} : { attention_factor: scaling.attention },
        original_max_position_embeddings: scaling.originalMaxPosition,
      };
  }
}

/** Whether transformers computes this factor from the two context lengths. */
function isImplied({ attention, originalMaxPosition }: LongRope, maxPosition: number): boolean {
  const implied = longRopeAttention(maxPosition / originalMaxPosition, originalMaxPosition);
  return Math.abs(attention - implied) < 1e-6;
}

/** The scaling as transformers 4 reads it: Phi-3's class takes three keys there, no more. */
function olderKeys(own: Json): Json {
  const { rope_type: type, original_max_position_embeddings: _, ...others } = own;
  return type === "longrope" ? { type, ...others } : own;
}

function named(spec: Pick<DecoderSpec, "headDim" | "rope">): Exclude<RopeScaling, { kind: "factors" }> {
  const { headDim, rope } = spec, { scaling } = rope;
  if (scaling.kind !== "factors") return scaling;
  const wanted = ropeFrequencies(spec);
  const candidates: Exclude<RopeScaling, { kind: "factors" }>[] = [
    { kind: "none" },
    { kind: "linear", factor: scaling.factors[0] ?? 1 },
    ...KNOWN,
  ];
  const found = candidates.find((candidate) => {
    const own = ropeFrequencies({ headDim, rope: { ...rope, scaling: candidate } });
    return own.every((frequency, i) => Math.abs(frequency / (wanted[i] ?? NaN) - 1) <= TOLERANCE);
  });
  if (found) return found;
  refuse("input", "cannot write this model's RoPE into a config.json", {
    rule:
      "the factors of its GGUF are those of Llama 3.1 (factor 8) or 3.2 (factor 32), with an original context of 8192",
    value: `${scaling.factors.slice(0, 4).map((factor) => factor.toPrecision(4)).join(", ")} … ${
      scaling.factors.at(-1)
    }`,
    fix: "export as GGUF",
  });
}
