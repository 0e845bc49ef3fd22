// LoRA (Hu et al. 2021) as data: which projections carry it, its scale, and the names of its matrices.
import { refuse } from "../core/errors.ts";
import { type DecoderSpec, presentProjections, type Projection, PROJECTIONS, projectionShape } from "./decoder.ts";

/** The projections with LoRA, and its scale. */
export interface LoraConfig {
  /** Inner dimension r. */
  readonly rank: number;
  /** Numerator of the scale; see {@link loraScale}. */
  readonly alpha: number;
  /** Whether the scale is alpha / √rank instead of alpha / rank. Default false. */
  readonly rsLora?: boolean;
  /** Projections with LoRA. */
  readonly targets: readonly Projection[];
  /** Dropout rate of the input of A in training; default 0. */
  readonly dropout?: number;
}

/** A projection with LoRA. */
export interface LoraModule {
  /** Index of the layer. */
  readonly layer: number;
  /** Its projection. */
  readonly projection: Projection;
  /** Logical shape [out, in] of the projection. */
  readonly shape: readonly [number, number];
}

/** LoRA matrices by name `lora.<layer>.<projection>.<A|B>`, logical shapes A [rank, in] and B [out, rank]. */
export type LoraWeights = Map<string, Float32Array>;

/**
 * The factor s of B·A: alpha / rank (Hu et al. 2021), or alpha / √rank with `rsLora`, whose updates do not shrink as
 * the rank grows (rank-stabilised LoRA, Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).
 */
export function loraScale({ rank, alpha, rsLora = false }: Pick<LoraConfig, "rank" | "alpha" | "rsLora">): number {
  return alpha / (rsLora ? Math.sqrt(rank) : rank);
}

/** The projections among `targets` that the model has, in canonical order. */
export function loraModules(spec: DecoderSpec, targets: readonly Projection[]): LoraModule[] {
  return spec.layers.flatMap((layer, index) =>
    presentProjections(spec, layer).filter((projection) => targets.includes(projection)).map((projection) => ({
      layer: index,
      projection,
      shape: projectionShape(spec, layer, projection),
    }))
  );
}

/** Names of the matrices of all targets that the model has. */
export function loraNames(spec: DecoderSpec, targets: readonly Projection[]): string[] {
  return loraModules(spec, targets).flatMap(({ layer, projection }) =>
    ["A", "B"].map((side) => `lora.${layer}.${projection}.${side}`)
  );
}

/**
 * Refuses matrices that belong to no target of the model, since they would have no effect.
 *
 * @throws CompressoError("input") for matrices of no target.
 */
export function refuseOthers(
  spec: DecoderSpec,
  { targets, weights }: Pick<LoraConfig, "targets"> & { readonly weights: ReadonlyMap<string, unknown> },
): void {
  const names = new Set(loraNames(spec, targets)), other = [...weights.keys()].find((name) => !names.has(name));
  if (other === undefined) return;
  refuse("input", `cannot use the LoRA matrix '${other}'`, {
    rule: `it belongs to a target (${targets.join(", ")}) that the model has`,
    value: other,
  });
}

/** Largest rank: far above the width of any projection, at which LoRA already is a full matrix. */
export const MOST_RANK = 65536;
/** Smallest normal f32 number. Smaller values may be 0 on a GPU, and LoRA would have no effect. */
const LEAST_SCALE = 2 ** -126;

/** Throws `CompressoError("usage")` for settings out of range. */
export function checkLora({ rank, alpha, targets, dropout = 0, rsLora = false }: LoraConfig): void {
  const fail = (rule: string, value: string): never => {
    const fix = "correct it";
    refuse("usage", "cannot use these LoRA settings", { rule, value, fix });
  };
  if (!Number.isInteger(rank) || rank < 1 || rank > MOST_RANK) {
    fail(`rank is a whole number from 1 to ${MOST_RANK}`, String(rank));
  }
  if (!(alpha > 0) || !Number.isFinite(alpha)) fail("alpha is a positive number", String(alpha));
  const scale = Math.fround(loraScale({ rank, alpha, rsLora }));
  if (!(scale >= LEAST_SCALE && scale < Infinity)) {
    const by = rsLora ? "the square root of the rank" : "the rank";
    fail(`alpha divided by ${by} is a normal number of f32, ${LEAST_SCALE} or more`, `${alpha} with a rank of ${rank}`);
  }
  if (!(dropout >= 0 && dropout < 1)) fail("dropout lies in [0, 1)", String(dropout));
  if (targets.length === 0) fail(`targets are some of ${PROJECTIONS.join(", ")}`, "none");
  if (new Set(targets).size < targets.length) fail("each target is named once", targets.join(", "));
  for (const target of targets) {
    if (!PROJECTIONS.includes(target)) fail(`targets are some of ${PROJECTIONS.join(", ")}`, String(target));
  }
}
