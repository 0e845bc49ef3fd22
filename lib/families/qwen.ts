// Qwen2: biases of q, k and v; Qwen3: RMSNorm of each head of q and k. A window in the upper layers where a switch says so.
import { type LayerSpec, QWEN2_BIASES, withCounts } from "../spec/decoder.ts";
import { type Config, family, type LayerParts, slides } from "./family.ts";
import { alike, headsFillHidden, ONE_WINDOW, tied, UNSCALED_OR_LINEAR } from "./fit.ts";
import { QKV } from "./fusion.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, flag, switchedWindowKeys } from "./shared.ts";

/** Defaults of all Qwen. */
export const QWEN_DEFAULTS = {
  num_key_value_heads: 32,
  max_position_embeddings: 32768,
  sliding_window: 4096,
  max_window_layers: 28,
};
/** They have no BOS and no EOS where the configuration says none. */
export const QWEN_IDS = { bos: null, eos: null };

/** Layers with the window: the upper ones, where a switch says so. */
export function qwenLayer(config: Config): (index: number) => LayerParts {
  const { use_sliding_window: isUsed, sliding_window: window, max_window_layers: full } = config;
  return (index) => ({ window: isUsed && slides(config, index, index >= (full ?? 0)) ? window : null });
}

const QWEN2_ARCH: GgufArch = {
  arch: "qwen2",
  holds: { attentionBiases: [QWEN2_BIASES.join()], windows: true, scaling: UNSCALED_OR_LINEAR, fused: true },
  limits: [alike, headsFillHidden],
};

const QWEN3_PARTS: Required<Pick<GgufArch, "holds" | "read">> = {
  holds: { qkNorm: ["head"], windows: true, scaling: UNSCALED_OR_LINEAR, fused: true },
  read: () => ({ qkNorm: "head" }),
};

const QWEN3_ARCH: GgufArch = { ...QWEN3_PARTS, arch: "qwen3", limits: [alike] };

/** A qwen3 whose layers may differ. It has heads and FFN columns in every layer: one of zeros changes no value. */
const OPENELM: GgufArch = {
  ...QWEN3_PARTS,
  arch: "openelm",
  limits: [tied],
  fused: [QKV],
  uneven: (layers) => layers.map(withOneOfEach),
};

function withOneOfEach(layer: LayerSpec): LayerSpec {
  const { heads, kvHeads, ffn } = layer;
  return withCounts(layer, { heads: Math.max(1, heads), kvHeads: Math.max(1, kvHeads), ffn: Math.max(1, ffn) });
}

/** Qwen2 and Qwen2.5. */
export const QWEN2 = family({
  type: "qwen2",
  label: "Qwen2",
  about: "biases of q, k and v",
  architecture: "Qwen2ForCausalLM",
  defaults: QWEN_DEFAULTS,
  ids: QWEN_IDS,
  read: (config) => ({ biases: QWEN2_BIASES, layer: qwenLayer(config) }),
  stock: {
    holds: { attentionBiases: [QWEN2_BIASES.join()], windows: ONE_WINDOW, scaling: true, fused: true },
    limits: [alike],
    biases: () => QWEN2_BIASES,
    keys: switchedWindowKeys,
  },
  // mlx-lm and vLLM derive the head width from the hidden size, as most of its configurations do not state it.
  programs: (spec) => headsFillHidden(spec) === null,
  gguf: [QWEN2_ARCH],
});

/** Qwen3. */
export const QWEN3 = family({
  type: "qwen3",
  label: "Qwen3",
  about: "RMSNorm of each q and k head",
  architecture: "Qwen3ForCausalLM",
  defaults: { ...QWEN_DEFAULTS, head_dim: 128 },
  ids: QWEN_IDS,
  keys: { attention_bias: flag },
  read: (config) => ({ qkNorm: "head", biases: attentionBiases(config), layer: qwenLayer(config) }),
  stock: {
    holds: { qkNorm: ["head"], attentionBiases: true, windows: ONE_WINDOW, scaling: true, fused: true },
    limits: [alike],
    keys: (spec) => ({ attention_bias: biasKeys(spec).attention_bias, ...switchedWindowKeys(spec) }),
  },
  programs: "widely",
  gguf: [QWEN3_ARCH, OPENELM],
});
