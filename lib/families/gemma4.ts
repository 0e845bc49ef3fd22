// Gemma 4, the dense text model of 31B: heads of two widths, a norm of v, a factor at the end of each layer, RoPE of a share of the frequencies.
import { z } from "../core/packages.ts";
import { isObject, type Json } from "../core/guards.ts";
import { type DecoderSpec, type LayerSpec } from "../spec/decoder.ts";
import { proportionalPairs } from "../spec/rope.ts";
import { type Config, family, type FamilyParts, type ReadContext, width } from "./family.ts";
import { alike, type Limit, ONE_WINDOW } from "./fit.ts";
import { caps, localWindows, OUTPUT_NORMS, scaledEmbedding } from "./gemma.ts";
import { f32, type GgufArch, type GgufKeys, type GgufParts, ZERO_KEYS } from "./gguf_arch.ts";
import { flag, GELU_TANH, isSameFactor, MOST_CAP, softCap, windowOf } from "./shared.ts";

/** Of as many layers the last has no window, where the configuration does not list them. */
const PERIOD = 6;
/** Width of a head in layers without a window, and in those with one. */
const HEAD = 512, LOCAL_HEAD = 256;

const KEYS = {
  local_head_dim: width,
  num_global_key_value_heads: width.nullish(),
  attention_bias: z.literal(false).nullish(),
  // Layers without a window may have no v: their keys are their values.
  attention_k_eq_v: flag,
  use_bidirectional_attention: z.literal("vision").nullish(),
  final_logit_softcapping: softCap,
  hidden_size_per_layer_input: z.int().nonnegative().nullish(),
  num_kv_shared_layers: z.int().nonnegative().nullish(),
  enable_moe_block: flag,
};

type Own = Config & z.infer<z.ZodObject<typeof KEYS>>;

/** Whether a layer has no window. The class gives the last layer none. */
function isGlobal({ layer_types: types, num_hidden_layers: count }: Json, index: number): boolean {
  if (index === Number(count) - 1) return true;
  return Array.isArray(types) ? types[index] === "full_attention" : (index + 1) % PERIOD === 0;
}

/**
 * Published configurations have `global_head_dim`, and `num_global_key_value_heads` that counts with `attention_k_eq_v`; those that transformers 5.24
 * writes say both by layer. A list of other layers, or of other keys, stays as it is and is refused.
 */
function inOneForm(json: Json): Json {
  const { per_layer_config: own, ...rest } = json, count = Number(json["num_hidden_layers"]);
  if (!isObject(own)) return json["attention_k_eq_v"] === true ? rest : { ...rest, num_global_key_value_heads: null };
  const layers = Array.from(
    { length: Number.isInteger(count) && count > 0 ? count : 0 },
    (_, index) => own[String(index)],
  );
  const [first] = layers.filter((layer) => layer !== undefined), shown = JSON.stringify(first);
  const isKnown = isObject(first) && Object.keys(own).every((key) => layers[Number(key)] !== undefined) &&
    Object.keys(first).every((key) => key === "head_dim" || key === "num_key_value_heads") &&
    layers.every((layer, index) => isGlobal(json, index) ? JSON.stringify(layer) === shown : layer === undefined);
  if (!isKnown) return json;
  const { head_dim: head = json["head_dim"], num_key_value_heads: kv = null } = first;
  return { ...rest, global_head_dim: head, num_global_key_value_heads: kv };
}

/** Refuses what other sizes have. */
function checkSize(config: Own, { fail, headDim }: ReadContext): void {
  const { hidden_size_per_layer_input: inputs, num_kv_shared_layers: shared, num_attention_heads: heads } = config;
  if (inputs) {
    fail("hidden_size_per_layer_input", "it is 0: the sizes with embeddings for each layer, E2B and E4B, are not read");
  }
  if (shared) fail("num_kv_shared_layers", "it is 0: layers that use the keys of others are not read");
  if (config.enable_moe_block) fail("enable_moe_block", "it is false: the size with experts is not read");
  if (headDim % 2 !== 0) fail("head_dim", "it is even");
  if (config.local_head_dim % 2 !== 0) fail("local_head_dim", "it is even");
  const kv = config.num_global_key_value_heads;
  if (kv && heads && heads % kv !== 0) fail("num_global_key_value_heads", `it divides num_attention_heads = ${heads}`);
}

/** The layers, whose numbers of KV heads differ. */
function countsOf(config: Own, { fail }: ReadContext): LayerSpec[] {
  const { num_attention_heads: heads, num_key_value_heads: kv, intermediate_size: ffn } = config;
  if (!heads || !kv || !ffn) return fail("num_attention_heads", "heads, KV heads and FFN columns are given");
  if (heads % kv !== 0) fail("num_key_value_heads", `it divides num_attention_heads = ${heads}`);
  return Array.from({ length: config.num_hidden_layers }, (_, index) => {
    return { heads, kvHeads: isGlobal(config, index) ? config.num_global_key_value_heads ?? kv : kv, ffn };
  });
}

const PARTS = { normPlaces: "both", qkNorm: "head", valueNorm: true } as const;
const HOLDS = {
  activation: ["gelu_tanh"],
  embeddingScale: true,
  attentionScale: true,
  normPlaces: ["both"],
  qkNorm: ["head"],
  valueNorm: ["set"],
  localHeads: ["set"],
  localRope: ["set"],
  windows: ONE_WINDOW,
  logitCap: true,
  scaling: ["none", "factors"],
} as const;

/** The first pairs of a head turn, the others do not. */
const proportional: Limit = (spec) =>
  proportionalPairs(spec) === null
    ? { rule: "needs RoPE that the first pairs of a head have as it is", value: "other factors" }
    : null;

/** The factor of q·k is 1. */
const unscaled: Limit = ({ scales, headDim }) =>
  isSameFactor(scales?.attention ?? headDim ** -0.5, 1)
    ? null
    : { rule: "needs the factor 1 of q·k", value: String(scales?.attention ?? headDim ** -0.5) };

/** The last layer has no window. */
const globalLast: Limit = ({ layers }) =>
  layers.at(-1)?.rope === "local" ? { rule: "needs a last layer without window", value: "one with a window" } : null;

const LOCAL_KEY = "attention.key_length_swa", LOCAL_VALUE_KEY = "attention.value_length_swa";
const LOCAL_DIMS_KEY = "rope.dimension_count_swa", CAP_KEY = "final_logit_softcapping";
const INPUTS_KEY = "embedding_length_per_layer_input", SHARED_KEY = "attention.shared_kv_layers";

/** The width of a head in layers with a window, which all three keys say. */
function localHeadDim(keys: GgufKeys): number {
  const dim = keys.decimal(LOCAL_KEY, 0);
  if (!Number.isInteger(dim) || dim < 2 || dim % 2 !== 0) {
    keys.fail(`${LOCAL_KEY} is an even number above 0`, String(dim));
  }
  for (const key of [LOCAL_VALUE_KEY, LOCAL_DIMS_KEY]) {
    const own = keys.decimal(key, dim);
    if (own !== dim) keys.fail(`${key} equals ${LOCAL_KEY}, ${dim}`, String(own));
  }
  return dim;
}

const ARCH: GgufArch = {
  arch: "gemma4",
  attentionScale: () => 1,
  divisors: true,
  valuesAreKeys: true,
  windows: { period: PERIOD, window: 0, hasLocalRope: true, isListed: true },
  zeroKeys: [...ZERO_KEYS, INPUTS_KEY, SHARED_KEY, "expert_count"],
  // A layer has one FFN column at least.
  uneven: (layers) => layers.map((layer) => ({ ...layer, ffn: Math.max(1, layer.ffn) })),
  holds: { ...HOLDS, layerScale: true },
  limits: [scaledEmbedding, localWindows],
  read(keys, { hidden }): GgufParts {
    const logits = keys.decimal(CAP_KEY, 0);
    if (logits > MOST_CAP) keys.fail(`${CAP_KEY} is at most ${MOST_CAP}`, String(logits));
    return {
      ...PARTS,
      activation: "gelu_tanh",
      localHeadDim: localHeadDim(keys),
      ...keys.hasTensor("blk.0.layer_output_scale.weight") ? { layerScale: true } : {},
      scales: { embedding: Math.sqrt(hidden), attention: 1 },
      softCaps: caps(0, logits),
    };
  },
  write: ({ headDim, localHeadDim: local = headDim, softCaps }) => ({
    [LOCAL_KEY]: local,
    [LOCAL_VALUE_KEY]: local,
    [LOCAL_DIMS_KEY]: local,
    [INPUTS_KEY]: 0,
    [SHARED_KEY]: 0,
    ...softCaps?.logits ? { [CAP_KEY]: f32(softCaps.logits) } : {},
  }),
};

/** KV heads of the layers of a kind. */
function kvHeadsOf({ layers }: DecoderSpec, isLocal: boolean): number | undefined {
  return layers.find(({ rope }) => (rope === "local") === isLocal)?.kvHeads;
}

/** The keys of the two kinds of layers. Where KV heads differ, only a list by layer says them of layers that have a v. */
function layerKeys(spec: DecoderSpec): Json {
  const { layers, headDim } = spec, global = kvHeadsOf(spec, false), local = kvHeadsOf(spec, true) ?? global;
  const own = { head_dim: headDim, num_key_value_heads: global };
  const entries = layers.flatMap(({ rope }, index) => rope === "local" ? [] : [[String(index), own] as const]);
  return {
    num_key_value_heads: local,
    num_global_key_value_heads: global,
    ...global === local ? {} : { per_layer_config: Object.fromEntries(entries) },
  };
}

/** Gemma 4, also the text part of one with images. */
export const GEMMA4 = family({
  type: "gemma4_text",
  label: "Gemma 4",
  about: "the dense text model (31B): heads of two widths, norms of each q, k and v head, a factor of each layer",
  architecture: "Gemma4ForCausalLM",
  wrappers: ["gemma4"],
  programs: "transformers 5",
  names: { hidden_act: "hidden_activation", head_dim: "global_head_dim", local_head_dim: "head_dim" },
  inOneForm,
  defaults: {
    head_dim: HEAD,
    local_head_dim: LOCAL_HEAD,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 30,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    vocab_size: 262144,
    max_position_embeddings: 131072,
    sliding_window: 512,
    hidden_size_per_layer_input: 256,
    tie_word_embeddings: true,
    rope_parameters: {
      full_attention: { rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1e6 },
      sliding_attention: { rope_type: "default", rope_theta: 1e4 },
    },
  },
  ids: { bos: 2, eos: 1, pad: 0 },
  activations: GELU_TANH,
  rope: { base: 1e6, localBase: 1e4, isProportional: true },
  keys: KEYS,
  read(config, context): FamilyParts {
    checkSize(config, context);
    return {
      ...PARTS,
      layerScale: true,
      localHeadDim: config.local_head_dim,
      scales: { embedding: Math.sqrt(config.hidden_size), attention: 1 },
      softCaps: caps(0, config.final_logit_softcapping),
      counts: countsOf(config, context),
      layer: (index) => isGlobal(config, index) ? {} : { window: config.sliding_window, rope: "local" },
    };
  },
  tensors: {
    renames: OUTPUT_NORMS,
    valuesAreKeys: (config, { rope }) => config["attention_k_eq_v"] === true && rope !== "local",
  },
  stock: {
    holds: { ...HOLDS, layerScale: ["set"] },
    limits: [alike, scaledEmbedding, unscaled, localWindows, proportional, globalLast],
    keys: (spec) => ({
      attention_bias: false,
      attention_k_eq_v: false,
      enable_moe_block: false,
      final_logit_softcapping: spec.softCaps?.logits ?? null,
      hidden_size_per_layer_input: 0,
      layer_types: spec.layers.map(({ rope }) => rope === "local" ? "sliding_attention" : "full_attention"),
      local_head_dim: spec.localHeadDim,
      num_kv_shared_layers: 0,
      sliding_window: windowOf(spec) ?? spec.maxPosition,
      use_double_wide_mlp: false,
      ...layerKeys(spec),
    }),
  },
  gguf: [ARCH],
});
