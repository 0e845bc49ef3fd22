// Specs to prune, and an independent count of their parameters.
import {
  CONV_MATRICES,
  convShape,
  type DecoderSpec,
  type LayerSpec,
  PROJECTIONS,
  projectionShape,
} from "../../../lib/spec/decoder.ts";
import type { UnitKind } from "../../../lib/units/kinds/all.ts";
import type { UnitTable } from "../../../lib/units/table.ts";

/** A decoder of the given layers; what pruning does not look at is small. */
export function decoder(
  layers: readonly LayerSpec[],
  { hidden = 20, headDim = 6 }: { hidden?: number; headDim?: number } = {},
): DecoderSpec {
  return {
    vocab: 11,
    hidden,
    headDim,
    layers,
    normEps: 1e-5,
    rope: { base: 1e4, scaling: { kind: "none" } },
    tied: true,
    maxPosition: 64,
    bosId: null,
    eosIds: [],
    padId: null,
  };
}

/** Grouped queries, a layer without heads, one without FFN, and counts that differ. */
export const UNEVEN: DecoderSpec = decoder([
  { heads: 6, kvHeads: 2, ffn: 70 },
  { heads: 0, kvHeads: 0, ffn: 33 },
  { heads: 3, kvHeads: 3, ffn: 0 },
  { heads: 4, kvHeads: 1, ffn: 129 },
]);

/** As many KV heads as heads in every layer. */
export const MULTI_HEAD: DecoderSpec = decoder([
  { heads: 4, kvHeads: 4, ffn: 40 },
  { heads: 4, kvHeads: 4, ffn: 40 },
]);

/** Two groups of three heads in every layer. */
export const GROUPED: DecoderSpec = decoder([
  { heads: 6, kvHeads: 2, ffn: 65 },
  { heads: 6, kvHeads: 2, ffn: 65 },
  { heads: 6, kvHeads: 2, ffn: 65 },
], { hidden: 36, headDim: 8 });

/** Short convolutions in two of four layers. */
export const CONVOLVED: DecoderSpec = {
  ...decoder([
    { heads: 0, kvHeads: 0, ffn: 40, conv: true },
    { heads: 6, kvHeads: 2, ffn: 33 },
    { heads: 0, kvHeads: 0, ffn: 40, conv: true },
    { heads: 6, kvHeads: 2, ffn: 33 },
  ]),
  convolution: { length: 3 },
};

/** Every choice of kinds that excludes nothing. */
export const KINDS: readonly (readonly UnitKind[])[] = [
  ["heads"],
  ["kv"],
  ["ffn"],
  ["hidden"],
  ["heads", "ffn"],
  ["kv", "ffn"],
  ["heads", "ffn", "hidden"],
  ["kv", "ffn", "hidden"],
];

/** Choices with whole layers. */
export const LAYER_KINDS: readonly (readonly UnitKind[])[] = [
  ["layers"],
  ["hidden", "layers"],
  ["kv", "layers"],
  ["heads", "ffn", "layers"],
  ["kv", "ffn", "hidden", "layers"],
];

/** Parameters of all linear weights of the layers: the sum of their shapes. */
export function linearParameters(spec: DecoderSpec): number {
  let total = 0;
  for (const layer of spec.layers) {
    for (const projection of PROJECTIONS) {
      const [rows, cols] = projectionShape(spec, layer, projection);
      total += rows * cols;
    }
    for (const part of layer.conv ? CONV_MATRICES : []) {
      const [rows, cols] = convShape(spec, part);
      total += rows * cols;
    }
  }
  return total;
}

/** Chance to live, 0 to 1, of each head, FFN column and hidden dim; KV heads of a layer live by `kv`. Those of heads and columns are given the layer's `gate`. */
export interface Alive {
  readonly layers: readonly {
    readonly heads: number[];
    readonly kv: number[];
    readonly ffn: number[];
    readonly gate: number;
  }[];
  readonly hidden: number[];
}

/**
 * Spreads one number a unit, its chance to live, to heads, KV heads, columns and dims by the order of units alone: heads or KV groups by
 * layer, FFN columns by layer, hidden dims, gates. A KV head lives while any head of its group lives, each on its own; with units of kind "kv"
 * heads live together. Parts that the rules keep whole have no units.
 */
export function aliveOf({ spec, kinds, rules, layers }: UnitTable, chance: ArrayLike<number>): Alive {
  let next = 0;
  const take = (count: number): number[] => Array.from({ length: count }, () => chance[next++] ?? NaN);
  const ones = (count: number): number[] => new Array<number>(count).fill(1);
  const attention = spec.layers.map(({ heads, kvHeads }, index) => {
    const isCut = (layers[index]?.attention.count ?? 0) > 0;
    if (kinds.has("kv") && isCut) {
      const kv = take(kvHeads), share = heads / kvHeads;
      return { kv, heads: kv.flatMap((p) => new Array<number>(share).fill(p)) };
    }
    const units = kinds.has("heads") && isCut ? take(heads) : ones(heads);
    const kv = Array.from({ length: kvHeads }, (_, group) => {
      const share = heads / kvHeads;
      return 1 - units.slice(group * share, (group + 1) * share).reduce((dead, p) => dead * (1 - p), 1);
    });
    return { kv, heads: units };
  });
  const ffn = spec.layers.map((layer, index) =>
    (layers[index]?.ffn.count ?? 0) > 0 ? take(layer.ffn) : ones(layer.ffn)
  );
  const hidden = kinds.has("hidden") ? take(spec.hidden) : ones(spec.hidden);
  const gates = spec.layers.map(({ heads, ffn }, index) =>
    kinds.has("layers") && !rules.protect.has(index) && heads + ffn > 0 ? take(1)[0] ?? NaN : 1
  );
  return {
    layers: attention.map((part, index) => ({ ...part, ffn: ffn[index] ?? [], gate: gates[index] ?? NaN })),
    hidden,
  };
}

/** 1 − (expected) kept parameters of one layer / its parameters, hidden dims not counted. */
export function layerSparsityOf(table: UnitTable, chance: ArrayLike<number>, index: number): number {
  const { headDim } = table.spec, layer = table.spec.layers[index] ?? { heads: 0, kvHeads: 0, ffn: 0 };
  const part = aliveOf(table, chance).layers[index],
    sum = (values: number[] = []): number => values.reduce((a, b) => a + b, 0);
  const kept = 2 * headDim * (sum(part?.heads) + sum(part?.kv)) + 3 * sum(part?.ffn);
  return 1 - (part?.gate ?? NaN) * kept / (2 * headDim * (layer.heads + layer.kvHeads) + 3 * layer.ffn);
}

/** 1 − (expected) kept parameters / parameters, by the shapes of the projections. */
export function sparsityOf(table: UnitTable, chance: ArrayLike<number>): number {
  const { spec } = table,
    { layers, hidden } = aliveOf(table, chance),
    sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);
  const kept = {
    ...spec,
    hidden: sum(hidden),
    layers: layers.map(({ heads, kv, ffn, gate }) => ({
      heads: gate * sum(heads),
      kvHeads: gate * sum(kv),
      ffn: gate * sum(ffn),
    })),
  };
  // Matrices [3H, H] and [H, H] of each convolution that lives.
  const convolutions = layers.reduce((total, { gate }, index) => total + (spec.layers[index]?.conv ? gate : 0), 0);
  return 1 - (linearParameters(kept) + 4 * kept.hidden ** 2 * convolutions) / linearParameters(spec);
}
