// What families with experts share: keys, routers and layers of a configuration, limits, and modules of a folder.
import { z } from "../core/packages.ts";
import type { Json } from "../core/guards.ts";
import type { DecoderSpec, LayerSpec, Router } from "../spec/decoder.ts";
import { type Config, type ExpertModules, type LayerParts, type ReadContext, width } from "./family.ts";
import { alike, type Limit } from "./fit.ts";
import { flag } from "./shared.ts";

/** Keys of experts; a family has some of them. */
export const EXPERT_KEYS = {
  num_experts: width.nullish(),
  num_local_experts: width.nullish(),
  num_experts_per_tok: width.nullish(),
  moe_intermediate_size: width.nullish(),
  shared_expert_intermediate_size: width.nullish(),
  norm_topk_prob: flag,
  decoder_sparse_step: z.int().nonnegative().nullish(),
  mlp_only_layers: z.array(z.int().nonnegative()).nullish(),
};

type Own = Config & z.infer<z.ZodObject<typeof EXPERT_KEYS>>;

/** Defaults of a family. */
interface Usual {
  readonly experts: number;
  readonly topK: number;
  /** Columns of an expert; absent if they are `intermediate_size`. */
  readonly ffn?: number;
  readonly shared?: number;
}

/** The router of a configuration, and the parts of its layers. */
export function expertsOf(
  config: Own,
  { fail }: ReadContext,
  usual: Usual,
  router: Omit<Router, "topK">,
): { readonly router: Router; readonly layer: (index: number) => LayerParts } {
  const count = config.num_experts ?? config.num_local_experts ?? usual.experts;
  const topK = config.num_experts_per_tok ?? usual.topK;
  if (topK > count) fail("num_experts_per_tok", `it is at most the number of experts, ${count}`);
  const ffn = usual.ffn === undefined
    ? config.intermediate_size ?? fail("intermediate_size", "it is given")
    : config.moe_intermediate_size ?? usual.ffn;
  const shared = usual.shared === undefined ? 0 : config.shared_expert_intermediate_size ?? usual.shared;
  const { decoder_sparse_step: step = 1, mlp_only_layers: dense } = config;
  const isDense = (index: number): boolean =>
    usual.ffn !== undefined && (dense?.includes(index) === true || !step || (index + 1) % step !== 0);
  return {
    router: { topK, ...router },
    layer: (index) => isDense(index) ? {} : { ffn: shared, experts: { count, ffn } },
  };
}

/** A layer with the parts of two. */
export function both(
  one: (index: number) => LayerParts,
  other: (index: number) => LayerParts,
): (index: number) => LayerParts {
  return (index) => ({ ...one(index), ...other(index) });
}

/** Layers with experts have the same counts, and dense ones too. */
export const alikeByKind: Limit = (spec) => {
  const { layers } = spec;
  for (const part of [layers.filter(({ experts }) => experts), layers.filter(({ experts }) => !experts)]) {
    const misfit = part.length > 0 ? alike({ ...spec, layers: part }) : null;
    if (misfit) return misfit;
  }
  return null;
};

/** Layers with experts follow one another, after the dense ones. */
export const denseFirst: Limit = ({ layers }) => {
  const first = layers.findIndex(({ experts }) => experts);
  const other = layers.findIndex(({ experts }, index) => index > first && !experts);
  return first < 0 || other < 0
    ? null
    : { rule: "needs dense layers before those with experts alone", value: `layer ${other} is dense` };
};

/** The shared expert is as wide as a number of experts. */
export const sharedAsExperts: Limit = (spec) => {
  const { experts, ffn = 0 } = firstWith(spec) ?? {};
  return !experts || ffn % experts.ffn === 0
    ? null
    : { rule: `needs a multiple of ${experts.ffn} columns in the shared expert`, value: String(ffn) };
};

/** Every layer has experts. */
export const everywhere: Limit = ({ layers }) =>
  layers.every(({ experts }) => experts)
    ? null
    : { rule: "needs experts in all layers", value: "some layers have no experts" };

const firstWith = ({ layers }: DecoderSpec): LayerSpec | undefined => layers.find(({ experts }) => experts);

/** Keys of a family whose layers have experts or are dense. */
export function sparseKeys(spec: DecoderSpec): Json {
  const { experts, ffn = 0 } = firstWith(spec) ?? {}, dense = spec.layers.find(({ experts }) => !experts);
  return {
    num_experts: experts?.count ?? 0,
    num_experts_per_tok: spec.router?.topK ?? 0,
    moe_intermediate_size: experts?.ffn ?? 0,
    intermediate_size: dense?.ffn ?? experts?.ffn ?? 0,
    norm_topk_prob: spec.router?.renormalised === true,
    decoder_sparse_step: 1,
    mlp_only_layers: [...spec.layers.entries()].flatMap(([index, layer]) => layer.experts ? [] : [index]),
    ...ffn > 0 ? { shared_expert_intermediate_size: ffn } : {},
    use_sliding_window: false,
  };
}

/** Numbers of a model whose dense layers come first, and whose shared expert is as wide as some experts. */
export function leadingCounts(spec: DecoderSpec): {
  readonly dense: number;
  readonly count: number;
  readonly topK: number;
  readonly ffn: number;
  /** Columns of the dense layers; those of an expert where there are none. */
  readonly denseFfn: number;
  readonly shared: number;
} {
  const { experts = { count: 0, ffn: 1 }, ffn = 0 } = firstWith(spec) ?? {}, { layers, router } = spec;
  const first = layers.findIndex((layer) => layer.experts), dense = first < 0 ? layers.length : first;
  const denseFfn = layers.find((layer) => !layer.experts)?.ffn ?? experts.ffn;
  return {
    dense,
    count: experts.count,
    topK: router?.topK ?? 0,
    ffn: experts.ffn,
    denseFfn,
    shared: ffn / experts.ffn,
  };
}

/** Keys of a family whose layers all have experts of `intermediate_size` columns. */
export function plainKeys(spec: DecoderSpec, count: "num_experts" | "num_local_experts"): Json {
  const experts = firstWith(spec)?.experts;
  return {
    [count]: experts?.count ?? 0,
    num_experts_per_tok: spec.router?.topK ?? 0,
    intermediate_size: experts?.ffn ?? 0,
  };
}

/** Where Qwen and OLMoE hold the experts of a layer. */
export const QWEN_MODULES: ExpertModules = {
  router: "mlp.gate",
  each: {
    gate: "mlp.experts.#.gate_proj",
    up: "mlp.experts.#.up_proj",
    down: "mlp.experts.#.down_proj",
  },
  shared: "mlp.shared_expert",
};
