// Our own class: a model of another family whose layers may differ. Its configuration says all that a spec says.
import { z } from "../core/packages.ts";
import { isObject, type Json } from "../core/guards.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { type Config, family, type FamilyParts, MOST_WIDTH, type ReadContext, width } from "./family.ts";
import { ANYTHING } from "./fit.ts";
import { attentionBiases, biasKeys, factor, ffnBiases, flag, softCap, UNGATED_ACTIVATIONS } from "./shared.ts";

const counts = z.int().nonnegative().max(MOST_WIDTH);

const KEYS = {
  attention_bias: flag,
  mlp_bias: flag,
  qk_norm: z.enum(["head", "whole", "layer"]).nullish(),
  qk_norm_after: z.literal(true).nullish(),
  value_norm: z.literal(true).nullish(),
  local_head_dim: width.nullish(),
  layer_scale: z.literal(true).nullish(),
  fused: flag,
  norm: z.enum(["layer", "layer_no_bias"]).nullish(),
  norm_places: z.enum(["both", "after", "residual"]).nullish(),
  embedding_width: width.nullish(),
  ungated_mlp: z.literal(true).nullish(),
  parallel: z.enum(["own", "shared"]).nullish(),
  head_bias: z.literal(true).nullish(),
  position_offset: z.int().nonnegative().nullish(),
  embedding_scale: factor,
  attention_scale: factor,
  residual_multiplier: factor,
  logits_scaling: factor,
  attn_logit_softcapping: softCap,
  final_logit_softcapping: softCap,
  local_rope_theta: factor,
  layer_ropes: z.array(z.enum(["local", "none"]).nullable()).nullish(),
  layer_windows: z.array(z.int().positive().nullable()).nullish(),
  layer_counts: z.array(z.object({
    num_attention_heads: counts,
    num_key_value_heads: counts,
    intermediate_size: counts,
  })).nullish(),
};

type Own = Config & z.infer<z.ZodObject<typeof KEYS>>;

/** Refuses norms and factors that no family has together, and lists of another length than the layers. */
function check(config: Own, { fail }: ReadContext): void {
  if (config.hidden_act === "xielu" && !config.ungated_mlp) fail("hidden_act", "an FFN of xIELU has no gate");
  const { norm, norm_places: places, parallel, num_hidden_layers: length } = config, isResidual = places === "residual";
  if (isResidual && !norm) fail("norm_places", "the residual stream is normalised by LayerNorm alone");
  if (norm && places && !isResidual) fail("norm_places", "outputs are normalised by RMSNorm alone");
  if (config.qk_norm_after && config.qk_norm !== "head") fail("qk_norm_after", "each head of q and k has a norm");
  if (config.value_norm && (config.qk_norm !== "head" || config.qk_norm_after)) {
    fail("value_norm", "each head of q and k has a norm before RoPE");
  }
  if (config.local_head_dim && (!config.local_rope_theta || config.local_head_dim % 2 !== 0)) {
    fail("local_head_dim", "it is even, and there is local_rope_theta");
  }
  if (places && parallel) fail("parallel", "attention and FFN have a norm of their input alone");
  for (const key of ["embedding_scale", "residual_multiplier", "logits_scaling"] as const) {
    if ((isResidual || config.embedding_width) && config[key]) {
      fail(key, "there is no factor with norms of the residual stream, or with a projection of the embedding");
    }
  }
  if (config.attn_logit_softcapping && config.qk_norm) fail("attn_logit_softcapping", "q and k heads have no norms");
  const { rope_parameters: rope } = config;
  const others = [config.qk_norm, config.attn_logit_softcapping, config.fused, config.partial_rotary_factor];
  if (isObject(rope) && rope["llama_4_scaling_beta"] && [...others, rope["partial_rotary_factor"]].some(Boolean)) {
    fail("rope_parameters", "queries that grow have no norms, soft caps, fused matrices or dims without RoPE");
  }
  if (config.layer_ropes?.includes("local") && !config.local_rope_theta) {
    fail("layer_ropes", "local needs local_rope_theta");
  }
  if (config.layer_windows && config.layer_windows.length !== length) {
    fail("layer_windows", `it has an entry for each of num_hidden_layers = ${length} layers`);
  }
  if (config.layer_counts && config.layer_counts.length !== length) {
    fail("num_hidden_layers", `it is the length of layer_counts = ${config.layer_counts.length}`);
  }
  for (const [index, layer] of (config.layer_counts ?? []).entries()) {
    const { num_attention_heads: heads, num_key_value_heads: kvHeads } = layer;
    if (heads > 0 ? kvHeads > 0 && heads % kvHeads === 0 : kvHeads === 0) continue;
    const rule = "num_key_value_heads divides num_attention_heads, and both are 0 or none";
    fail("layer_counts", `${rule} (layer ${index}: ${kvHeads}, ${heads})`);
  }
}

/** An object without its keys that have no value; undefined if none is left. */
function present<T extends object>(parts: T): { [Key in keyof T]?: NonNullable<T[Key]> } | undefined {
  const entries = Object.entries(parts).filter(([, value]) => value);
  return entries.length === 0 ? undefined : Object.fromEntries(entries) as { [Key in keyof T]?: NonNullable<T[Key]> };
}

/** The keys that say what the spec has where it is not LLaMA's. */
function keysOf(spec: DecoderSpec): Json {
  const { scales, softCaps, layers } = spec;
  return {
    auto_map: {
      AutoConfig: "configuration_compresso.CompressoConfig",
      AutoModel: "modeling_compresso.CompressoModel",
      AutoModelForCausalLM: "modeling_compresso.CompressoForCausalLM",
    },
    ...present({
      qk_norm: spec.qkNorm,
      qk_norm_after: spec.qkNormAfter,
      value_norm: spec.valueNorm,
      local_head_dim: spec.localHeadDim,
      layer_scale: spec.layerScale,
      norm_places: spec.normPlaces,
      embedding_width: spec.embeddingWidth,
      embedding_scale: scales?.embedding,
      attention_scale: scales?.attention,
      attn_logit_softcapping: softCaps?.attention,
      final_logit_softcapping: softCaps?.logits,
      residual_multiplier: scales?.residual,
      logits_scaling: scales?.logits,
      local_rope_theta: spec.rope.localBase,
      layer_ropes: layers.some(({ rope }) => rope) ? layers.map(({ rope = null }) => rope) : null,
      norm: spec.norm,
      ungated_mlp: spec.ungated,
      parallel: spec.parallel,
      head_bias: spec.headBias,
    }),
    ...spec.positions ? { position_offset: spec.positions.offset } : {},
    ...spec.fused ? { fused: true } : {},
    layer_counts: layers.map(({ heads, kvHeads, ffn }) => ({
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      intermediate_size: ffn,
    })),
    ...layers.some(({ window }) => window !== undefined)
      ? { layer_windows: layers.map(({ window = null }) => window) }
      : {},
    ...biasKeys(spec),
  };
}

/** Our own class, whose Python files are in the folder. */
export const COMPRESSO = family({
  type: "compresso",
  label: "Compresso",
  architecture: "CompressoForCausalLM",
  activations: { silu: "silu", ...UNGATED_ACTIVATIONS, relu2: "relu2", xielu: "xielu" },
  rope: { isPartial: true, queryGrowth: "possible", isProportional: true },
  keys: KEYS,
  read(config, context): FamilyParts {
    check(config, context);
    const { position_offset: offset, layer_windows: windows, layer_ropes: ropes } = config;
    const ffn = ffnBiases(config).filter((one) => one !== "gate" || !config.ungated_mlp);
    return {
      norm: config.norm ?? undefined,
      normPlaces: config.norm_places ?? undefined,
      ungated: config.ungated_mlp ?? undefined,
      parallel: config.parallel ?? undefined,
      headBias: config.head_bias ?? undefined,
      positions: typeof offset === "number" ? { offset } : undefined,
      embeddingWidth: config.embedding_width ?? undefined,
      qkNorm: config.qk_norm ?? undefined,
      qkNormAfter: config.qk_norm_after ?? undefined,
      valueNorm: config.value_norm ?? undefined,
      localHeadDim: config.local_head_dim ?? undefined,
      layerScale: config.layer_scale ?? undefined,
      fused: config.fused ? true : undefined,
      scales: present({
        embedding: config.embedding_scale,
        attention: config.attention_scale,
        residual: config.residual_multiplier,
        logits: config.logits_scaling,
      }),
      softCaps: present({ attention: config.attn_logit_softcapping, logits: config.final_logit_softcapping }),
      biases: [...attentionBiases(config), ...ffn],
      localBase: config.local_rope_theta ?? undefined,
      counts: config.layer_counts?.map((layer) => ({
        heads: layer.num_attention_heads,
        kvHeads: layer.num_key_value_heads,
        ffn: layer.intermediate_size,
      })),
      layer: (index) => ({ window: windows?.[index], rope: ropes?.[index] ?? undefined }),
    };
  },
  tensors: { keepsFused: true },
  stock: { holds: ANYTHING, keys: keysOf },
  remoteCode: true,
});
