// All kernels as text with their bindings. Only this file imports .wgsl.
import type { Binding, KernelSource } from "./source.ts";
import { CACHE_KEYS } from "./shared/attention_text.ts";
import accumulateText from "./shared/accumulate.wgsl" with { type: "text" };
import geluText from "./shared/activation_gelu.wgsl" with { type: "text" };
import geluTanhText from "./shared/activation_gelu_tanh.wgsl" with { type: "text" };
import xieluText from "./shared/activation_xielu.wgsl" with { type: "text" };
import relu2Text from "./shared/activation_relu2.wgsl" with { type: "text" };
import reluText from "./shared/activation_relu.wgsl" with { type: "text" };
import siluText from "./shared/activation_silu.wgsl" with { type: "text" };
import addBiasText from "./shared/add_bias.wgsl" with { type: "text" };
import adamwText from "./shared/adamw.wgsl" with { type: "text" };
import agreementText from "./shared/agreement.wgsl" with { type: "text" };
import bestOfRowPrelude from "./shared/best_of_row.wgsl" with { type: "text" };
import cacheAppendText from "./buffer/cache_append.wgsl" with { type: "text" };
import cacheFillText from "./texture/cache_fill.wgsl" with { type: "text" };
import clippingPrelude from "./shared/clipping.wgsl" with { type: "text" };
import columnStatsText from "./shared/column_stats.wgsl" with { type: "text" };
import columnStatsMergeText from "./shared/column_stats_merge.wgsl" with { type: "text" };
import copyRowsText from "./shared/copy_rows.wgsl" with { type: "text" };
import dropoutText from "./shared/dropout.wgsl" with { type: "text" };
import expertCombineText from "./shared/expert_combine.wgsl" with { type: "text" };
import expertNormsText from "./shared/expert_norms.wgsl" with { type: "text" };
import expertOrderText from "./shared/expert_order.wgsl" with { type: "text" };
import expertUseText from "./shared/expert_use.wgsl" with { type: "text" };
import expectedSizeText from "./shared/expected_size.wgsl" with { type: "text" };
import expectedSizePrelude from "./shared/expected_size_prelude.wgsl" with { type: "text" };
import greedyNextText from "./shared/greedy_next.wgsl" with { type: "text" };
import hardConcretePrelude from "./shared/hard_concrete.wgsl" with { type: "text" };
import lionText from "./shared/lion.wgsl" with { type: "text" };
import maskBoundsText from "./shared/mask_bounds.wgsl" with { type: "text" };
import maskExpandText from "./shared/mask_expand.wgsl" with { type: "text" };
import maskGatesText from "./shared/mask_gates.wgsl" with { type: "text" };
import maskGatesNone from "./shared/mask_gates_none.wgsl" with { type: "text" };
import maskGatesSome from "./shared/mask_gates_some.wgsl" with { type: "text" };
import maskMovedBounded from "./shared/mask_moved_bounded.wgsl" with { type: "text" };
import maskMovedFree from "./shared/mask_moved_free.wgsl" with { type: "text" };
import maskPrelude from "./shared/mask_prelude.wgsl" with { type: "text" };
import maskProjectText from "./shared/mask_project.wgsl" with { type: "text" };
import maskSampleText from "./shared/mask_sample.wgsl" with { type: "text" };
import maskSaturation from "./shared/mask_saturation.wgsl" with { type: "text" };
import maskTables from "./shared/mask_tables.wgsl" with { type: "text" };
import maskUpdateText from "./shared/mask_update.wgsl" with { type: "text" };
import maskUpdateGated from "./shared/mask_update_gated.wgsl" with { type: "text" };
import maskUpdatePlain from "./shared/mask_update_plain.wgsl" with { type: "text" };
import maskWrittenText from "./shared/mask_written.wgsl" with { type: "text" };
import multiplyText from "./shared/multiply.wgsl" with { type: "text" };
import randomPrelude from "./shared/random.wgsl" with { type: "text" };
import recordText from "./shared/record.wgsl" with { type: "text" };
import reducePartialsText from "./shared/reduce_partials.wgsl" with { type: "text" };
import reducePairsPrelude from "./shared/reduce_pairs.wgsl" with { type: "text" };
import reducePrelude from "./shared/reduce.wgsl" with { type: "text" };
import residualText from "./shared/residual.wgsl" with { type: "text" };
import residualScaledText from "./shared/residual_scaled.wgsl" with { type: "text" };
import sampleNextText from "./shared/sample_next.wgsl" with { type: "text" };
import routerChoiceText from "./shared/router_choice.wgsl" with { type: "text" };
import rotateAppendText from "./buffer/rotate_append.wgsl" with { type: "text" };
import scaleText from "./shared/scale.wgsl" with { type: "text" };
import scaleBackwardText from "./shared/scale_backward.wgsl" with { type: "text" };
import shortConvAppendText from "./buffer/short_conv_append.wgsl" with { type: "text" };
import shortConvDecodeText from "./buffer/short_conv_decode.wgsl" with { type: "text" };
import softCapText from "./shared/soft_cap.wgsl" with { type: "text" };
import stateChangeText from "./shared/state_change.wgsl" with { type: "text" };
import statePrelude from "./shared/state.wgsl" with { type: "text" };
import sumText from "./shared/sum.wgsl" with { type: "text" };
import topLogitsText from "./shared/top_logits.wgsl" with { type: "text" };
import weightTermColumnsText from "./shared/weight_term_columns.wgsl" with { type: "text" };
import weightTermRowsText from "./shared/weight_term_rows.wgsl" with { type: "text" };
import { activationBackward, activationKernel, type FfnActivation } from "./shared/activation.ts";
import { type LossKernel, lossKernelWith } from "./shared/loss.ts";
import { type Norm, normKernelWith, type NormLanes } from "./shared/norm.ts";
import { weightAccess, weightBindings, type WeightStorage } from "./shared/weight_access.ts";

export * from "./shared/attention.ts";
export * from "./shared/attention_backward.ts";
export * from "./buffer/attention_decode.ts";
export * from "./texture/attention_decode.ts";
export * from "./texture/attention_lanes.ts";
export * from "./shared/embedding.ts";
export * from "./shared/expert_product.ts";
export { type FileDtype, fileLayout, fileTexels, isFileDtype, isLongBlock } from "./shared/file_blocks.ts";
export * from "./shared/matvec.ts";
export * from "./texture/matvec_batch.ts";
export * from "./shared/positions.ts";
export * from "./shared/rope.ts";
export * from "./shared/short_conv.ts";
export * from "./buffer/product.ts";
export * from "./buffer/product_matrix.ts";
export * from "./texture/product_pack.ts";
export * from "./texture/product.ts";
export * from "./buffer/product_tiled.ts";
export * from "./shared/unpack_blocks.ts";
export { type BlockedType, isBlocked, scalesOfBlock, UNPACK_GROUP } from "./shared/unpack_layouts.ts";
export * from "./shared/weight_access.ts";

export { comparesLogits, LOSSES, type LossName } from "./shared/loss.ts";
export type { Norm, NormLanes } from "./shared/norm.ts";
export type { AttentionLanes } from "./texture/attention_lanes_text.ts";
export { type AttentionTile, CACHE_KEYS } from "./shared/attention_text.ts";

/** Rows that one invocation of a column reduction sums before the partials are added. */
export const ROW_BLOCK = 64;
/** Decay rates (β₁, β₂) of what optimizers keep; Adam of log α and λ has those of `masks`. */
export const BETAS = { adamw: [0.9, 0.999], lion: [0.9, 0.99], masks: [0.9, 0.99] } as const;
/** Index of the sum of squared LoRA gradients in the metrics of a step; index 0 is the loss. */
export const GRAD_SQUARES = 1;

const group = (lanes: number): string => `const GROUP = ${lanes}u;\n`;
const reduce = (lanes: number): string => group(lanes) + reducePrelude;
const reducePairs = (lanes: number): string => group(lanes) + reducePairsPrelude;
const keys = `const CACHE_KEYS = ${CACHE_KEYS}u;\n`;
const betas = (of: keyof typeof BETAS): string => `const B1 = ${BETAS[of][0]};\nconst B2 = ${BETAS[of][1]};\n`;
const block = `const BLOCK = ${ROW_BLOCK}u;\n`;
const metrics = `const GRAD_SQUARES = ${GRAD_SQUARES}u;\n`;

/** A norm, forward or backward: see {@link normKernelWith}. */
export function normKernel(norm: Norm): KernelSource {
  return normKernelWith(norm, reduce(norm.lanes));
}

/** Masked activation of an FFN with and without a gate: see {@link activationKernel}. */
export const activated = forActivations(activationKernel);
/** Its backward: see {@link activationBackward}. */
export const activatedBackward = forActivations((activation) => activationBackward(activation, ROW_BLOCK));
/** y = x ∘ z by column groups: bindings x, z, y, params. */
export const scale = kernel("scale", maskPrelude + scaleText, "read read storage uniform");
/** Its backward: bindings dy, z, v → dv, partial, params. */
export const scaleBackward = kernel(
  "scale_backward",
  maskPrelude + block + scaleBackwardText,
  "read read storage storage uniform",
);
/** dz and its squares from partials: bindings partial, dz, squares, params. */
export const reducePartials = kernel("reduce_partials", reducePartialsText, "read storage storage uniform");
/** out = x + y ∘ z: bindings x, y, z, out, params. */
export const residual = kernel("residual", residualText, "read read read storage uniform");
/** out = x + s·y ∘ z: bindings x, y, z, out, params. */
export const residualScaled = kernel("residual_scaled", residualScaledText, "read read read storage uniform");
/** y = s·x: bindings x, y, params. */
export const multiply = kernel("multiply", multiplyText, "read storage uniform");
/** y += b: bindings b, y, params. */
export const addBias = kernel("add_bias", addBiasText, "read storage uniform");
/** Means and squared deviations of columns by row block: bindings x, keep, counts, partial, params. */
export const columnStats = kernel("column_stats", block + columnStatsText, "read read read storage uniform");
/** Merges blocks into running statistics: bindings partial, counts, stats, params. */
export const columnStatsMerge = kernel("column_stats_merge", columnStatsMergeText, "read read storage uniform");
/** How a part changes the residual stream: bindings x, y, changes, params. */
export function stateChangeKernel(lanes: 8 | 64): KernelSource {
  return kernel(`state_change-${lanes}`, reduce(lanes) + stateChangeText, "read read storage uniform");
}
/** Gathers or scatters rows by index: bindings order, x, y, params. */
export const copyRows = kernel("copy_rows", copyRowsText, "read read storage uniform");
/** Chooses the experts of each token: bindings logits, open, choice, weights, params. */
export const routerChoice = kernel("router_choice", routerChoiceText, "read read read storage storage uniform");
/** Sorts pairs by expert: bindings choice, counts, starts, slots, slot_of, tiles, params. */
export const expertOrder = kernel(
  "expert_order",
  expertOrderText,
  "read storage storage storage storage storage uniform",
);
/** Sums the outputs of a token's experts: bindings weights, slot_of, d, gate, y, params. */
export const expertCombine = kernel("expert_combine", expertCombineText, "read read read read storage uniform");
/** What each expert adds to each of its tokens: bindings weights, slot_of, d, keep, parts, params. */
export const expertNorms = kernel(
  "expert_norms",
  reduce(64) + expertNormsText,
  "read read read read storage uniform",
);
/** Sums of what each expert adds: bindings choice, parts, use_of, params. */
export const expertUse = kernel("expert_use", expertUseText, "read read storage uniform");
/** Losses of a chunk of logits: see {@link lossKernelWith}. */
export function lossKernel(loss: LossKernel): KernelSource {
  return lossKernelWith(loss, statePrelude + reduce(loss.lanes));
}
/** Soft cap in place: bindings x, params. */
export const softCap = kernel("soft_cap", softCapText, "storage uniform");
/**
 * Log-probabilities of a chunk, for a target and the most likely tokens: bindings targets, logits, chosen, ids, values,
 * params.
 */
export const topLogits = kernel(
  "top_logits",
  reduce(256) + topLogitsText,
  "read read storage storage storage uniform",
);
/** A model and the dense one on a chunk: bindings targets, denseTargets, pairs, dense, logits, agreement, params. */
export function agreementKernel(lanes: 8 | 256): KernelSource {
  const text = reduce(lanes) + bestOfRowPrelude + agreementText;
  return kernel(`agreement-${lanes}`, text, "read read read read read storage uniform");
}
/** Rows of the KV cache in buffers: bindings k, v, position, pages, kCache, vCache, params. */
export const cacheAppend = kernel(
  "cache_append",
  keys + cacheAppendText,
  "read read read read storage storage uniform",
);
/** Rows of the KV cache in textures: bindings k, v, position, pages, kCache, vCache, params. */
export const cacheFill = kernel(
  "cache_fill",
  keys + cacheFillText,
  "read read read read texture-store-f32 texture-store-f32 uniform",
);
/** A short convolution of tokens after cached ones: bindings bcx, w, position, pages, cache, y, params. */
export const shortConvDecode = kernel(
  "short_conv_decode",
  keys + shortConvDecodeText,
  "read read read read read storage uniform",
);
/** The inputs of a short convolution to its cache: bindings bcx, position, pages, cache, params. */
export const shortConvAppend = kernel(
  "short_conv_append",
  keys + shortConvAppendText,
  "read read read storage uniform",
);
/** RoPE of a token of each row and its key of the KV cache: bindings table, position, pages, qkv, kCache, vCache, params. */
export const rotateAppend = kernel(
  "rotate_append",
  keys + rotateAppendText,
  "read read read storage storage storage uniform",
);
const bestOfRow = `const GROUP = 256u;\n${bestOfRowPrelude}`;
/** Greedy choice of the next token: bindings logits, tokens, picks, position, params. */
export const greedyNext = kernel(
  "greedy_next",
  bestOfRow + greedyNextText,
  "read storage storage storage uniform",
);
/**
 * Draw of the next token: bindings logits, settings, table, tokens, picks, position, weights, seen, params.
 */
export const sampleNext = kernel(
  "sample_next",
  bestOfRow + randomPrelude + sampleNextText,
  "read read read storage storage storage storage storage uniform",
);
/** Dropout: bindings x, state, y, params. */
export const dropout = kernel(
  "dropout",
  statePrelude + randomPrelude + dropoutText,
  "read read storage uniform",
);
/** Block sums: bindings x, state, partial, params. */
export const sum = kernel("sum", statePrelude + reduce(256) + sumText, "read read storage uniform");
/** Sum over micro-batches: bindings x, total, params. */
export const accumulate = kernel("accumulate", accumulateText, "read storage uniform");
/** AdamW: bindings g, state, metrics, w, m, v, params. */
export const adamw = kernel(
  "adamw",
  statePrelude + metrics + clippingPrelude + betas("adamw") + adamwText,
  "read read read storage storage storage uniform",
);
/** Lion: bindings g, state, metrics, w, m, params. */
export const lion = kernel(
  "lion",
  statePrelude + metrics + clippingPrelude + betas("lion") + lionText,
  "read read read storage storage uniform",
);
/** Hard concrete sample: bindings logAlpha, state, draws, params. */
export const maskSample = kernel(
  "mask_sample",
  statePrelude + randomPrelude + hardConcretePrelude + maskSampleText,
  "read read storage uniform",
);
/** Unit values to slots: bindings draws, owners, slots, params. */
export const maskExpand = kernel("mask_expand", maskExpandText, "read read storage uniform");
/** Draws with zero slope for written slots: bindings tables, slots, draws, params. */
export const maskWritten = kernel("mask_written", maskTables + maskWrittenText, "read read storage uniform");

/** Largest number of layers whose gates one workgroup can hold. */
export const MOST_GATED_LAYERS = 1024;
/** Variant of mask learning: whether layers have gates, and whether bounds or held units limit movement. */
export interface MaskVariant {
  readonly gated: boolean;
  readonly bounded: boolean;
}
const expected = ({ gated, bounded }: MaskVariant): string =>
  `const MOST_LAYERS = ${MOST_GATED_LAYERS}u;\n` + statePrelude + reducePairs(256) + hardConcretePrelude +
  maskTables + expectedSizePrelude + (bounded ? maskMovedBounded : maskMovedFree) +
  (gated ? maskGatesSome : maskGatesNone);
/** Expected sparsity and λ ascent: bindings logAlpha, tables, state, constraint, params. */
export const expectedSize = forGates((gated) =>
  kernel(
    "expected_size",
    expected({ gated, bounded: false }) + betas("masks") + expectedSizeText,
    "read read read storage uniform",
  )
);
/** Sums and sizes for the layers' gates: bindings dz, draws, tables, gates, params. */
export const maskGates = kernel(
  "mask_gates",
  reduce(64) + maskTables + maskGatesText,
  "read read read storage uniform",
);
/** Descent on log α: bindings dz, draws, tables, constraint, state, logAlpha, moments, params; gated: also gates. */
export const maskUpdate = forGates((gated) =>
  kernel(
    "mask_update",
    statePrelude + hardConcretePrelude + maskTables + betas("masks") + maskUpdateText +
      (gated ? maskUpdateGated : maskUpdatePlain),
    `read read read read read storage storage uniform${gated ? " read" : ""}`,
  )
);
/** Bounds of the shift by part: bindings logAlpha, tables, state, goals, bounds, params. */
export const maskBounds = kernel(
  "mask_bounds",
  statePrelude + reduce(64) + reducePairsPrelude + hardConcretePrelude + maskTables + maskSaturation + maskBoundsText,
  "read read read read storage uniform",
);
/** Projection onto the constraint: bindings logAlpha, tables, state, constraint, params; bounded: also bounds. */
export const maskProject: Readonly<Record<"gated" | "plain", Readonly<Record<"bounded" | "free", KernelSource>>>> =
  forGates((gated) => ({ bounded: projection({ gated, bounded: true }), free: projection({ gated, bounded: false }) }));
/** A row of the record ring: bindings metrics, constraint, state, ring, params. */
export const record = kernel("record", statePrelude + recordText, "read read read storage uniform");

/** Σ|W ∘ dW| by row: bindings gradient, sums, params, W (and its scales). */
export function weightTermRows(storage: WeightStorage, lanes: NormLanes): KernelSource {
  return weightTerms("rows", storage, reduce(lanes) + weightTermRowsText);
}

/** Σ|W ∘ dW| by column: bindings gradient, sums, params, W (and its scales). */
export function weightTermColumns(storage: WeightStorage): KernelSource {
  return weightTerms("columns", storage, weightTermColumnsText);
}

function weightTerms(by: "rows" | "columns", storage: WeightStorage, text: string): KernelSource {
  return {
    name: `weight-term-${by}-${storage.placement}-${storage.dtype}`,
    code: weightAccess(storage, 3) + text,
    bindings: ["read", "storage", "uniform", ...weightBindings(storage)],
  };
}

function forActivations<T>(
  make: (activation: FfnActivation) => T,
): Readonly<
  Record<"silu" | "gelu" | "gelu_tanh" | "relu" | "relu2" | "xielu", Readonly<Record<"gated" | "plain", T>>>
> {
  const both = (name: string, text: string, hasCurve = false): Readonly<Record<"gated" | "plain", T>> =>
    forGates((isGated) => make({ name: isGated ? name : `ungated_${name}`, text, isGated, hasCurve }));
  return {
    silu: both("swiglu", siluText),
    gelu: both("geglu_erf", geluText),
    gelu_tanh: both("geglu", geluTanhText),
    relu: both("reglu", reluText),
    relu2: both("relu2glu", relu2Text),
    xielu: both("xielu", xieluText, true),
  };
}

function forGates<T>(make: (gated: boolean) => T): Readonly<Record<"gated" | "plain", T>> {
  return { gated: make(true), plain: make(false) };
}

function projection(variant: MaskVariant): KernelSource {
  const bindings = `storage read read storage uniform${variant.bounded ? " read" : ""}`;
  return kernel("mask_project", expected(variant) + maskSaturation + maskProjectText, bindings);
}

function kernel(name: string, code: string, bindings: string): KernelSource {
  return { name, code, bindings: bindings.split(" ") as Binding[] };
}
