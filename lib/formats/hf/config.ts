// config.json of a Hugging Face folder as a DecoderSpec.
import { z } from "../../core/packages.ts";
import {
  type Activation,
  type DecoderSpec,
  type LayerSpec,
  type Projection,
  QWEN2_BIASES,
  withBiases,
  withWindow,
} from "../../spec/decoder.ts";
import { shownJson } from "../../core/text.ts";
import { asText, isObject, type Json } from "../../core/guards.ts";
import { ownKey, withLlamaKeys } from "./keys.ts";
import { GIVE_FAMILY, MODEL_TYPES, textConfig } from "../families.ts";
import { refusal, valueAt } from "./refusal.ts";
import { layeredRope, ropeOf } from "./rope.ts";
import { layerHasRope, slidingLayers, WINDOW_KEYS, windowsIn } from "./windows.ts";

const count = z.int().positive();
/**
 * Far more than any model has: planning takes time and memory for each layer and each unit, and none of these sizes is checked by a tensor then.
 * Llama 3.1 405B has 126 layers of 128 heads and 53,248 columns.
 */
const MOST_LAYERS = 1024, MOST_TOKENS = 2 ** 24, MOST_WIDTH = 2 ** 20, MOST_UNITS = 2 ** 23;
const width = count.max(MOST_WIDTH);
const tokenId = z.int().nullish();
const tokenIds = z.union([z.int(), z.array(z.int())], { error: "expected a token id or a list of them" }).nullish();

/** Keys that a `compresso` alone has: other families have without saying it what they say. */
const OWN_KEYS = {
  qk_norm: z.enum(["head", "whole", "layer"]).nullish(),
  fused: z.boolean().nullish(),
  norm: z.literal("layer").nullish(),
  norm_places: z.enum(["both", "after", "residual"]).nullish(),
  embedding_width: width.nullish(),
  ungated_mlp: z.literal(true).nullish(),
  parallel: z.enum(["own", "shared"]).nullish(),
  head_bias: z.literal(true).nullish(),
  position_offset: z.int().nonnegative().nullish(),
  embedding_scale: z.number().positive().nullish(),
  attention_scale: z.number().positive().nullish(),
  local_rope_theta: z.number().positive().nullish(),
  layer_ropes: z.array(z.enum(["local", "none"]).nullable()).nullish(),
  layer_counts: z.array(z.object({
    num_attention_heads: z.int().nonnegative().max(MOST_WIDTH),
    num_key_value_heads: z.int().nonnegative().max(MOST_WIDTH),
    intermediate_size: z.int().nonnegative().max(MOST_WIDTH),
  })).nullish(),
};

/** Activations by their names in transformers. */
const HF_ACTIVATIONS = {
  silu: "silu",
  relu: "relu",
  gelu: "gelu",
  gelu_new: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
} as const satisfies Record<string, Activation>;

/** The activations that are supported of each model type that has not silu, its default first. */
const ACTIVATIONS: Readonly<Record<string, readonly [Activation, ...Activation[]]>> = {
  gemma: ["gelu_tanh"],
  gemma2: ["gelu_tanh"],
  gemma3_text: ["gelu_tanh"],
  opt: ["relu"],
  gpt2: ["gelu_tanh", "gelu", "relu"],
  gpt_neox: ["gelu", "gelu_tanh", "relu"],
  phi: ["gelu_tanh", "gelu", "relu"],
};

const CONFIG = z.looseObject({
  model_type: z.enum(MODEL_TYPES),
  vocab_size: count.max(MOST_TOKENS),
  hidden_size: width,
  num_hidden_layers: count.max(MOST_LAYERS),
  intermediate_size: width.nullish(),
  num_attention_heads: width.nullish(),
  num_key_value_heads: width.nullish(),
  head_dim: width.nullish(),
  hidden_act: z.enum(Object.keys(HF_ACTIVATIONS) as (keyof typeof HF_ACTIVATIONS)[]).nullish(),
  max_position_embeddings: count.nullish(),
  rms_norm_eps: z.number().positive().nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  ...OWN_KEYS,
  // Of Granite; the last two of compresso too.
  embedding_multiplier: z.number().positive().nullish(),
  attention_multiplier: z.number().positive().nullish(),
  residual_multiplier: z.number().positive().nullish(),
  logits_scaling: z.number().positive().nullish(),
  // Of Gemma.
  query_pre_attn_scalar: z.number().positive().nullish(),
  use_bidirectional_attention: z.literal(false).nullish(),
  // Of Gemma and of compresso.
  attn_logit_softcapping: z.number().positive().nullish(),
  final_logit_softcapping: z.number().positive().nullish(),
  // Of GPT-2.
  scale_attn_weights: z.literal(true).nullish(),
  scale_attn_by_inverse_layer_idx: z.literal(false).nullish(),
  add_cross_attention: z.literal(false).nullish(),
  // Of GPT-NeoX, StableLM and Phi.
  use_parallel_residual: z.boolean().nullish(),
  use_qkv_bias: z.boolean().nullish(),
  qk_layernorm: z.boolean().nullish(),
  // Of OPT.
  enable_bias: z.boolean().nullish(),
  do_layer_norm_before: z.boolean().nullish(),
  layer_norm_elementwise_affine: z.boolean().nullish(),
  _remove_final_layer_norm: z.boolean().nullish(),
  word_embed_proj_dim: width.nullish(),
  ...WINDOW_KEYS,
  quantization_config: z.null().optional(),
  // Of transformers 5: layers that differ, which its stock classes do not load.
  per_layer_config: z.null().optional(),
  bos_token_id: tokenId,
  eos_token_id: tokenIds,
  pad_token_id: tokenId,
});

const GENERATION = z.looseObject({ bos_token_id: tokenId, eos_token_id: tokenIds, pad_token_id: tokenId });

type Config = z.infer<typeof CONFIG>;

/** What the two files say, as parsed JSON; `path` is named in errors. */
export interface HfConfigFiles {
  readonly path: string;
  /** generation_config.json, where there is one: its end tokens are added to those of config.json; its other tokens are used where config.json names none. */
  readonly generation?: unknown;
}

/**
 * Reads a parsed config.json of one of {@link MODEL_TYPES}.
 *
 * @throws CompressoError("input") naming the key, its value and the rule where the model is none that a {@link DecoderSpec} describes.
 */
export function parseHfConfig(whole: unknown, files: HfConfigFiles): DecoderSpec {
  const json = withDefaults(textConfig(whole, files.path)), given = isObject(json) ? withLlamaKeys(json) : json;
  const config = validated(CONFIG, given, files.path);
  const generationPath = `${files.path} (generation_config.json)`;
  const generation = validated(GENERATION, files.generation ?? {}, generationPath);
  const fail = (llamaKey: string, rule: string, fix?: string): never => {
    const key = ownKey(config.model_type, llamaKey);
    throw refusal(files.path, { key, rule, value: shownJson(valueAt(json, [key])), fix });
  };
  const family = familyOf(config, fail);
  // transformers' own defaults, for keys that old files leave out.
  const isImplied = !DERIVED.includes(config.model_type),
    isQwen = config.model_type === "qwen2" || config.model_type === "qwen3";
  const maxPosition = config.max_position_embeddings ?? MAX_POSITIONS[config.model_type];
  const windows = windowsIn(config, maxPosition, fail);
  const headDim = (isImplied ? config.head_dim : null) ??
    (config.model_type === "qwen3" ? QWEN3_HEAD_DIM : impliedHeadDim(config, fail));
  const isGemma3 = config.model_type === "gemma3_text";
  const qkNorm = config.model_type === "qwen3" || isGemma3
    ? "head"
    : config.model_type === "olmo2"
    ? "whole"
    : config.model_type === "stablelm" && config.qk_layernorm
    ? "layer"
    : config.qk_norm;
  const ropeContext = { maxPosition, headDim, path: files.path };
  const ropes = ropesOf(config, fail);
  if (headDim % 2 !== 0) fail("head_dim", "it is even");
  const ids = (value: number | number[] | null | undefined): number[] => [value ?? []].flat();
  const has = (key: string): boolean => valueAt(given, [key]) !== undefined;
  const eosIds = new Set([
    ...has("eos_token_id") ? ids(config.eos_token_id) : isQwen ? [] : [LAST_IDS[config.model_type] ?? 2],
    ...ids(generation.eos_token_id),
  ]);
  const hasRow = (id: number): boolean => id >= 0 && id < config.vocab_size;
  const rule = `token ids lie from 0 to vocab_size − 1 = ${config.vocab_size - 1}`;
  // An id that only generation_config.json has, and that has no row, is ignored.
  const other = (id: number | null | undefined): number | null => hasRow(id ?? -1) ? id ?? null : null;
  const isOpt = config.model_type === "opt",
    implied = has("bos_token_id") || isQwen || config.model_type === "olmo2" ? null : FIRST_IDS[config.model_type] ?? 1;
  const bosId = config.bos_token_id ?? other(generation.bos_token_id) ?? implied;
  const padId = config.pad_token_id ?? other(generation.pad_token_id) ?? (isOpt && !has("pad_token_id") ? 1 : null);
  const inVocab = (key: string, id: number): void => {
    if (!hasRow(id)) fail(key, rule);
  };
  for (const id of ids(generation.eos_token_id)) {
    if (!hasRow(id)) {
      throw refusal(generationPath, { key: "eos_token_id", rule, value: String(id), fix: "remove it there" });
    }
  }
  for (const id of eosIds) inVocab("eos_token_id", id);
  if (bosId !== null) inVocab("bos_token_id", bosId);
  // LLaMA 1 says "no padding" with −1.
  if (padId !== null && padId !== -1) inVocab("pad_token_id", padId);
  return withBiases({
    vocab: config.vocab_size,
    hidden: config.hidden_size,
    headDim,
    layers: withinUnits(layersOf(config, fail), fail).map((layer, index) => ({
      ...withWindow(layer, windows[index]),
      ...ropes[index] ? { rope: ropes[index] } : {},
    })),
    normEps: isOpt
      ? OPT_EPS
      : config.rms_norm_eps ?? (config.model_type === "phi3" || config.model_type === "olmo2" ? 1e-5 : 1e-6),
    ...family,
    rope: family.positions ? NO_ROPE : isGemma3 ? layeredRope(given, ropeContext) : {
      ...ropeOf(given, ropeContext),
      ...config.local_rope_theta ? { localBase: config.local_rope_theta } : {},
    },
    tied: config.tie_word_embeddings ?? (isOpt || config.model_type === "smollm3"),
    ...qkNorm ? { qkNorm } : {},
    ...config.model_type === "phi3" || config.fused ? { fused: true as const } : {},
    ...scalesOf(config, headDim),
    ...softCapsOf(config, fail),
    maxPosition,
    bosId,
    eosIds: [...eosIds],
    padId: padId === -1 ? null : padId,
  }, biasesOf(config, fail));
}

/** What transformers takes for keys that a configuration leaves out: published ones of Gemma leave out most. */
const GEMMA_DEFAULTS = { head_dim: 256, bos_token_id: 2, eos_token_id: 1, pad_token_id: 0, tie_word_embeddings: true };
const TYPE_DEFAULTS: Readonly<Record<string, Json>> = {
  gemma: GEMMA_DEFAULTS,
  gemma2: {
    ...GEMMA_DEFAULTS,
    num_attention_heads: 8,
    query_pre_attn_scalar: 256,
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
  },
  gemma3_text: { ...GEMMA_DEFAULTS, vocab_size: 262208, num_attention_heads: 8, query_pre_attn_scalar: 256 },
  gpt2: {
    vocab_size: 50257,
    n_embd: 768,
    n_layer: 12,
    n_head: 12,
    n_positions: 1024,
    layer_norm_epsilon: 1e-5,
    bos_token_id: 50256,
    eos_token_id: 50256,
    tie_word_embeddings: true,
  },
  stablelm: { layer_norm_eps: 1e-5, partial_rotary_factor: 0.25, bos_token_id: 0, eos_token_id: 0 },
  phi: { layer_norm_eps: 1e-5, partial_rotary_factor: 0.5 },
  gpt_neox: {
    layer_norm_eps: 1e-5,
    attention_bias: true,
    use_parallel_residual: true,
    rotary_pct: 0.25,
    bos_token_id: 0,
    eos_token_id: 2,
  },
};

function withDefaults(json: unknown): unknown {
  if (!isObject(json)) return json;
  const whole = { ...TYPE_DEFAULTS[asText(json["model_type"])], ...json };
  // The first files of Gemma say this and mean its tanh form, which transformers takes too.
  return whole["model_type"] === "gemma" && whole["hidden_act"] === "gelu"
    ? { ...whole, hidden_act: "gelu_pytorch_tanh" }
    : whole;
}

/** The soft caps of a Gemma 2, and of the output of a Gemma 3. */
function softCapsOf(config: Config, fail: Fail): Pick<DecoderSpec, "softCaps"> {
  const { model_type: type, attn_logit_softcapping: attention, final_logit_softcapping: logits } = config;
  const has = (types: readonly string[]): boolean => types.includes(type) || type === "compresso";
  if (attention && !has(["gemma2"])) fail("attn_logit_softcapping", `a ${type} does not have it`);
  if (logits && !has(["gemma2", "gemma3_text"])) fail("final_logit_softcapping", `a ${type} does not have it`);
  if (attention && config.qk_norm) fail("attn_logit_softcapping", "q and k heads have no norms");
  if (!attention && !logits) return {};
  return { softCaps: { ...attention ? { attention } : {}, ...logits ? { logits } : {} } };
}

/** The factors of a Gemma follow from its sizes; a Granite says them. */
function scalesOf(config: Config, headDim: number): Pick<DecoderSpec, "scales"> {
  const { model_type, hidden_size, query_pre_attn_scalar: scalar, embedding_scale, attention_scale } = config;
  if (model_type === "granite") {
    return {
      scales: {
        embedding: config.embedding_multiplier ?? 1,
        attention: config.attention_multiplier ?? 1,
        residual: config.residual_multiplier ?? 1,
        logits: config.logits_scaling ?? 1,
      },
    };
  }
  const { residual_multiplier: residual, logits_scaling: logits } = model_type === "compresso" ? config : {};
  const isGemma = model_type.startsWith("gemma");
  const embedding = isGemma ? Math.sqrt(hidden_size) : embedding_scale;
  const attention = isGemma && model_type !== "gemma" && scalar && scalar !== headDim
    ? scalar ** -0.5
    : attention_scale;
  if (!embedding && !attention && !residual && !logits) return {};
  return {
    scales: {
      ...embedding ? { embedding } : {},
      ...attention ? { attention } : {},
      ...residual ? { residual } : {},
      ...logits ? { logits } : {},
    },
  };
}

const MAX_POSITIONS = {
  llama: 2048,
  mistral: 131072,
  ministral: 131072,
  qwen2: 32768,
  qwen3: 32768,
  gemma: 8192,
  gemma2: 8192,
  gemma3_text: 131072,
  opt: 2048,
  gpt2: 1024,
  gpt_neox: 2048,
  stablelm: 4096,
  phi: 2048,
  phi3: 4096,
  smollm3: 32768,
  granite: 2048,
  olmo2: 2048,
  compresso: 2048,
} as const;
const QWEN3_HEAD_DIM = 128;
/** The first and the end token of families in which they are not 1 and 2, where a configuration leaves them out. */
const FIRST_IDS: Readonly<Record<string, number>> = { opt: 2, smollm3: 128000 };
const LAST_IDS: Readonly<Record<string, number>> = { phi3: 32000, smollm3: 128001, olmo2: 50279 };

/** Model types whose classes derive the head width from the number of heads. */
const DERIVED: readonly string[] = ["opt", "gpt2", "gpt_neox", "stablelm"];

/** ε of torch's LayerNorm: a configuration of OPT names none. */
export const OPT_EPS = 1e-5;
/** Rows before the first position in OPT's table. */
export const OPT_OFFSET = 2;

/** What a family's layers are where they are not LLaMA's. */
function familyOf(
  config: Config,
  fail: Fail,
): Pick<
  DecoderSpec,
  "norm" | "normPlaces" | "activation" | "ungated" | "parallel" | "positions" | "headBias" | "embeddingWidth"
> {
  const { model_type: type, norm, norm_places: places, ungated_mlp: ungated, position_offset: offset } = config;
  const known = ACTIVATIONS[type] ?? ["silu"], [own] = known;
  const activation = config.hidden_act ? HF_ACTIVATIONS[config.hidden_act] : own;
  for (const key of Object.keys(OWN_KEYS)) {
    if ((valueAt(config, [key]) ?? null) !== null && type !== "compresso") {
      fail(key, 'only model_type "compresso" has it: others ignore it');
    }
  }
  if (type === "compresso") {
    checkPlaces(config, fail);
    return {
      ...norm ? { norm } : {},
      ...places ? { normPlaces: places } : {},
      ...activation === "silu" ? {} : { activation },
      ...ungated ? { ungated } : {},
      ...config.parallel ? { parallel: config.parallel } : {},
      ...config.head_bias ? { headBias: true as const } : {},
      ...typeof offset === "number" ? { positions: { offset } } : {},
      ...config.embedding_width ? { embeddingWidth: config.embedding_width } : {},
    };
  }
  if (!known.includes(activation)) fail("hidden_act", `a supported ${type} has ${known.join(" or ")}`);
  if (type === "olmo2") return { normPlaces: "after" };
  if (type === "gemma") return { activation: "gelu_tanh" };
  if (type.startsWith("gemma")) return { activation: "gelu_tanh", normPlaces: "both" };
  if (config.qk_layernorm && type === "phi") {
    fail("qk_layernorm", "it is false: a LayerNorm that all q heads share, and all k heads, is not supported");
  }
  if (type === "stablelm") return { norm: "layer", ...config.use_parallel_residual ? { parallel: "shared" } : {} };
  const plain = { norm: "layer", ungated: true, ...activation === "silu" ? {} : { activation } } as const;
  if (type === "gpt2") return { ...plain, positions: { offset: 0 } };
  if (type === "gpt_neox") return { ...plain, ...config.use_parallel_residual ? { parallel: "own" } : {} };
  if (type === "phi") return { ...plain, parallel: "shared", headBias: true };
  if (type !== "opt") return {};
  if (config.layer_norm_elementwise_affine === false) {
    fail("layer_norm_elementwise_affine", "it is true: norms have weights");
  }
  if (config._remove_final_layer_norm) fail("_remove_final_layer_norm", "it is false: there is a final norm");
  const { hidden_size: hidden, word_embed_proj_dim: inner } = config;
  return {
    ...plain,
    positions: { offset: OPT_OFFSET },
    ...config.do_layer_norm_before === false ? { normPlaces: "residual" as const } : {},
    ...inner && inner !== hidden ? { embeddingWidth: inner } : {},
  };
}

/** Refuses norms and factors that no family has together. */
function checkPlaces(config: Config, fail: Fail): void {
  const { norm, norm_places: places, parallel } = config, isResidual = places === "residual";
  if (isResidual && !norm) fail("norm_places", "the residual stream is normalised by LayerNorm alone");
  if (norm && places && !isResidual) fail("norm_places", "outputs are normalised by RMSNorm alone");
  if (places && parallel) fail("parallel", "attention and FFN have a norm of their input alone");
  for (const key of ["embedding_scale", "residual_multiplier", "logits_scaling"] as const) {
    if ((isResidual || config.embedding_width) && config[key]) {
      fail(key, "there is no factor beside norms of the residual stream or a projection of the embedding");
    }
  }
}

/** What RoPE layers have where it is not the model's. */
function ropesOf(config: Config, fail: Fail): readonly (LayerSpec["rope"] | null)[] {
  const { model_type: type, no_rope_layers: list, num_hidden_layers: length, layer_ropes: ropes } = config;
  if (list && type !== "smollm3") fail("no_rope_layers", "only a smollm3 has layers without RoPE");
  if (list && list.length !== length) fail("no_rope_layers", `it has an entry for each of ${length} layers`);
  if (type === "gemma3_text") return slidingLayers(config).map((slides) => slides ? "local" : null);
  if (type === "smollm3") return Array.from({ length }, (_, at) => layerHasRope(config, at) ? null : "none");
  if (ropes?.includes("local") && !config.local_rope_theta) fail("layer_ropes", "local needs local_rope_theta");
  return ropes ?? [];
}

/** Stands in a spec with learned positions. */
const NO_ROPE: DecoderSpec["rope"] = { base: 10000, scaling: { kind: "none" } };

/** Biases go by model type: what a type ignores in its config is refused. */
function biasesOf(config: Config, fail: Fail): Projection[] {
  const { model_type, attention_bias, mlp_bias, ungated_mlp, enable_bias } = config;
  if (model_type.startsWith("gemma") && attention_bias) {
    fail(
      "attention_bias",
      "it is false: no Gemma that was published has it, and outputs with a bias are not normalised",
    );
  }
  if (model_type === "gpt2" || model_type === "phi") return [...ALL_UNGATED];
  if (model_type === "stablelm") return config.use_qkv_bias ? [...QWEN2_BIASES] : [];
  if (model_type === "gpt_neox") {
    return [...ALL_UNGATED].filter((one) => attention_bias || one === "up" || one === "down");
  }
  if (model_type === "opt") return enable_bias === false ? [] : [...ALL_UNGATED];
  if (["mistral", "ministral", "qwen2", "phi3"].includes(model_type)) {
    if (attention_bias) fail("attention_bias", `a ${model_type} does not have it`);
    if (mlp_bias) fail("mlp_bias", `a ${model_type} does not have it`);
    return model_type === "qwen2" ? [...QWEN2_BIASES] : [];
  }
  if ((model_type === "qwen3" || model_type === "olmo2") && mlp_bias) {
    fail("mlp_bias", `a ${model_type} does not have it`);
  }
  return [
    ...attention_bias ? ["q", "k", "v", "o"] as const : [],
    ...mlp_bias ? [...ungated_mlp ? [] : ["gate"] as const, "up", "down"] as const : [],
  ];
}

/** All projections of a layer without gate. */
export const ALL_UNGATED: readonly Projection[] = ["q", "k", "v", "o", "up", "down"];

type Fail = (key: string, rule: string, fix?: string) => never;

function impliedHeadDim(config: Config, fail: Fail): number {
  const heads = config.num_attention_heads;
  if (!heads) return fail("head_dim", "it is given where num_attention_heads is not");
  if (config.hidden_size % heads !== 0) {
    fail("num_attention_heads", `it divides hidden_size = ${config.hidden_size} where head_dim is not given`);
  }
  return config.hidden_size / heads;
}

function layersOf(config: Config, fail: Fail): LayerSpec[] {
  const { layer_counts: own, num_hidden_layers: length } = config;
  if (own) {
    if (config.model_type !== "compresso") {
      fail("layer_counts", 'only model_type "compresso" has it: others ignore it');
    }
    if (own.length !== length) fail("num_hidden_layers", `it is the length of layer_counts = ${own.length}`);
    return own.map((layer, index) => {
      const { num_attention_heads: heads, num_key_value_heads: kvHeads, intermediate_size: ffn } = layer;
      if (heads > 0 ? kvHeads === 0 || heads % kvHeads !== 0 : kvHeads > 0) {
        fail(
          "layer_counts",
          `num_key_value_heads divides num_attention_heads, and both are 0 or none (layer ${index}: ${kvHeads}, ${heads})`,
        );
      }
      return { heads, kvHeads, ffn };
    });
  }
  const heads = config.num_attention_heads ?? fail("num_attention_heads", "it is given");
  const ffn = config.intermediate_size ?? fail("intermediate_size", "it is given");
  // Null says that there are as many, whatever the default is.
  const kvHeads = config.num_key_value_heads === null ? heads : config.num_key_value_heads ??
    {
      llama: heads,
      mistral: 8,
      ministral: 8,
      qwen2: 32,
      qwen3: 32,
      gemma: 16,
      gemma2: 4,
      gemma3_text: 4,
      phi3: heads,
      smollm3: 4,
      granite: heads,
      olmo2: heads,
      opt: heads,
      gpt2: heads,
      gpt_neox: heads,
      stablelm: 32,
      phi: heads,
      compresso: heads,
    }[config.model_type];
  if (heads % kvHeads !== 0) fail("num_key_value_heads", `it divides num_attention_heads = ${heads}`);
  return Array.from({ length }, () => ({ heads, kvHeads, ffn }));
}

function withinUnits(layers: LayerSpec[], fail: Fail): LayerSpec[] {
  const units = layers.reduce((sum, { heads, ffn }) => sum + heads + ffn, 0);
  if (units > MOST_UNITS) {
    fail("num_hidden_layers", `all layers have at most ${MOST_UNITS} heads and FFN columns, not ${units}`);
  }
  return layers;
}

/** Parses with zod; an error names the first key that is wrong. */
function validated<T>(schema: z.ZodType<T>, json: unknown, path: string): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const keys = issue?.path ?? [];
  const message = issue?.message.replace(/, received undefined$/, "").replace(/^Invalid \w+: /, "") ?? "";
  const type = valueAt(json, ["model_type"]),
    key = keys.map((name) => ownKey(type, String(name))).join(".") || "the file";
  const fix = FIXES[String(keys[0])];
  throw refusal(path, { key, rule: `${key}: ${message}`, value: shownJson(valueAt(json, keys)), fix });
}

const FIXES: Readonly<Record<string, string>> = {
  model_type: GIVE_FAMILY,
  hidden_act:
    "only FFNs with a gate of SiLU or (Gemma) GELU in its tanh form, and of ReLU or GELU without gate, are supported",
  quantization_config: "give the model without quantisation, or a GGUF",
};
