// Cohere: attention and FFN read one LayerNorm without bias, RoPE turns neighbours, logits have a factor; in Cohere 2 only layers with a window have RoPE.
import { z } from "../core/packages.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { family, type FamilyParts, slides } from "./family.ts";
import { alike, headsFillHidden, type Limit, ONE_WINDOW, ropeWithinWindow, tied, UNSCALED_OR_LINEAR } from "./fit.ts";
import { f32, type GgufArch, slidingPeriod, ZERO_KEYS } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, factor, flag, windowOf } from "./shared.ts";

const PARTS = { norm: "layer_no_bias", parallel: "shared" } as const;
const HOLDS = { norm: ["layer_no_bias"], parallel: ["shared"], logitScale: true } as const;
const PERIOD = 4;

/** All layers except each n-th have the window. A model with RoPE everywhere and no window does not fit. */
const regular: Limit = ({ layers }) => {
  const isPlain = layers.every(({ window, rope }) => window === undefined && rope !== "none");
  if (!isPlain && slidingPeriod(layers, PERIOD) !== null) return null;
  return { rule: "needs a window in all layers but each n-th", value: isPlain ? "no window" : "others" };
};

/** llama.cpp has a factor of the logits, the spec a divisor. 0 stands for none. */
const ARCH: GgufArch = {
  arch: "command-r",
  layerNorm: true,
  neighbours: true,
  zeroKeys: ZERO_KEYS.filter((key) => key !== "logit_scale"),
  holds: { ...HOLDS, windows: true, scaling: UNSCALED_OR_LINEAR },
  limits: [alike, headsFillHidden, tied],
  read: (keys) => ({ ...PARTS, scales: { logits: 1 / (keys.decimal("logit_scale", 0) || 1) } }),
  write: ({ scales }) => ({ logit_scale: f32(1 / (scales?.logits ?? 1)) }),
};

const ARCH2: GgufArch = {
  ...ARCH,
  arch: "cohere2",
  windows: { period: PERIOD, window: 4096 },
  skipsRope: (_, slides) => !slides,
  holds: { ...HOLDS, windows: ONE_WINDOW, layerRope: true, scaling: UNSCALED_OR_LINEAR },
  limits: [alike, headsFillHidden, tied, ropeWithinWindow, regular],
};

const SHARED = {
  names: { rms_norm_eps: "layer_norm_eps" },
  defaults: {
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-5,
    logit_scale: 0.0625,
    tie_word_embeddings: true,
    sliding_window: 4096,
  },
  ids: { bos: 5, eos: 255001, pad: 0 },
  tensors: { neighbours: true },
} as const;

const KEYS = { attention_bias: flag, logit_scale: factor };

function keysOf(spec: DecoderSpec): Readonly<Record<string, unknown>> {
  return { attention_bias: biasKeys(spec).attention_bias, logit_scale: 1 / (spec.scales?.logits ?? 1) };
}

/** Command R, Aya. */
export const COHERE = family({
  ...SHARED,
  type: "cohere",
  label: "Cohere",
  about: "LayerNorm without bias, parallel",
  architecture: "CohereForCausalLM",
  rope: { base: 500_000 },
  keys: { ...KEYS, use_qk_norm: flag },
  read(config, { fail }): FamilyParts {
    if (config.use_qk_norm) fail("use_qk_norm", "it is false: norms of q and k of Command R+ are not supported");
    return { ...PARTS, scales: { logits: 1 / (config.logit_scale ?? 1) }, biases: attentionBiases(config) };
  },
  stock: {
    holds: { ...HOLDS, attentionBiases: true, scaling: true },
    limits: [alike],
    keys: (spec) => ({ ...keysOf(spec), use_qk_norm: false }),
  },
  gguf: [ARCH],
});

/** Command R7B, Command A. */
export const COHERE2 = family({
  ...SHARED,
  type: "cohere2",
  label: "Cohere 2",
  about: "the same, windows or no RoPE",
  architecture: "Cohere2ForCausalLM",
  keys: { ...KEYS, sliding_window_pattern: z.int().positive().nullish() },
  read: (config) => ({
    ...PARTS,
    scales: { logits: 1 / (config.logit_scale ?? 1) },
    biases: attentionBiases(config),
    layer: (index) =>
      slides(config, index, (index + 1) % (config.sliding_window_pattern ?? PERIOD) !== 0)
        ? { window: config.sliding_window }
        : { rope: "none" },
  }),
  stock: {
    holds: { ...HOLDS, attentionBiases: true, scaling: true, windows: ONE_WINDOW, layerRope: true },
    limits: [alike, ropeWithinWindow],
    keys: (spec) => ({
      ...keysOf(spec),
      sliding_window: windowOf(spec) ?? spec.maxPosition,
      layer_types: spec.layers.map(({ rope }) => rope === "none" ? "full_attention" : "sliding_attention"),
    }),
  },
  gguf: [ARCH2],
});
