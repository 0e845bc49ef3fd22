// The decoder as data: everything that distinguishes one LLaMA-like model from another.

/** How the RoPE frequencies are scaled for long contexts. */
export type RopeScaling =
  | { readonly kind: "none" }
  | { readonly kind: "linear"; readonly factor: number }
  | {
    readonly kind: "llama3";
    readonly factor: number;
    readonly lowFreqFactor: number;
    readonly highFreqFactor: number;
    readonly originalMaxPosition: number;
  }
  /**
   * YaRN (Peng et al. 2023): frequencies that turn at most `betaSlow` times in `originalMaxPosition` positions are divided by the factor, those that
   * turn at least `betaFast` times are kept. cos and sin are multiplied by `attention`. With `queryGrowth` b, the query of position p is multiplied by
   * 1 + b · ln(1 + floor(p / originalMaxPosition)) too (Llama 4, Ministral 3).
   */
  | {
    readonly kind: "yarn";
    readonly factor: number;
    readonly betaFast: number;
    readonly betaSlow: number;
    readonly attention: number;
    readonly originalMaxPosition: number;
    readonly queryGrowth?: number;
  }
  /** One divisor for each of the `ropeDims` / 2 frequencies, as GGUF stores it in `rope_freqs.weight`. */
  | { readonly kind: "factors"; readonly factors: readonly number[] }
  /**
   * LongRoPE (Ding et al. 2024), as Phi-3 uses it: divisors of the frequencies, `short` for sequences of at most
   * `originalMaxPosition` tokens and `long` for all positions of longer ones. cos and sin are multiplied by `attention`.
   */
  | {
    readonly kind: "longrope";
    readonly short: readonly number[];
    readonly long: readonly number[];
    readonly attention: number;
    readonly originalMaxPosition: number;
  };

/** Rotary position embedding of the heads of q and k. */
export interface Rope {
  /** Pair i of n turns by base^(−i / n) radians a position, before scaling. */
  readonly base: number;
  /** Scaling of the frequencies. */
  readonly scaling: RopeScaling;
  /** The first dims of each head that rotate, an even number; absent if all do. */
  readonly dims?: number;
  /** Base of the layers with `rope: "local"`; present if there are such layers. */
  readonly localBase?: number;
}

/** Experts of a layer: gated FFNs. A router chooses some of them for each token. */
export interface ExpertCounts {
  /** Number of experts; at least the router's `topK`. */
  readonly count: number;
  /** FFN columns of each. */
  readonly ffn: number;
}

/** How routers choose experts, in all layers with experts: by the largest scores of W·x, whose softmax is the score. */
export interface Router {
  /** Experts of each token. */
  readonly topK: number;
  /** The score of an expert is the sigmoid of its logit. Absent: the softmax over all experts. */
  readonly scores?: "sigmoid";
  /** Whether a vector [experts] is added to the scores when experts are chosen, but not to their weights (DeepSeek-V3). Absent: no. */
  readonly choiceBias?: true;
  /** The weights of the chosen experts are divided by their sum. Absent: they are the scores. */
  readonly renormalised?: true;
  /** Factor of the weights. Absent: 1. */
  readonly scale?: number;
  /** The output of the shared expert is multiplied by the sigmoid of a product with its input. Absent: it is not. */
  readonly sharedGate?: true;
}

/** Most tokens of a convolution: LFM2 has 3. */
export const MOST_CONVOLVED = 64;

/** Gated short convolutions over the tokens, in place of the attention of some layers (LFM2). */
export interface Convolution {
  /** Tokens that the convolution of a channel sums over, the token's own included; at least 2. It has a channel for each hidden dim. */
  readonly length: number;
}

/** Counts of one decoder layer. Layers of a pruned model may differ; 0 means that the part is absent. */
export interface LayerSpec {
  /** Query heads; a multiple of kvHeads. */
  readonly heads: number;
  /** Key/value heads (KV groups). Query head h reads KV head floor(h / (heads / kvHeads)). */
  readonly kvHeads: number;
  /** FFN columns (intermediate size) that every token has; those of the shared expert in a layer with experts. */
  readonly ffn: number;
  /** Experts, whose outputs are added to that of the FFN; absent in a dense layer. */
  readonly experts?: ExpertCounts;
  /** A short convolution stands in place of attention: there are no heads. Absent: there is none. */
  readonly conv?: true;
  /**
   * Number of tokens that a query attends to, including its own (sliding-window attention); absent if it attends to all
   * previous tokens.
   */
  readonly window?: number;
  /**
   * "local" if RoPE has the base `rope.localBase`, without scaling; "none" without RoPE: attention then knows positions
   * by causality alone. Absent if RoPE has the model's base and scaling.
   */
  readonly rope?: "local" | "none";
}

/** The counts of a layer that pruning reduces. */
export type LayerCount = "heads" | "kvHeads" | "ffn";

/**
 * A decoder-only transformer. Without the optional fields it is like LLaMA: RMSNorm, RoPE, causal attention, an FFN with
 * silu of a gate.
 */
export interface DecoderSpec {
  /** Number of token ids. */
  readonly vocab: number;
  /** Width of the residual stream. */
  readonly hidden: number;
  /**
   * Width of the token embedding and of what the head reads, where it is not `hidden`: a matrix stands between each of
   * them and the residual stream (OPT-350m). Absent: `hidden`, without these matrices.
   */
  readonly embeddingWidth?: number;
  /** Width of one attention head. */
  readonly headDim: number;
  /** Width of one attention head in layers with `rope: "local"`, where it is not `headDim` (Gemma 4). */
  readonly localHeadDim?: number;
  /** Decoder layers in order. */
  readonly layers: readonly LayerSpec[];
  /** ε of every norm. */
  readonly normEps: number;
  /** LayerNorm instead of RMSNorm: "layer" with a weight and a bias of [hidden] each, "layer_no_bias" with a weight alone. */
  readonly norm?: "layer" | "layer_no_bias";
  /**
   * Attention and FFN both read the input of their layer (parallel residual). "own": each has its norm. "shared": both
   * use the norm of attention, which every layer with either part has. Absent: the FFN reads the residual stream after
   * attention.
   */
  readonly parallel?: "own" | "shared";
  /** How experts are chosen; present if there are layers with experts. */
  readonly router?: Router;
  /** The short convolutions; present if there are layers with one. */
  readonly convolution?: Convolution;
  /** An FFN without gate: down(f(up(x))) instead of down(f(gate(x)) · up(x)). */
  readonly ungated?: true;
  /**
   * Learned position embeddings [maxPosition + offset, hidden], added to those of the tokens: position p has row
   * p + offset. No layer has RoPE then.
   */
  readonly positions?: { readonly offset: number };
  /** Rotary position embedding; unused with `positions`. */
  readonly rope: Rope;
  /** Whether the output head is the embedding matrix. */
  readonly tied: boolean;
  /** The output head has a bias [vocab], also where its matrix is the embedding. */
  readonly headBias?: true;
  /** Projections with a bias, in every layer that has them; absent if there are none. */
  readonly biases?: readonly Projection[];
  /**
   * Norms of q and k, before RoPE unless `qkNormAfter`, with one weight for q and one for k in every layer: "head" RMSNorm of each head,
   * [headDim]; "whole" RMSNorm of all heads together, [heads · headDim]; "layer" LayerNorm of each head, without bias
   * and with separate weights for each head, [heads · headDim]. Absent without these norms.
   */
  readonly qkNorm?: "head" | "whole" | "layer";
  /** The norms of q and k follow RoPE; only with `qkNorm` "head". */
  readonly qkNormAfter?: true;
  /** The heads of v have an RMSNorm without weight; only with `qkNorm` "head". */
  readonly valueNorm?: true;
  /** Each layer ends with a factor of the residual stream, a tensor of one value that is not trained (Gemma 4). */
  readonly layerScale?: true;
  /** Activation of the FFN's gate, or of its up without a gate; absent for silu. */
  readonly activation?: "gelu" | "gelu_tanh" | "relu" | "relu2" | "xielu";
  /**
   * "both": the output of attention and that of the FFN are normalised too (RMSNorm), before they are added to the
   * residual stream. "after": these outputs alone are. "residual": the residual stream is, once by attention and once by
   * the FFN after they added to it, and there is no final norm. Absent: only the inputs are.
   */
  readonly normPlaces?: "both" | "after" | "residual";
  /** Constant factors. */
  readonly scales?: {
    /** Of the embedding where it enters the residual stream; not of a head that shares it. Absent: 1. */
    readonly embedding?: number;
    /** Of q·k. Absent: 1 / √headDim. */
    readonly attention?: number;
    /** Of what attention and FFN add to the residual stream; not with `normPlaces`. Absent: 1. */
    readonly residual?: number;
    /** Divisor of the logits. Absent: 1. */
    readonly logits?: number;
  };
  /**
   * Files hold q, k and v as one matrix, and gate and up as one (Phi-3); absent if each projection is a matrix of its
   * own. Changes no value: it chooses the class and architecture of exported files.
   */
  readonly fused?: true;
  /**
   * The folder holds the rows of q and k so that RoPE turns neighbours (2i, 2i + 1), as GLM's does, or the other way round, as nanochat's does. They are read in the order of the others; an
   * adapter made for the folder has another. Changes no value.
   */
  readonly neighbours?: true;
  /**
   * Its folder has norms without weights and normalises the embedding (nanochat): all weights of norms are 1, and each row of the embedding is
   * normalised. Changes no value: it chooses the class of exported folders.
   */
  readonly plainNorms?: true;
  /** Bounds c: a score or logit x becomes c · tanh(x / c). */
  readonly softCaps?: {
    /** Of q·k times its factor. Absent: none. */
    readonly attention?: number;
    /** Of the output. Absent: none. */
    readonly logits?: number;
  };
  /** Longest context the model was trained for, in tokens. */
  readonly maxPosition: number;
  /** Token that begins a text, if any. */
  readonly bosId: number | null;
  /** Tokens that end a generation. */
  readonly eosIds: readonly number[];
  /** Token that pads a batch, if any. */
  readonly padId: number | null;
}

/** Activation of the FFN. */
export type Activation = "silu" | NonNullable<DecoderSpec["activation"]>;

/** Part of a decoder layer that holds a weight matrix; also the names of LoRA targets. */
export type Projection = "q" | "k" | "v" | "o" | "gate" | "up" | "down";

/** All projections, in canonical order. */
export const PROJECTIONS: readonly Projection[] = ["q", "k", "v", "o", "gate", "up", "down"];

/** The projections whose heads `qkNorm` normalises. */
export const QK = ["q", "k"] as const;

/** The projections with biases in Qwen2. */
export const QWEN2_BIASES: readonly Projection[] = ["q", "k", "v"];

/** Canonical tensor names are those of the Hugging Face LLaMA modules. */
export const EMBEDDING = "model.embed_tokens.weight";
/** Learned position embeddings, [maxPosition + offset, hidden]; only with `positions`. */
export const POSITIONS = "model.embed_positions.weight";
/** Matrix from the embedding to the residual stream, [hidden, embeddingWidth]; only with `embeddingWidth`. */
export const PROJECT_IN = "model.project_in.weight";
/** Matrix from the residual stream to the input of the head, [embeddingWidth, hidden]; only with `embeddingWidth`. */
export const PROJECT_OUT = "model.project_out.weight";
/** Weight of the final norm, [hidden]; not with norms of the residual stream. */
export const FINAL_NORM = "model.norm.weight";
/** Output head, [vocab, hidden] (or `embeddingWidth`); absent if tied. */
export const HEAD = "lm_head.weight";
/** Bias of the output head, [vocab]; only with `headBias`. */
export const HEAD_BIAS = "lm_head.bias";

/** Layer of a tensor by its canonical name; NaN if it belongs to no layer. */
export function layerOf(name: string): number {
  return Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? NaN);
}

/** Canonical name of a projection's weight, shape [out, in]. */
export function projectionName(layer: number, projection: Projection): string {
  const block = projection === "gate" || projection === "up" || projection === "down" ? "mlp" : "self_attn";
  return `model.layers.${layer}.${block}.${projection}_proj.weight`;
}

/** Canonical name of a projection's bias, shape [out]. */
export function biasName(layer: number, projection: Projection): string {
  return projectionName(layer, projection).replace(/weight$/, "bias");
}

/** Matrices of the experts of a layer, those of all experts one after another. */
export type ExpertMatrix = "gate" | "up" | "down";

/** All of them. */
export const EXPERT_MATRICES: readonly ExpertMatrix[] = ["gate", "up", "down"];

/** Canonical name of the router of a layer, shape [experts, hidden]. */
export function routerName(layer: number): string {
  return `model.layers.${layer}.mlp.gate.weight`;
}

/** Canonical name of a matrix of all experts of a layer: [experts · ffn, hidden] for gate and up, [experts · hidden, ffn] for down. */
export function expertsName(layer: number, matrix: ExpertMatrix): string {
  return `model.layers.${layer}.mlp.experts.${matrix}_proj.weight`;
}

/** Whether a canonical name is that of a matrix of all experts of a layer. */
export function isOfExperts(name: string): boolean {
  return name.includes(".mlp.experts.");
}

/** Canonical name of the gate of a shared expert, shape [1, hidden]; only with `sharedGate`. */
export function sharedGateName(layer: number): string {
  return `model.layers.${layer}.mlp.shared_expert_gate.weight`;
}

/** Canonical name of what is added to the scores of a router for the choice, shape [experts]; only with `choiceBias`. */
export function choiceBiasName(layer: number): string {
  return `model.layers.${layer}.mlp.gate.e_score_correction_bias`;
}

/**
 * Tensors of a short convolution, with h the input of its layer: (B, C, X) = in·h, and out · (C ∘ w(B ∘ X)) is added to the residual stream, where w
 * sums the last `length` tokens of each channel with the weights `taps`, those of the token itself last.
 */
export const CONV_PARTS = ["in", "taps", "out"] as const;

/** One of {@link CONV_PARTS}. */
export type ConvPart = typeof CONV_PARTS[number];

/** The matrices among them, which have no LoRA. */
export const CONV_MATRICES = ["in", "out"] as const;

/** One of {@link CONV_MATRICES}. */
export type ConvMatrix = typeof CONV_MATRICES[number];

const CONV_NAMES: Readonly<Record<ConvPart, string>> = { in: "in_proj", taps: "conv", out: "out_proj" };

/** Canonical name of a part of a layer's convolution. */
export function convName(layer: number, part: ConvPart): string {
  return `model.layers.${layer}.conv.${CONV_NAMES[part]}.weight`;
}

/** Shape of a part of a layer's convolution: in [3 · hidden, hidden], taps [hidden, length], out [hidden, hidden]. */
export function convShape(
  { hidden, convolution }: Pick<DecoderSpec, "hidden" | "convolution">,
  part: ConvPart,
): [number, number] {
  return { in: [3 * hidden, hidden], taps: [hidden, convolution?.length ?? 0], out: [hidden, hidden] }[part] as [
    number,
    number,
  ];
}

/** Whether a canonical name is that of the weights `taps` of a convolution, which keep f32. */
export function isTaps(name: string): boolean {
  return name.endsWith(".conv.conv.weight");
}

/** Whether a layer has attention or a convolution. */
export function hasMixer({ heads, conv }: Pick<LayerSpec, "heads" | "conv">): boolean {
  return heads > 0 || conv === true;
}

/** Masks of a layer's attention: one for each head, or one for a whole convolution. */
export function mixerMasks({ heads, conv }: Pick<LayerSpec, "heads" | "conv">): number {
  return conv ? 1 : heads;
}

/** Whether a canonical name is that of a router or of the gate of a shared expert; both keep f32. */
export function isRouter(name: string): boolean {
  return name.endsWith(".mlp.gate.weight") || name.endsWith(".mlp.shared_expert_gate.weight");
}

/** Whether a layer has an FFN or experts. */
export function hasFfn({ ffn, experts }: Pick<LayerSpec, "ffn" | "experts">): boolean {
  return ffn > 0 || experts !== undefined;
}

/** Whether a layer has a gate of its shared expert. */
export function hasSharedGate({ router }: Pick<DecoderSpec, "router">, { ffn, experts }: LayerSpec): boolean {
  return router?.sharedGate === true && experts !== undefined && ffn > 0;
}

/** Shape [out, in] of a matrix of all experts. */
export function expertsShape(
  { hidden }: Pick<DecoderSpec, "hidden">,
  { count, ffn }: ExpertCounts,
  matrix: ExpertMatrix,
): [number, number] {
  return matrix === "down" ? [count * hidden, ffn] : [count * ffn, hidden];
}

/** Width of one attention head of a layer. */
export function headDimOf(
  { headDim, localHeadDim }: Pick<DecoderSpec, "headDim" | "localHeadDim">,
  { rope }: { readonly rope?: LayerSpec["rope"] | undefined },
): number {
  return rope === "local" ? localHeadDim ?? headDim : headDim;
}

/** Canonical name of the factor at the end of a layer, shape [1]; only with `layerScale`. */
export function layerScaleName(layer: number): string {
  return `model.layers.${layer}.layer_scalar`;
}

/** Number of dims of each head that RoPE rotates, in pairs (i, i + dims / 2). */
export function ropeDims({ headDim, rope }: Pick<DecoderSpec, "headDim" | "rope">): number {
  return rope.dims ?? headDim;
}

/** Whether a projection has a bias. */
export function hasBias({ biases = [] }: DecoderSpec, projection: Projection): boolean {
  return biases.includes(projection);
}

/** A spec with these biases, in canonical order. */
export function withBiases(spec: DecoderSpec, biases: Iterable<Projection>): DecoderSpec {
  const wanted = new Set(biases), { biases: _, ...plain } = spec;
  return wanted.size === 0 ? plain : { ...plain, biases: PROJECTIONS.filter((projection) => wanted.has(projection)) };
}

/** A norm of a layer: of the input (or of the residual stream after it) or of the output of attention or FFN. */
export type NormPlace = "attention" | "ffn" | "attention_output" | "ffn_output";

const NORM_NAMES: Readonly<Record<NormPlace, string>> = {
  attention: "input_layernorm",
  ffn: "post_attention_layernorm",
  attention_output: "post_self_attn_layernorm",
  ffn_output: "post_mlp_layernorm",
};

/** The norms of a layer, in canonical order. Those of outputs only with `normPlaces`. */
export function normPlaces(spec: Pick<DecoderSpec, "normPlaces" | "parallel">): readonly NormPlace[] {
  const inputs = spec.parallel === "shared" ? ["attention"] as const : ["attention", "ffn"] as const,
    outputs = ["attention_output", "ffn_output"] as const;
  if (spec.normPlaces === "after") return outputs;
  return spec.normPlaces === "both" ? [...inputs, ...outputs] : inputs;
}

/** Whether a layer with these counts has a norm, given that its model has such norms. */
export function hasNorm(
  { parallel }: Pick<DecoderSpec, "parallel">,
  layer: LayerSpec,
  place: NormPlace,
): boolean {
  if (place === "attention" && parallel === "shared") return hasMixer(layer) || hasFfn(layer);
  return place === "attention" || place === "attention_output" ? hasMixer(layer) : hasFfn(layer);
}

/** Whether there is a norm between the last layer and the head. */
export function hasFinalNorm({ normPlaces }: Pick<DecoderSpec, "normPlaces">): boolean {
  return normPlaces !== "residual";
}

/** Width of the token embedding and of the input of the head. */
export function embeddingWidth({ embeddingWidth, hidden }: Pick<DecoderSpec, "embeddingWidth" | "hidden">): number {
  return embeddingWidth ?? hidden;
}

/** Number of parameters outside the layers, for this hidden size. */
export function outerParameters(spec: DecoderSpec, hidden: number): number {
  const { vocab, tied, embeddingWidth: own } = spec, norm = hasFinalNorm(spec) ? normVectors(spec) : 0;
  const matrices = vocab * (own ?? hidden) * (tied ? 1 : 2), bias = spec.headBias ? vocab : 0;
  return matrices + bias + hidden * (2 * (own ?? 0) + positionRows(spec) + norm);
}

/**
 * Canonical name of a layer's RMSNorm weight, shape [hidden]. Those of LLaMA have LLaMA's names, the others those of
 * GLM-4, which has both.
 */
export function normName(layer: number, place: NormPlace): string {
  return `model.layers.${layer}.${NORM_NAMES[place]}.weight`;
}

/** The norms of width `hidden` that a layer with these counts has. */
export function layerNorms(
  spec: Pick<DecoderSpec, "normPlaces" | "parallel">,
  layer: LayerSpec,
): readonly NormPlace[] {
  return normPlaces(spec).filter((place) => hasNorm(spec, layer, place));
}

/** Canonical name of the bias of a norm, shape [hidden]; only with LayerNorm. */
export function normBiasName(weight: string): string {
  return weight.replace(/weight$/, "bias");
}

/** Canonical names of the weight of a norm and, with LayerNorm, of its bias. */
export function normTensors({ norm }: DecoderSpec, weight: string): string[] {
  return norm === "layer" ? [weight, normBiasName(weight)] : [weight];
}

/**
 * Parts of the curve of xIELU, which each layer with an FFN has as tensors of one value: with a = softplus(alpha_p) and
 * b = beta + softplus(alpha_n), f(x) = a·x² + beta·x above 0, and b·(exp(min(x, eps)) − 1 − x) + beta·x otherwise.
 */
export const CURVE_PARTS = ["alpha_p", "alpha_n", "beta", "eps"] as const;

/** One of {@link CURVE_PARTS}. */
export type CurvePart = typeof CURVE_PARTS[number];

/** Canonical name of a part of the curve of a layer, shape [1] for the two alphas and [] for the others; only with "xielu". */
export function curveName(layer: number, part: CurvePart): string {
  return `model.layers.${layer}.mlp.act_fn.${part}`;
}

/** Number of parameters of the curve of a layer: beta and eps are settings. */
export function curveParameters(spec: Pick<DecoderSpec, "activation">, layer: Pick<LayerSpec, "ffn">): number {
  return curveParts(spec, layer).length / 2;
}

/** Whether a canonical name is that of a part of a curve. */
export function isCurve(name: string): boolean {
  return name.includes(".mlp.act_fn.");
}

/** The parts of the curve that a layer has. */
export function curveParts(
  { activation }: Pick<DecoderSpec, "activation">,
  { ffn }: Pick<LayerSpec, "ffn">,
): readonly CurvePart[] {
  return activation === "xielu" && ffn > 0 ? CURVE_PARTS : [];
}

/** Number of weight matrices [ffn, hidden] or [hidden, ffn] of an FFN: gate, up and down, or the last two. */
export function ffnMatrices({ ungated }: Pick<DecoderSpec, "ungated">): number {
  return ungated ? 2 : 3;
}

/** Weights of a layer's matrices per hidden dim. */
export function linearPerDim(
  spec: Pick<DecoderSpec, "headDim" | "localHeadDim" | "hidden" | "ungated">,
  { ffn, experts = { count: 0, ffn: 0 }, ...mixer }: Pick<LayerSpec, LayerCount | "experts" | "conv" | "rope">,
): number {
  const ofExperts = experts.count * (1 + EXPERT_MATRICES.length * experts.ffn);
  return mixerPerDim(spec, mixer) + ffnMatrices(spec) * ffn + ofExperts;
}

/** Weights of the matrices of a layer's attention or convolution per hidden dim. */
export function mixerPerDim(
  spec: Pick<DecoderSpec, "headDim" | "localHeadDim" | "hidden">,
  { heads, kvHeads, conv, rope }: Pick<LayerSpec, "heads" | "kvHeads" | "conv" | "rope">,
): number {
  return 2 * headDimOf(spec, { rope }) * (heads + kvHeads) + (conv ? 4 * spec.hidden : 0);
}

/** Vectors [hidden] of a norm: weight and, with LayerNorm, bias. */
export function normVectors({ norm }: Pick<DecoderSpec, "norm">): number {
  return norm === "layer" ? 2 : 1;
}

/** Whether a layer of this model has the projection at all, apart from its counts. */
export function hasProjection({ ungated }: Pick<DecoderSpec, "ungated">, projection: Projection): boolean {
  return projection !== "gate" || !ungated;
}

/** Whether a canonical name is that of a norm's weight. */
export function isNormWeight(name: string): boolean {
  return name.endsWith("norm.weight");
}

/** Canonical name of the weight of the norm of a layer's query or key heads; only with `qkNorm`. */
export function headNormName(layer: number, of: "q" | "k"): string {
  return `model.layers.${layer}.self_attn.${of}_norm.weight`;
}

/** Widths of the norms of q and k in a layer; 0 without them. */
export function headNormWidths(
  { qkNorm, ...spec }: Pick<DecoderSpec, "qkNorm" | "headDim" | "localHeadDim">,
  { heads, kvHeads, rope }: LayerSpec,
): Readonly<Record<typeof QK[number], number>> {
  if (!qkNorm || heads === 0) return { q: 0, k: 0 };
  const headDim = headDimOf(spec, { rope });
  return qkNorm === "head" ? { q: headDim, k: headDim } : { q: heads * headDim, k: kvHeads * headDim };
}

/** Number of parameters of a layer's norms of q and k. */
export function headNormParameters(spec: DecoderSpec, layer: LayerSpec): number {
  const { q, k } = headNormWidths(spec, layer);
  return q + k;
}

/** Shape [out, in] of a projection in a layer. */
export function projectionShape(spec: DecoderSpec, layer: LayerSpec, projection: Projection): [number, number] {
  const { hidden } = spec, headDim = headDimOf(spec, layer);
  switch (projection) {
    case "q":
      return [layer.heads * headDim, hidden];
    case "k":
    case "v":
      return [layer.kvHeads * headDim, hidden];
    case "o":
      return [hidden, layer.heads * headDim];
    case "gate":
    case "up":
      return [layer.ffn, hidden];
    case "down":
      return [hidden, layer.ffn];
  }
}

/**
 * Every tensor of a model with its shape, in file order. Absent parts (no heads, no FFN) and their norms are left out.
 */
export function tensorShapes(spec: DecoderSpec): Map<string, number[]> {
  const { vocab, hidden, tied, embeddingWidth: inner } = spec;
  const shapes = new Map<string, number[]>([[EMBEDDING, [vocab, inner ?? hidden]]]);
  const norm = (weight: string): void => {
    for (const name of normTensors(spec, weight)) shapes.set(name, [spec.hidden]);
  };
  if (inner !== undefined) shapes.set(PROJECT_IN, [hidden, inner]);
  if (spec.positions) shapes.set(POSITIONS, [positionRows(spec), spec.hidden]);
  spec.layers.forEach((layer, index) => {
    for (const place of layerNorms(spec, layer)) norm(normName(index, place));
    const widths = headNormWidths(spec, layer);
    for (const of of QK) if (widths[of] > 0) shapes.set(headNormName(index, of), [widths[of]]);
    for (const projection of PROJECTIONS) {
      if (!hasProjection(spec, projection)) continue;
      const shape = projectionShape(spec, layer, projection);
      if (shape[0] === 0 || shape[1] === 0) continue;
      shapes.set(projectionName(index, projection), shape);
      if (hasBias(spec, projection)) shapes.set(biasName(index, projection), [shape[0]]);
    }
    for (const part of layer.conv ? CONV_PARTS : []) shapes.set(convName(index, part), convShape(spec, part));
    for (const part of curveParts(spec, layer)) {
      shapes.set(curveName(index, part), part.startsWith("alpha") ? [1] : []);
    }
    if (spec.layerScale) shapes.set(layerScaleName(index), [1]);
    const { experts } = layer;
    if (!experts) return;
    if (hasSharedGate(spec, layer)) shapes.set(sharedGateName(index), [1, hidden]);
    shapes.set(routerName(index), [experts.count, hidden]);
    if (spec.router?.choiceBias) shapes.set(choiceBiasName(index), [experts.count]);
    for (const matrix of EXPERT_MATRICES) shapes.set(expertsName(index, matrix), expertsShape(spec, experts, matrix));
  });
  if (hasFinalNorm(spec)) norm(FINAL_NORM);
  if (inner !== undefined) shapes.set(PROJECT_OUT, [inner, hidden]);
  if (!tied) shapes.set(HEAD, [vocab, inner ?? hidden]);
  if (spec.headBias) shapes.set(HEAD_BIAS, [vocab]);
  return shapes;
}

/** A layer with other counts and the same window and RoPE. */
export function withCounts(
  { heads: _heads, kvHeads: _kvHeads, ffn: _ffn, ...rest }: LayerSpec,
  counts: Readonly<Record<LayerCount, number>>,
): LayerSpec {
  return { ...counts, ...rest };
}

/** A layer with this window; undefined for none. */
export function withWindow({ window: _, ...layer }: LayerSpec, window: number | undefined): LayerSpec {
  return window === undefined ? layer : { ...layer, window };
}

/** Tokens that a layer's part of a cache is read of, the new token included; undefined for all tokens. A convolution reads as many as it sums. */
export function cacheWindow(
  { convolution }: Pick<DecoderSpec, "convolution">,
  { window, conv }: Pick<LayerSpec, "window" | "conv">,
): number | undefined {
  return conv ? convolution?.length : window;
}

/** The distinct {@link cacheWindow}s of the layers with attention or a convolution. */
export function cacheWindowsOf(spec: Pick<DecoderSpec, "convolution" | "layers">): (number | undefined)[] {
  return [...new Set(spec.layers.filter(hasMixer).map((layer) => cacheWindow(spec, layer)))];
}

/** The distinct windows of the layers that have attention; undefined stands for full attention. */
export function windowsOf({ layers }: DecoderSpec): (number | undefined)[] {
  return [...new Set(layers.filter(({ heads }) => heads > 0).map(({ window }) => window))];
}

/**
 * Whether all layers have the same counts, with at least one head and one FFN column; layers with a convolution have no heads. Formats without
 * per-layer counts require this.
 */
export function layersAlike(spec: Pick<DecoderSpec, "layers" | "localHeadDim">): boolean {
  return spec.layers.length > 0 && unlikeLayer(spec) < 0;
}

/**
 * The first layer that is not like the first with attention, or the first at all; see {@link layersAlike}. −1 if there is none. With `localHeadDim`,
 * layers with a RoPE of their own have as many KV heads as the first of these.
 */
export function unlikeLayer({ layers, localHeadDim }: Pick<DecoderSpec, "layers" | "localHeadDim">): number {
  const first = layers.find(({ conv }) => !conv) ?? layers[0];
  const kvHeadsOf = (local: boolean): number | undefined =>
    (localHeadDim === undefined ? first : layers.find(({ rope }) => (rope === "local") === local))?.kvHeads;
  return layers.findIndex((layer) => {
    const { heads, kvHeads, ffn, experts, conv, rope } = layer;
    return !hasMixer(layer) || !hasFfn(layer) ||
      (!conv && (heads !== first?.heads || kvHeads !== kvHeadsOf(rope === "local"))) ||
      ffn !== first?.ffn || experts?.count !== first.experts?.count || experts?.ffn !== first.experts?.ffn;
  });
}

/** Number of parameters of a whole model. A tied head counts once. A tensor without dimensions is a setting, as is the factor of a layer: they do not count. */
export function parameterCount(spec: DecoderSpec): number {
  let total = 0;
  for (const [name, shape] of tensorShapes(spec)) {
    if (shape.length > 0 && !name.endsWith(".layer_scalar")) {
      total += shape.reduce((product, size) => product * size, 1);
    }
  }
  return total;
}

/** Parameters of the layers' linear weights, biases aside: what sparsity is a share of unless hidden dims are cut. */
export function linearCount(spec: DecoderSpec): number {
  return spec.layers.reduce((sum, layer) => sum + spec.hidden * linearPerDim(spec, layer), 0);
}

/** Projections of a layer. */
export function presentProjections(spec: Pick<DecoderSpec, "ungated">, layer: LayerSpec): Projection[] {
  return PROJECTIONS.filter((name) =>
    name === "gate" || name === "up" || name === "down" ? layer.ffn > 0 && hasProjection(spec, name) : layer.heads > 0
  );
}

/** Whether attention of a layer rotates queries and keys. */
export function hasRope({ positions }: Pick<DecoderSpec, "positions">, { rope }: Pick<LayerSpec, "rope">): boolean {
  return positions === undefined && rope !== "none";
}

/** Rows of the learned position embeddings; 0 without them. */
export function positionRows({ positions, maxPosition }: DecoderSpec): number {
  return positions ? maxPosition + positions.offset : 0;
}
