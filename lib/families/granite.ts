// Granite: factors of the embedding, of q·k, of what layers add, and a divisor of the logits.
import type { Json } from "../core/guards.ts";
import { z } from "../core/packages.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { family, type FamilyParts } from "./family.ts";
import { alike } from "./fit.ts";
import { f32, type GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, factor, ffnBiases, flag } from "./shared.ts";

/** All factors of Granite. */
export const GRANITE_FACTORS = {
  embeddingScale: true,
  attentionScale: true,
  residualScale: true,
  logitScale: true,
} as const;
const BIASES = { attentionBiases: true, ffnBiases: true } as const;

/** 0 or no key stands for the usual factor. */
export const GRANITE_ARCH: GgufArch = {
  arch: "granite",
  neighbours: true,
  divisors: true,
  zeroKeys: ["attention.clamp_kqv"],
  holds: { ...GRANITE_FACTORS, ...BIASES, windows: true, scaling: true, fused: true },
  limits: [
    ({ scales }) => scales ? null : { rule: "needs factors", value: "no factors", fix: "take arch llama" },
    alike,
  ],
  read: (keys, { headDim }) => ({
    scales: {
      embedding: keys.decimal("embedding_scale", 0) || 1,
      attention: keys.decimal("attention.scale", 0) || headDim ** -0.5,
      residual: keys.decimal("residual_scale", 0) || 1,
      logits: keys.decimal("logit_scale", 0) || 1,
    },
  }),
  write: ({ headDim, scales = {} }) => ({
    "embedding_scale": f32(scales.embedding ?? 1),
    "attention.scale": f32(scales.attention ?? headDim ** -0.5),
    "residual_scale": f32(scales.residual ?? 1),
    "logit_scale": f32(scales.logits ?? 1),
  }),
};

/** Keys of the factors, with their schemas. */
export const FACTOR_KEYS = {
  embedding_multiplier: factor,
  attention_multiplier: factor,
  residual_multiplier: factor,
  logits_scaling: factor,
};

/** Keys of the factors and biases, with their schemas. */
export const GRANITE_KEYS = { attention_bias: flag, mlp_bias: flag, ...FACTOR_KEYS };

/** What classes of Granite hold. */
export const GRANITE_HOLDS = { ...GRANITE_FACTORS, ...BIASES, logitScale: ["set"], scaling: true } as const;

/** The factors of a configuration. */
export function factorsOf(config: z.infer<z.ZodObject<typeof FACTOR_KEYS>>): NonNullable<DecoderSpec["scales"]> {
  return {
    embedding: config.embedding_multiplier ?? 1,
    attention: config.attention_multiplier ?? 1,
    residual: config.residual_multiplier ?? 1,
    logits: config.logits_scaling ?? 1,
  };
}

/** The biases and factors of a configuration. */
export function graniteParts(
  config: z.infer<z.ZodObject<typeof GRANITE_KEYS>>,
): Pick<FamilyParts, "biases" | "scales"> {
  return { biases: [...attentionBiases(config), ...ffnBiases(config)], scales: factorsOf(config) };
}

/** The keys of factors. That of attention is always said, as the default there is 1. */
export function factorKeys({ scales, headDim }: DecoderSpec): Json {
  return {
    embedding_multiplier: scales?.embedding ?? 1,
    attention_multiplier: scales?.attention ?? headDim ** -0.5,
    residual_multiplier: scales?.residual ?? 1,
    logits_scaling: scales?.logits ?? 1,
  };
}

/** The keys of biases and factors. */
export function graniteKeys(spec: DecoderSpec): Json {
  return { ...biasKeys(spec), ...factorKeys(spec) };
}

/** Granite 3. */
export const GRANITE = family({
  type: "granite",
  label: "Granite",
  about: "factors of embedding, scores, layers, logits",
  architecture: "GraniteForCausalLM",
  keys: GRANITE_KEYS,
  read: graniteParts,
  stock: { holds: { ...GRANITE_HOLDS, fused: true }, limits: [alike], keys: graniteKeys },
  gguf: [GRANITE_ARCH],
});
