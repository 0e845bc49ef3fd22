// What the records of several families share: schemas and keys of biases, activations, windows and RoPE.
import { z } from "../core/packages.ts";
import type { Json } from "../core/guards.ts";
import { type Activation, type DecoderSpec, hasBias, type Projection, windowsOf } from "../spec/decoder.ts";
import { type Config, type LayerParts, slides } from "./family.ts";

/** Schema of a factor. */
export const factor: z.ZodOptional<z.ZodNullable<z.ZodNumber>> = z.number().positive().nullish();

/** Largest soft cap c: c·tanh(x/c) in f32 loses x where c is far above it. Models have 30 and 50. */
export const MOST_CAP = 1e4;

/** Schema of a soft cap. */
export const softCap: z.ZodOptional<z.ZodNullable<z.ZodNumber>> = z.number().positive().max(MOST_CAP).nullish();

/** Schema of a switch. */
export const flag: z.ZodOptional<z.ZodNullable<z.ZodBoolean>> = z.boolean().nullish();

/** Projections of attention. */
export const ATTENTION: readonly Projection[] = ["q", "k", "v", "o"];

/** Projections of an FFN with a gate. */
export const GATED: readonly Projection[] = ["gate", "up", "down"];

/** All projections of a layer without gate. */
export const ALL_UNGATED: readonly Projection[] = ["q", "k", "v", "o", "up", "down"];

/** Biases of attention, all or none. */
export function attentionBiases(
  { attention_bias: has }: { attention_bias?: boolean | null | undefined },
): Projection[] {
  return has ? [...ATTENTION] : [];
}

/** Biases of the FFN, all or none. */
export function ffnBiases({ mlp_bias: has }: { mlp_bias?: boolean | null | undefined }): Projection[] {
  return has ? [...GATED] : [];
}

/** Biases of an FFN without gate, all or none. */
export function ungatedBiases({ mlp_bias: has }: { mlp_bias?: boolean | null | undefined }): Projection[] {
  return has ? ["up", "down"] : [];
}

/** The two bias keys, each for all biases of a block. A block with only some biases gets zeros for the others. */
export function biasKeys(spec: DecoderSpec): { readonly attention_bias: boolean; readonly mlp_bias: boolean } {
  const some = (projections: readonly Projection[]): boolean => projections.some((one) => hasBias(spec, one));
  return { attention_bias: some(ATTENTION), mlp_bias: some(GATED) };
}

/** Names of GELU in its tanh form. */
export const GELU_TANH: Readonly<Record<string, Activation>> = {
  gelu_pytorch_tanh: "gelu_tanh",
  gelu_new: "gelu_tanh",
};

/** Activations of an FFN without gate, by their names. */
export const UNGATED_ACTIVATIONS: Readonly<Record<string, Activation>> = {
  ...GELU_TANH,
  gelu: "gelu",
  relu: "relu",
};

/** The values of these activations as features. */
export const GELUS_AND_RELU: readonly string[] = ["gelu_tanh", "gelu", "relu"];

const ACTIVATION_NAMES = {
  silu: "silu",
  relu: "relu",
  relu2: "relu2",
  xielu: "xielu",
  gelu: "gelu",
  gelu_tanh: "gelu_pytorch_tanh",
} as const;

/** Name of a model's activation in transformers. */
export function activationName({ activation }: Pick<DecoderSpec, "activation">): string {
  return ACTIVATION_NAMES[activation ?? "silu"];
}

/** The name that other programs know too: gelu_new is the function of gelu_pytorch_tanh. */
export function olderActivationName(spec: Pick<DecoderSpec, "activation">): string {
  return spec.activation === "gelu_tanh" ? "gelu_new" : activationName(spec);
}

/** Layers with the window of the configuration: by `layer_types`, or all. */
export function windowLayer(config: Config): (index: number) => LayerParts {
  return (index) => ({ window: slides(config, index) ? config.sliding_window : null });
}

/** The window of a model whose layers have one at most. */
export function windowOf(spec: DecoderSpec): number | null {
  return windowsOf(spec).find((window) => window !== undefined) ?? null;
}

/** `layer_types` by the windows of the layers. */
export function layerTypes({ layers }: DecoderSpec): string[] {
  return layers.map(({ window }) => window === undefined ? "full_attention" : "sliding_attention");
}

/** The keys of windows with a switch for them. */
export function switchedWindowKeys(spec: DecoderSpec): Json {
  const window = windowOf(spec);
  if (window === null) return { use_sliding_window: false };
  return { use_sliding_window: true, sliding_window: window, layer_types: layerTypes(spec) };
}

/** Keys of RoPE where the whole head does not rotate unless they say so. */
export function partialRopeKeys({ partial_rotary_factor: share = 1, ...rope }: Json): Json {
  const parameters = { ...(rope["rope_parameters"] as Json), partial_rotary_factor: share };
  return { ...rope, rope_parameters: parameters, partial_rotary_factor: share };
}

/** Keys of the shape, with LayerNorm and RoPE of a part of each head. */
export function layerNormKeys(spec: DecoderSpec, rope: Json): Json {
  const { heads = 0, kvHeads = 0, ffn = 0 } = spec.layers[0] ?? {};
  return {
    attention_dropout: 0,
    hidden_size: spec.hidden,
    initializer_range: 0.02,
    intermediate_size: ffn,
    layer_norm_eps: spec.normEps,
    max_position_embeddings: spec.maxPosition,
    num_attention_heads: heads,
    num_hidden_layers: spec.layers.length,
    num_key_value_heads: kvHeads,
    qk_layernorm: spec.qkNorm === "layer",
    ...partialRopeKeys(rope),
  };
}

/** Whether two factors are the same but for the rounding of f32. */
export function isSameFactor(a: number, b: number): boolean {
  return Math.abs(a / b - 1) <= 1e-6;
}
