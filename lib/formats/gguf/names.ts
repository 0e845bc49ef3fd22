// Tensor names and row order of GGUF, and the canonical ones for them.
import {
  biasName,
  choiceBiasName,
  convName,
  type DecoderSpec,
  EMBEDDING,
  EXPERT_MATRICES,
  expertsName,
  FINAL_NORM,
  HEAD,
  HEAD_BIAS,
  headNormName,
  isOfExperts,
  layerOf,
  layerScaleName,
  normBiasName,
  normName,
  type NormPlace,
  POSITIONS,
  type Projection,
  projectionName,
  QK,
  routerName,
  sharedGateName,
} from "../../spec/decoder.ts";
import type { GgufArch } from "../../families/gguf_arch.ts";
import type { Fusion } from "../../families/fusion.ts";

/** Divisors of LongRoPE, for contexts of at most the original length and for longer ones. */
export const ROPE_SHORT = "rope_factors_short.weight", ROPE_LONG = "rope_factors_long.weight";

/** RoPE divisors, one for each pair of a head; not a weight, but settings of the model. */
export const ROPE_FREQS = "rope_freqs.weight";

const PARTS: readonly (readonly [Projection, string])[] = [
  ["q", "attn_q"],
  ["k", "attn_k"],
  ["v", "attn_v"],
  ["o", "attn_output"],
  ["gate", "ffn_gate"],
  ["up", "ffn_up"],
  ["down", "ffn_down"],
];

const NORMS: readonly (readonly [NormPlace, string])[] = [
  ["attention", "attn_norm"],
  ["ffn", "ffn_norm"],
  ["attention_output", "post_attention_norm"],
  ["ffn_output", "post_ffw_norm"],
];

/** What a canonical tensor is in a GGUF. */
export interface GgufName {
  readonly name: string;
  /** Layer and projection where the tensor is the weight or bias of one. */
  readonly part?: { readonly layer: number; readonly projection: Projection };
}

/** The GGUF name of every tensor that a model of `layers` layers can have, by canonical name; some have others in some architectures. */
export function ggufNames(layers: number, own: GgufArch["tensorNames"] = {}): Map<string, GgufName> {
  const names = new Map<string, GgufName>([
    [EMBEDDING, { name: "token_embd.weight" }],
    [POSITIONS, { name: "position_embd.weight" }],
    [FINAL_NORM, { name: `${own["output_norm"] ?? "output_norm"}.weight` }],
    [normBiasName(FINAL_NORM), { name: "output_norm.bias" }],
    [HEAD, { name: "output.weight" }],
    [HEAD_BIAS, { name: "output.bias" }],
  ]);
  for (let layer = 0; layer < layers; layer++) {
    for (const [place, norm] of NORMS) {
      const name = normName(layer, place);
      names.set(name, { name: `blk.${layer}.${own[norm] ?? norm}.weight` });
      names.set(normBiasName(name), { name: `blk.${layer}.${own[norm] ?? norm}.bias` });
    }
    names.set(layerScaleName(layer), { name: `blk.${layer}.layer_output_scale.weight` });
    for (const of of QK) names.set(headNormName(layer, of), { name: `blk.${layer}.attn_${of}_norm.weight` });
    names.set(convName(layer, "in"), { name: `blk.${layer}.shortconv.in_proj.weight` });
    names.set(convName(layer, "taps"), { name: `blk.${layer}.shortconv.conv.weight` });
    names.set(convName(layer, "out"), { name: `blk.${layer}.shortconv.out_proj.weight` });
    names.set(routerName(layer), { name: `blk.${layer}.ffn_gate_inp.weight` });
    names.set(choiceBiasName(layer), { name: `blk.${layer}.exp_probs_b.bias` });
    names.set(sharedGateName(layer), { name: `blk.${layer}.ffn_gate_inp_shexp.weight` });
    for (const projection of EXPERT_MATRICES) {
      const part = { layer, projection };
      names.set(expertsName(layer, projection), { name: `blk.${layer}.ffn_${projection}_exps.weight`, part });
    }
    for (const [projection, part] of PARTS) {
      const own = { layer, projection };
      names.set(projectionName(layer, projection), { name: `blk.${layer}.${part}.weight`, part: own });
      names.set(biasName(layer, projection), { name: `blk.${layer}.${part}.bias`, part: own });
    }
  }
  return names;
}

/** The matrices that a file holds as one: older ones may hold others. */
export function storedFusions(
  { fused = [], onceFused = [] }: GgufArch,
  tensors: ReadonlyMap<string, unknown>,
): readonly Fusion[] {
  return onceFused.length > 0 && onceFused.every(({ gguf }) => tensors.has(`blk.0.${gguf}.weight`)) ? onceFused : fused;
}

/** The GGUF name of a tensor of a model: FFNs of layers with experts are shared experts there. */
export function ggufNameIn(
  { layers }: Pick<DecoderSpec, "layers">,
  canonical: string,
  { name, ...rest }: GgufName,
): GgufName {
  const isShared = layers[layerOf(canonical)]?.experts !== undefined && /\.mlp\.(gate|up|down)_proj\./.test(canonical);
  return isShared ? { ...rest, name: name.replace(/(ffn_\w+)\./, "$1_shexp.") } : { ...rest, name };
}

/**
 * Shape of a tensor of a GGUF that holds this canonical one: llama.cpp has a row for each head where norms of heads have
 * weights of their own.
 */
export function ggufShape(
  { qkNorm, headDim, layers }: Pick<DecoderSpec, "qkNorm" | "headDim" | "layers">,
  canonical: string,
  shape: readonly number[],
): readonly number[] {
  const { count = 0 } = layers[layerOf(canonical)]?.experts ?? {}, [rows = 0, columns = 0] = shape;
  if (count > 0 && isOfExperts(canonical)) return [count, rows / count, columns];
  if (canonical.endsWith(".shared_expert_gate.weight")) return [columns];
  const isOfHeads = qkNorm === "layer" && /\.self_attn\.[qk]_norm\.weight$/.test(canonical);
  return isOfHeads ? [(shape[0] ?? 0) / headDim, headDim] : shape;
}

/** Key of the ε of the norms, after the prefix `arch.`. */
export function epsKey({ layerNorm }: GgufArch): string {
  return layerNorm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
}

/** Key that says whether attention and FFN both read a layer's input. Only architectures with `parallelKey` use it. */
export const PARALLEL_KEY = "use_parallel_residual";
