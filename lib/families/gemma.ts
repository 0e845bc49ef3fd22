// Gemma: GELU, a scaled embedding and norms that are stored without 1; from Gemma 2 on norms of outputs, soft caps and windows.
import { z } from "../core/packages.ts";
import type { DecoderSpec, LayerSpec } from "../spec/decoder.ts";
import { type Config, family, type Renames, slides } from "./family.ts";
import { alike, headsDivideHidden, type Limit, ONE_WINDOW, tied, UNSCALED_OR_LINEAR } from "./fit.ts";
import { f32, type GgufArch, type GgufBasis, type GgufParts, slidingPeriod } from "./gguf_arch.ts";
import { factor, GELU_TANH, isSameFactor, layerTypes, MOST_CAP, softCap, windowOf } from "./shared.ts";

/** Published configurations leave out most. */
const DEFAULTS = { head_dim: 256, tie_word_embeddings: true };
const IDS = { bos: 2, eos: 1, pad: 0 };
const ACTIVATION = { hidden_act: "hidden_activation" };
/** Of as many layers the last has no window. */
const GEMMA2_PERIOD = 2, GEMMA3_PERIOD = 6;

/** Names of the norms of a layer with norms of outputs. */
export const OUTPUT_NORMS: Renames = [
  [/\.post_attention_layernorm\./, ".pre_feedforward_layernorm."],
  [/\.post_self_attn_layernorm\./, ".post_attention_layernorm."],
  [/\.post_mlp_layernorm\./, ".post_feedforward_layernorm."],
];

const BIDIRECTIONAL = { use_bidirectional_attention: z.literal(false).nullish() };

/** What all of them hold. */
const GEMMA_HOLDS = { activation: ["gelu_tanh"], embeddingScale: true } as const;

/** The embedding has the factor √hidden. */
export const scaledEmbedding: Limit = ({ scales, hidden }) =>
  isSameFactor(scales?.embedding ?? 1, hidden ** 0.5)
    ? null
    : { rule: `needs the factor √${hidden} of the embedding`, value: String(scales?.embedding ?? 1) };

/** The factor of q·k is 1 / √s for a whole number s. */
const hasScalar: Limit = (spec) =>
  queryScalar(spec) === null
    ? { rule: "needs a factor of q·k that is 1 / √s for a whole number s", value: String(spec.scales?.attention) }
    : null;

/** `query_pre_attn_scalar`, the whole number s with the factor 1 / √s of q·k; null if there is none. */
function queryScalar({ headDim, scales }: DecoderSpec): number | null {
  if (scales?.attention === undefined) return headDim;
  const scalar = Math.round(scales.attention ** -2);
  return isSameFactor(scales.attention, scalar ** -0.5) ? scalar : null;
}

/** The window is that of the layers with a RoPE of their own. */
export const localWindows: Limit = ({ layers }) => {
  const local = layers.filter(({ rope }) => rope === "local");
  const isOther = layers.some(({ rope, window }) => rope !== "local" && window !== undefined);
  if (!isOther && new Set(local.map(({ window }) => window)).size <= 1) return null;
  return { rule: "needs one window, in the layers with a RoPE of their own", value: windowsShown(layers) };
};

function windowsShown(layers: readonly LayerSpec[]): string {
  return layers.map(({ rope, window }) => `${rope ?? "full"} ${window ?? "all"}`).join(", ");
}

/** Layers with a window are all but each n-th. */
const regularWindows: Limit = ({ layers }) =>
  slidingPeriod(layers, GEMMA2_PERIOD) === null
    ? { rule: "needs a window in all layers but each n-th", value: windowsShown(layers) }
    : null;

/** All layers except each n-th have a RoPE of their own. `usual` is the n of most models. */
export function regularLocals(usual: number): Limit {
  return ({ layers }) =>
    slidingPeriod(layers, usual) === null
      ? { rule: "needs a RoPE of their own in all layers but each n-th", value: windowsShown(layers) }
      : null;
}

/** The factor of the embedding follows from the hidden size. */
function scales({ hidden_size: hidden }: Config, headDim: number, scalar?: number | null): DecoderSpec["scales"] {
  return { embedding: Math.sqrt(hidden), ...scalar && scalar !== headDim ? { attention: scalar ** -0.5 } : {} };
}

/** Soft caps; 0 and null for none. */
export function caps(attention?: number | null, logits?: number | null): DecoderSpec["softCaps"] {
  if (!attention && !logits) return undefined;
  return { ...attention ? { attention } : {}, ...logits ? { logits } : {} };
}

/** Keys of soft caps in a GGUF, and llama.cpp's values of arch gemma2 without them. */
const SCORE_CAP_KEY = "attn_logit_softcapping", LOGIT_CAP_KEY = "final_logit_softcapping";
const SCORE_CAP = 50, LOGIT_CAP = 30;

/** llama.cpp's factor of q·k: another one in the largest model, which it knows by its number of layers. */
function scoreFactor(largest: number): (basis: GgufBasis) => number {
  return ({ headDim, hidden, layers }) => {
    const [first] = layers;
    return first && layers.length === largest ? Math.floor(hidden / first.heads) ** -0.5 : headDim ** -0.5;
  };
}

const FACTOR = scoreFactor(NaN), FACTOR2 = scoreFactor(46), FACTOR3 = scoreFactor(62);

function ggufScales({ hidden, headDim }: GgufBasis, attention: number): DecoderSpec["scales"] {
  return { embedding: Math.sqrt(hidden), ...attention === headDim ** -0.5 ? {} : { attention } };
}

const GGUF_HOLDS = { ...GEMMA_HOLDS, attentionScale: true, scaling: UNSCALED_OR_LINEAR } as const;

const GEMMA_ARCH: GgufArch = {
  arch: "gemma",
  attentionScale: FACTOR,
  holds: GGUF_HOLDS,
  limits: [scaledEmbedding, alike, tied],
  read: (_, basis) => ({ activation: "gelu_tanh", scales: ggufScales(basis, FACTOR(basis)) }),
};

const GEMMA2_ARCH: GgufArch = {
  arch: "gemma2",
  attentionScale: FACTOR2,
  windows: { period: GEMMA2_PERIOD, window: 4096 },
  holds: { ...GGUF_HOLDS, normPlaces: ["both"], windows: ONE_WINDOW, scoreCap: ["set"], logitCap: ["set"] },
  limits: [scaledEmbedding, alike, tied, regularWindows],
  read(keys, basis): GgufParts {
    const attention = keys.decimal(SCORE_CAP_KEY, SCORE_CAP), logits = keys.decimal(LOGIT_CAP_KEY, LOGIT_CAP);
    if (attention === 0 || logits === 0 || Math.max(attention, logits) > MOST_CAP) {
      keys.fail(`${SCORE_CAP_KEY} and ${LOGIT_CAP_KEY} are above 0 and at most ${MOST_CAP}`, `${attention}, ${logits}`);
    }
    return {
      activation: "gelu_tanh",
      normPlaces: "both",
      scales: ggufScales(basis, FACTOR2(basis)),
      softCaps: caps(attention, logits),
    };
  },
  write: ({ softCaps }) => ({
    ...softCaps?.attention ? { [SCORE_CAP_KEY]: f32(softCaps.attention) } : {},
    ...softCaps?.logits ? { [LOGIT_CAP_KEY]: f32(softCaps.logits) } : {},
  }),
};

const GEMMA3_ARCH: GgufArch = {
  arch: "gemma3",
  attentionScale: FACTOR3,
  windows: { period: GEMMA3_PERIOD, window: 0, hasLocalRope: true },
  holds: { ...GGUF_HOLDS, normPlaces: ["both"], qkNorm: ["head"], localRope: ["set"], windows: ONE_WINDOW },
  limits: [scaledEmbedding, alike, localWindows, regularLocals(GEMMA3_PERIOD)],
  read(keys, basis): GgufParts {
    const logits = keys.decimal(LOGIT_CAP_KEY, 0);
    if (logits > MOST_CAP) keys.fail(`${LOGIT_CAP_KEY} is at most ${MOST_CAP}`, String(logits));
    return {
      activation: "gelu_tanh",
      normPlaces: "both",
      qkNorm: "head",
      scales: ggufScales(basis, FACTOR3(basis)),
      softCaps: caps(0, logits),
    };
  },
};

/** Gemma. */
export const GEMMA = family({
  type: "gemma",
  label: "Gemma",
  about: "GELU, scaled embedding",
  architecture: "GemmaForCausalLM",
  defaults: { ...DEFAULTS, num_key_value_heads: 16, max_position_embeddings: 8192 },
  ids: IDS,
  // The first files say gelu and mean its tanh form, which transformers takes too.
  activations: { ...GELU_TANH, gelu: "gelu_tanh" },
  keys: BIDIRECTIONAL,
  read: (config, { headDim }) => ({ scales: scales(config, headDim) }),
  tensors: { normPlus: 1 },
  stock: {
    holds: { ...GEMMA_HOLDS, scaling: true, attentionScale: true },
    limits: [
      alike,
      scaledEmbedding,
      (spec) =>
        queryScalar(spec) === spec.headDim
          ? null
          : { rule: "needs the factor 1 / √head_dim of q·k", value: String(spec.scales?.attention) },
    ],
    // transformers 4 reads it here in all of them.
    keys: () => ({ attention_bias: false, hidden_activation: "gelu_pytorch_tanh" }),
  },
  gguf: [GEMMA_ARCH],
});

/** Keys of Gemma 2 and 3. */
function laterKeys(spec: DecoderSpec, types: readonly string[]): Record<string, unknown> {
  const { attention = null, logits = null } = spec.softCaps ?? {};
  return {
    attention_bias: false,
    query_pre_attn_scalar: queryScalar(spec),
    attn_logit_softcapping: attention,
    final_logit_softcapping: logits,
    sliding_window: windowOf(spec) ?? spec.maxPosition,
    layer_types: types,
  };
}

const LATER_DEFAULTS = {
  ...DEFAULTS,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  query_pre_attn_scalar: 256,
  sliding_window: 4096,
};
const LATER_HOLDS = {
  ...GEMMA_HOLDS,
  attentionScale: true,
  normPlaces: ["both"],
  logitCap: true,
  scaling: true,
  windows: ONE_WINDOW,
} as const;
const LATER_LIMITS = [alike, scaledEmbedding, hasScalar, headsDivideHidden];

/** Gemma 2. */
export const GEMMA2 = family({
  type: "gemma2",
  label: "Gemma 2",
  about: "norms of outputs too, soft caps, windows",
  architecture: "Gemma2ForCausalLM",
  names: ACTIVATION,
  defaults: {
    ...LATER_DEFAULTS,
    max_position_embeddings: 8192,
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
  },
  ids: IDS,
  activations: GELU_TANH,
  keys: {
    ...BIDIRECTIONAL,
    query_pre_attn_scalar: factor,
    attn_logit_softcapping: softCap,
    final_logit_softcapping: softCap,
  },
  read: (config, { headDim }) => ({
    normPlaces: "both",
    scales: scales(config, headDim, config.query_pre_attn_scalar),
    softCaps: caps(config.attn_logit_softcapping, config.final_logit_softcapping),
    layer: (index) => ({
      window: slides(config, index, (index + 1) % GEMMA2_PERIOD !== 0) ? config.sliding_window : null,
    }),
  }),
  tensors: { renames: OUTPUT_NORMS, normPlus: 1 },
  stock: {
    holds: { ...LATER_HOLDS, scoreCap: true },
    limits: LATER_LIMITS,
    keys: (spec) => laterKeys(spec, layerTypes(spec)),
  },
  gguf: [GEMMA2_ARCH],
});

/** Gemma 3, also the text part of one with images. */
export const GEMMA3 = family({
  type: "gemma3_text",
  label: "Gemma 3",
  about: "norms of outputs too, two RoPEs, windows",
  architecture: "Gemma3ForCausalLM",
  wrappers: ["gemma3"],
  names: ACTIVATION,
  defaults: { ...LATER_DEFAULTS, max_position_embeddings: 131072, vocab_size: 262208 },
  ids: IDS,
  activations: GELU_TANH,
  rope: { base: 1e6, localBase: 1e4 },
  keys: {
    query_pre_attn_scalar: factor,
    final_logit_softcapping: softCap,
    sliding_window_pattern: z.int().positive().nullish(),
    ...BIDIRECTIONAL,
  },
  read: (config, { headDim }) => ({
    normPlaces: "both",
    qkNorm: "head",
    scales: scales(config, headDim, config.query_pre_attn_scalar),
    softCaps: caps(0, config.final_logit_softcapping),
    layer: (index) => {
      const { sliding_window: window, sliding_window_pattern: period } = config;
      return slides(config, index, (index + 1) % (period ?? GEMMA3_PERIOD) !== 0) ? { window, rope: "local" } : {};
    },
  }),
  tensors: { renames: OUTPUT_NORMS, normPlus: 1 },
  stock: {
    holds: { ...LATER_HOLDS, qkNorm: ["head"], localRope: ["set"] },
    limits: [...LATER_LIMITS, localWindows],
    // Its layers with a window are those with the local RoPE, also where the context is no longer than the window.
    keys: (spec) =>
      laterKeys(spec, spec.layers.map(({ rope }) => rope === "local" ? "sliding_attention" : "full_attention")),
  },
  gguf: [GEMMA3_ARCH],
});
