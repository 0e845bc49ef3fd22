// LFM2: gated short convolutions in place of the attention of most layers; RMSNorm of each head of q and k.
import { z } from "../core/packages.ts";
import { type DecoderSpec, MOST_CONVOLVED } from "../spec/decoder.ts";
import { family, type FamilyParts, width } from "./family.ts";
import { alike, headsFillHidden, UNSCALED_OR_LINEAR } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { flag } from "./shared.ts";

const KEYS = {
  conv_L_cache: z.int().min(2).max(MOST_CONVOLVED).nullish(),
  conv_bias: flag,
  layer_kinds: z.array(z.enum(["full_attention", "conv"])).nullish(),
  full_attn_idxs: z.array(z.int().nonnegative()).nullish(),
  block_auto_adjust_ff_dim: flag,
  block_ffn_dim_multiplier: z.number().positive().max(64).nullish(),
  block_multiple_of: width.nullish(),
};

/** Two thirds of the stated FFN columns times a factor, rounded up to a multiple. */
function adjusted(
  columns: number,
  { factor, multiple }: { readonly factor: number | null; readonly multiple: number },
): number {
  const share = Math.floor(2 * columns / 3);
  return factor === null ? share : Math.ceil(Math.floor(factor * share) / multiple) * multiple;
}

const HOLDS = { qkNorm: ["head"] } as const;

/** llama.cpp takes layers without KV heads for convolutions. */
const ARCH: GgufArch = {
  arch: "lfm2",
  holds: { ...HOLDS, convolution: ["set"], scaling: UNSCALED_OR_LINEAR },
  limits: [alike, headsFillHidden],
  convolutionKey: "shortconv.l_cache",
  tensorNames: { output_norm: "token_embd_norm" },
  read: () => ({ qkNorm: "head" }),
};

function layerKinds({ layers }: DecoderSpec): string[] {
  return layers.map(({ conv }) => conv ? "conv" : "full_attention");
}

/** LFM2 of Liquid AI. A model of this shape without convolutions is written as a Qwen3. */
export const LFM2 = family({
  type: "lfm2",
  label: "LFM2",
  about: "short convolutions in most layers",
  architecture: "Lfm2ForCausalLM",
  names: {
    rms_norm_eps: "norm_eps",
    tie_word_embeddings: "tie_embedding",
    intermediate_size: "block_ff_dim",
    layer_kinds: "layer_types",
  },
  defaults: {
    num_key_value_heads: 8,
    max_position_embeddings: 128_000,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
  },
  ids: { pad: 0 },
  rope: { base: 1e6 },
  keys: KEYS,
  read(config, { fail }): FamilyParts {
    const { num_hidden_layers: length, layer_kinds: kinds, full_attn_idxs: indices } = config;
    if (config.conv_bias) fail("conv_bias", "convolutions have no biases");
    if (kinds && kinds.length !== length) {
      fail("layer_kinds", `it has an entry for each of num_hidden_layers = ${length} layers`);
    }
    const hasConv = (index: number): boolean =>
      kinds ? kinds[index] === "conv" : indices ? !indices.includes(index) : false;
    const columns = config.intermediate_size ?? fail("intermediate_size", "it is given");
    const { block_ffn_dim_multiplier: factor = 1, block_multiple_of: multiple } = config;
    const ffn = config.block_auto_adjust_ff_dim ?? true
      ? adjusted(columns, { factor, multiple: multiple ?? 256 })
      : columns;
    if (ffn === 0) fail("intermediate_size", "two thirds of it are one column at least");
    const isConvolved = Array.from({ length }, (_, index) => hasConv(index)).includes(true);
    return {
      qkNorm: "head",
      convolution: isConvolved ? { length: config.conv_L_cache ?? 3 } : undefined,
      layer: (index) => ({ ffn, ...hasConv(index) ? { conv: true } : {} }),
    };
  },
  tensors: {
    renames: [
      [/\.self_attn\.o_proj\./, ".self_attn.out_proj."],
      [/\.self_attn\.([qk])_norm\./, ".self_attn.$1_layernorm."],
      [/\.mlp\.gate_proj\./, ".feed_forward.w1."],
      [/\.mlp\.up_proj\./, ".feed_forward.w3."],
      [/\.mlp\.down_proj\./, ".feed_forward.w2."],
      [/\.input_layernorm\./, ".operator_norm."],
      [/\.post_attention_layernorm\./, ".ffn_norm."],
      [/^model\.norm\./, "model.embedding_norm."],
    ],
  },
  stock: {
    holds: { ...HOLDS, convolution: ["none", "set"], scaling: true },
    limits: [alike],
    keys: (spec) => ({
      conv_L_cache: spec.convolution?.length ?? 3,
      conv_bias: false,
      layer_kinds: layerKinds(spec),
      block_auto_adjust_ff_dim: false,
    }),
  },
  gguf: [ARCH],
});
