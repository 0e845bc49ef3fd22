// Whether a class of transformers, or an architecture of llama.cpp, computes a model: by the features of its spec.
import { type DecoderSpec, hasBias, layersAlike, type Projection, unlikeLayer, windowsOf } from "../spec/decoder.ts";
import { queryGrowth } from "../spec/rope.ts";

/** Why a class or architecture cannot hold a model. */
export interface Misfit {
  readonly rule: string;
  readonly value: string;
  /** What to do instead. Default: that of the format. */
  readonly fix?: string;
}

/** A condition on a whole spec; null if it holds. */
export type Limit = (spec: DecoderSpec) => Misfit | null;

/** Which models a class or architecture holds. */
export interface Fit {
  /** The values that a feature may have; `true` for any. A feature that is not named has LLaMA's value. */
  readonly holds: { readonly [F in Feature]?: true | readonly string[] };
  /** Conditions beyond features. */
  readonly limits?: readonly Limit[];
}

/** A feature in which families differ. */
interface FeatureRule {
  /** LLaMA's value. */
  readonly usual: string;
  /** The value of a spec. */
  readonly of: (spec: DecoderSpec) => string;
  /** Words for values. */
  readonly words?: Readonly<Record<string, string>>;
  /** Words before a value that names nothing itself. */
  readonly label?: string;
}

const listed = (spec: DecoderSpec, projections: readonly Projection[]): string =>
  projections.filter((projection) => hasBias(spec, projection)).join(",") || "none";

const given = (value: unknown): string => value === undefined ? "none" : "set";

/** Words for a part that is there, or not. */
const part = (words: string): Record<string, string> => ({ none: `no ${words}`, set: words });

const FEATURES = {
  norm: {
    usual: "rms",
    of: (spec) => spec.norm ?? "rms",
    words: { rms: "RMSNorm", layer: "LayerNorm", layer_no_bias: "LayerNorm without biases" },
  },
  normPlaces: {
    usual: "before",
    of: (spec) => spec.normPlaces ?? "before",
    words: {
      before: "norms before the sublayers",
      after: "norms after the sublayers",
      both: "norms before and after the sublayers",
      residual: "norms of the residual stream",
    },
  },
  parallel: {
    usual: "none",
    of: (spec) => spec.parallel ?? "none",
    words: {
      none: "an FFN that reads what attention left",
      own: "attention and FFN in parallel, with two norms",
      shared: "attention and FFN in parallel, with one norm",
    },
  },
  router: {
    usual: "none",
    of: ({ router, layers }) =>
      !router ? "none" : [
        router.renormalised ? "renormalised" : "plain",
        ...layers.some(({ experts, ffn }) => experts && ffn > 0)
          ? [router.sharedGate ? "with a gated shared expert" : "with a shared expert"]
          : [],
      ].join(" "),
    words: { none: "a dense FFN", plain: "experts with their probabilities as weights" },
    label: "experts with weights",
  },
  routerScores: {
    usual: "softmax",
    of: ({ router }) => router?.scores ?? "softmax",
    words: { softmax: "a router with the softmax as scores", sigmoid: "a router with sigmoids as scores" },
  },
  choiceBias: {
    usual: "none",
    of: ({ router }) => given(router?.choiceBias),
    words: part("bias of the choice of experts"),
  },
  routerScale: {
    usual: "none",
    of: ({ router }) => given(router?.scale),
    words: part("factor of the experts' weights"),
  },
  convolution: {
    usual: "none",
    of: ({ convolution }) => given(convolution),
    words: { none: "attention in all layers", set: "short convolutions in some layers" },
  },
  gate: {
    usual: "set",
    of: (spec) => spec.ungated ? "none" : "set",
    words: { set: "an FFN with a gate", none: "an FFN without gate" },
  },
  activation: { usual: "silu", of: (spec) => spec.activation ?? "silu" },
  qkNorm: {
    usual: "none",
    of: (spec) => spec.qkNormAfter ? "after" : spec.qkNorm ?? "none",
    words: {
      none: "no norms of q and k",
      head: "norms of each head of q and k",
      after: "norms of each head of q and k after RoPE",
      whole: "norms of q and k over the whole width",
      layer: "a LayerNorm of each head of q and k",
    },
  },
  valueNorm: { usual: "none", of: ({ valueNorm }) => given(valueNorm), words: part("norms of each head of v") },
  localHeads: {
    usual: "none",
    of: ({ localHeadDim }) => given(localHeadDim),
    words: { none: "heads of one width", set: "heads of another width in layers with a RoPE of their own" },
  },
  layerScale: { usual: "none", of: ({ layerScale }) => given(layerScale), words: part("factor at the end of layers") },
  positions: {
    usual: "rope",
    of: (spec) => spec.positions ? String(spec.positions.offset) : "rope",
    words: { rope: "RoPE", 0: "learned positions", 2: "learned positions with an offset of 2" },
  },
  headBias: { usual: "none", of: (spec) => given(spec.headBias), words: part("bias of the output head") },
  embeddingWidth: {
    usual: "none",
    of: (spec) => given(spec.embeddingWidth),
    words: part("projection between embedding and layers"),
  },
  attentionBiases: {
    usual: "none",
    of: (spec) => listed(spec, ["q", "k", "v", "o"]),
    words: { none: "no biases of attention" },
    label: "biases of",
  },
  ffnBiases: {
    usual: "none",
    of: (spec) => listed(spec, ["gate", "up", "down"]),
    words: { none: "no biases of the FFN" },
    label: "biases of",
  },
  embeddingScale: {
    usual: "none",
    of: (spec) => given(spec.scales?.embedding),
    words: part("factor of the embedding"),
  },
  attentionScale: { usual: "none", of: (spec) => given(spec.scales?.attention), words: part("factor of q·k") },
  residualScale: {
    usual: "none",
    of: (spec) => given(spec.scales?.residual),
    words: part("factor of what layers add"),
  },
  logitScale: { usual: "none", of: (spec) => given(spec.scales?.logits), words: part("divisor of the logits") },
  scoreCap: { usual: "none", of: (spec) => given(spec.softCaps?.attention), words: part("soft cap of scores") },
  logitCap: { usual: "none", of: (spec) => given(spec.softCaps?.logits), words: part("soft cap of logits") },
  fused: { usual: "none", of: (spec) => given(spec.fused), words: part("fused matrices") },
  scaling: {
    usual: "none",
    of: (spec) => spec.positions ? "none" : spec.rope.scaling.kind,
    words: { none: "RoPE without scaling", factors: "RoPE scaled by factors", longrope: "LongRoPE", yarn: "YaRN" },
    label: "RoPE with the scaling",
  },
  queryGrowth: {
    usual: "none",
    of: ({ positions, rope }) => positions ? "none" : given(queryGrowth(rope)),
    words: part("growth of queries with the position"),
  },
  partialRope: {
    usual: "none",
    of: ({ positions, rope }) => positions ? "none" : given(rope.dims),
    words: { none: "RoPE of whole heads", set: "RoPE of a part of each head" },
  },
  localRope: { usual: "none", of: ({ rope }) => given(rope.localBase), words: part("second RoPE") },
  layerRope: {
    usual: "all",
    of: ({ layers }) => layers.some(({ rope }) => rope === "none") ? "some" : "all",
    words: { all: "RoPE in all layers", some: "layers without RoPE" },
  },
  windows: {
    usual: "none",
    of: windowPlaces,
    words: {
      none: "no sliding window",
      all: "a sliding window in all layers",
      some: "a sliding window in some layers",
      several: "sliding windows of several widths",
    },
  },
} as const satisfies Readonly<Record<string, FeatureRule>>;

/** Name of a feature. */
export type Feature = keyof typeof FEATURES;

const RULES = Object.entries(FEATURES) as readonly (readonly [Feature, FeatureRule])[];

function windowPlaces(spec: DecoderSpec): string {
  const windows = windowsOf(spec), sliding = windows.filter((window) => window !== undefined);
  if (sliding.length > 1) return "several";
  return sliding.length === 0 ? "none" : windows.length > 1 ? "some" : "all";
}

/** Every value of every feature except the router and convolutions: layers have attention and a dense FFN. */
export const ANYTHING: Fit["holds"] = Object.fromEntries(
  RULES.filter(([name]) => name !== "router" && name !== "convolution").map(([name]) => [name, true]),
);

/** At most one window, in all layers or in some. */
export const ONE_WINDOW: readonly string[] = ["none", "all", "some"];

/** What a class or architecture lacks of a model: features first, then limits. */
export function misfits(spec: DecoderSpec, { holds, limits = [] }: Fit): Misfit[] {
  const features = RULES.flatMap(([name, rule]): Misfit[] => {
    const value = rule.of(spec), allowed = holds[name] ?? [rule.usual];
    if (allowed === true || allowed.includes(value)) return [];
    const say = (one: string): string => rule.words?.[one] ?? `${rule.label ?? name} ${one}`;
    return [{ rule: `needs ${allowed.map(say).join(", or ")}`, value: say(value) }];
  });
  return [...features, ...limits.flatMap((limit) => limit(spec) ?? [])];
}

/** How near a model is to what a class or architecture holds: features that it needs and the model has, less what it lacks. */
export function nearness(spec: DecoderSpec, fit: Fit): number {
  const shared = RULES.filter(([name, { usual, of }]) => {
    const needed = fit.holds[name] ?? true;
    return needed !== true && !needed.includes(usual) && needed.includes(of(spec));
  });
  return shared.length - misfits(spec, fit).length;
}

/** Whether a class or architecture holds a model. */
export function fits(spec: DecoderSpec, fit: Fit): boolean {
  return misfits(spec, fit).length === 0;
}

/** All layers have the same counts, with a head and an FFN column at least. */
export const alike: Limit = (spec) => {
  if (layersAlike(spec)) return null;
  const { layers } = spec, other = unlikeLayer(spec);
  const { heads, kvHeads, ffn } = layers[other] ?? { heads: 0, kvHeads: 0, ffn: 0 };
  return {
    rule: "needs the same heads, KV heads and FFN columns in all layers, and one of each at least",
    value: `layer ${other}: ${heads} heads, ${kvHeads} KV heads, ${ffn} FFN columns`,
    fix: "export with the layout padded, or prune with the layout uniform",
  };
};

/** Heads together are as wide as the residual stream. */
export const headsFillHidden: Limit = ({ hidden, headDim, layers }) => {
  const width = (layers.find(({ conv }) => !conv)?.heads ?? hidden / headDim) * headDim;
  return width === hidden
    ? null
    : { rule: `needs heads · head_dim = ${hidden}, the hidden dims`, value: String(width) };
};

/** The number of heads divides the hidden dims. */
export const headsDivideHidden: Limit = ({ hidden, layers }) =>
  layers.every(({ heads }) => hidden % heads === 0)
    ? null
    : { rule: `needs a number of heads that divides ${hidden}, the hidden dims`, value: `${layers[0]?.heads} heads` };

/** Each query head has its own KV head. */
export const noGroups: Limit = ({ layers: [first] }) =>
  first?.heads === first?.kvHeads
    ? null
    : { rule: "needs a KV head for each head", value: `${first?.heads} heads, ${first?.kvHeads} KV heads` };

/** The output head is not the embedding. */
export const untied: Limit = ({ tied }) =>
  tied ? { rule: "needs an output head separate from the embedding", value: "it is the embedding" } : null;

/** The output head is the embedding. */
export const tied: Limit = ({ tied }) =>
  tied ? null : { rule: "needs the embedding as output head", value: "the head is a separate matrix" };

/** It was read from a folder whose RoPE turns neighbours: others of its shape have classes that more programs load. */
export const readAsNeighbours: Limit = ({ neighbours }) =>
  neighbours ? null : { rule: "needs a model of this family", value: "another one" };

/** Layers without RoPE have no window, and the others share one, or none. */
export const ropeWithinWindow: Limit = ({ layers }) => {
  const [rotating, still] = [
    layers.filter(({ rope }) => rope !== "none"),
    layers.filter(({ rope }) => rope === "none"),
  ];
  const isOne = rotating.every(({ window }) => window === rotating[0]?.window);
  if (isOne && still.every(({ window }) => window === undefined)) return null;
  return { rule: "needs RoPE in the layers with the window alone", value: `${still.length} layers without RoPE` };
};

/** All biases of attention, or no bias there. */
export const ALL_OR_NO_BIASES: readonly string[] = ["none", "q,k,v,o"];

/** RoPE as it is, or with a linear scaling. */
export const UNSCALED_OR_LINEAR: readonly string[] = ["none", "linear"];
