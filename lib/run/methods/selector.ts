// What the methods of choosing units share: the contract of a selector, and the batches that it looks at.
import { option } from "../../core/errors.ts";
import type { SlotGradients } from "../../nn/mask_slots.ts";
import type { LayerTerms } from "../../masks/baselines.ts";
import type { hardenMasks } from "../../masks/harden.ts";
import type { FrozenUnits } from "../../schedule/definition.ts";
import { leastUniform, type UniformCounts } from "../../units/uniform.ts";
import { createSaliency } from "../../masks/saliency.ts";
import type { UnitTable } from "../../units/units.ts";
import type { WeightSource } from "../../spec/source.ts";
import type { Batch, Batches } from "../../data/batches.ts";
import type { CalibrationData } from "../calibration.ts";
import type { Model } from "../../model/model.ts";
import { checkUnits, OUT_OF_ROWS, ROWS_FIX } from "./one_shot_scores.ts";
import type { ResolvedOptions } from "../options/options.ts";
import type { Trainer } from "../trainer.ts";
import { sparsityOf } from "./kept.ts";
import type { Rates } from "../contract.ts";

/** A method at work. All that it knows lies in the trainer, so that checkpoints have it. */
export interface UnitSelector {
  /** Before the first step of the stage. */
  begin(): Promise<void>;
  /** Before every step. Returns the sparsity of masks that are hard already, null while they are learned. */
  beforeStep(at: SelectorAim): Promise<number | null>;
  /** After every step. */
  afterStep(): Promise<void>;
  /** Makes the masks hard at the target. Returns the sparsity that was expected before. */
  end(at: SelectorEnd): Promise<number>;
  /** Before every step of other stages, and at the run's end: a hook may have written masks. */
  settle(): Promise<null>;
  /** After a checkpoint of a run whose masks are hard was read. */
  resumed(): Promise<void>;
  /** Weights that are sliced at the end, where they are not the model's own. */
  readonly source: WeightSource | null;
}

/** What a step aims at. */
export interface SelectorAim {
  /** Step of the stage, from 0. */
  readonly step: number;
  readonly target: number;
  /** Targets of single layers; null, for one or all, leaves them to the whole. */
  readonly layers: readonly (number | null)[] | null;
  readonly freeze: readonly FrozenUnits[];
  readonly rates: Pick<Rates, "saliencyDecay">;
}

/** What the last step of the stage aimed at. */
export interface SelectorEnd extends Pick<SelectorAim, "target" | "layers"> {
  /** β at which the masks were trained last. */
  readonly temperature: number;
}

/** What a method works with. */
export interface SelectorParts {
  readonly model: Model;
  readonly table: UnitTable;
  readonly options: ResolvedOptions;
  readonly trainer: Trainer;
  readonly makeBatches: (seed: number) => Batches;
  /** Rows that tell units apart beside those that are trained on; null where there are none. */
  readonly calibration: CalibrationData | null;
  /** Gradients of all slots on a batch, at the present masks. */
  readonly maskGradients: (batch: Batch) => Promise<SlotGradients>;
  /** Σ|w·∂L/∂w| of the base's weights on a batch, at the present masks. */
  readonly weightTerms: (batch: Batch) => Promise<LayerTerms[]>;
  /** Widths that a size leaves every layer, where all are cut alike. */
  readonly counts: UniformCounts | null;
  /** Makes masks hard, at the target or at the run's size. */
  readonly harden: typeof hardenMasks;
  readonly signal?: AbortSignal | undefined;
  /** Takes the share of the batches that were looked at. */
  readonly onScoring?: ((share: number) => void) | undefined;
}

export const CALIBRATION_BATCHES = 8;

/** Told apart from the seed of training, so that calibration has batches of its own. */
const CALIBRATION_SEED = 0x5a11;

/** The batches that are looked at before the first step: more for longer stages. */
export function firstBatches(parts: SelectorParts): Batch[] {
  const count = Math.min(CALIBRATION_BATCHES, Math.max(2, Math.ceil(parts.options.steps / 10)));
  return [...calibrationBatches(parts, count)];
}

/** The same batches at every call. */
export function* calibrationBatches({ makeBatches, options }: SelectorParts, count: number): Generator<Batch> {
  const batches = makeBatches((options.seed + CALIBRATION_SEED) >>> 0);
  for (let index = 0; index < count; index++) yield batches.next();
}

/** Mean saliency of the units on batches, at the present masks. Throws `CompressoError("numeric")` where it tells none apart. */
export async function saliencyOn(
  { table, maskGradients }: SelectorParts,
  { of, batches, look }: { readonly of: string; readonly batches: readonly Batch[]; readonly look: () => void },
): Promise<Float64Array<ArrayBuffer>> {
  const saliency = createSaliency(table);
  for (const batch of batches) {
    saliency.add(await maskGradients(batch));
    look();
  }
  const mean = saliency.mean();
  checkUnits(table, mean, {
    what: `cannot tell units apart by the ${of}`,
    fix: `${of === "rows" ? OUT_OF_ROWS : ROWS_FIX}; where LoRA has run away before, lower ${option("rates.lora")}`,
  });
  return mean;
}

/** Counts so many looks. */
export function counter({ onScoring }: SelectorParts, looks: number): () => void {
  let done = 0;
  return () => onScoring?.(++done / looks);
}

/** What most methods do at most times. */
export const NOTHING = {
  begin: () => Promise.resolve(),
  beforeStep: () => Promise.resolve(null),
  afterStep: () => Promise.resolve(),
  settle: () => Promise.resolve(null),
  resumed: () => Promise.resolve(),
  source: null,
} as const;

/**
 * What is cut at least for a target: where layers are to be alike, what equal widths alone cut. A schedule may end below that; an alarm tells then.
 */
export function leastTarget(
  table: UnitTable,
  target: number,
  { layout, sparsity }: Pick<ResolvedOptions, "layout" | "sparsity">,
): number {
  return layout === "uniform" && target !== sparsity ? Math.max(target, leastUniform(table)) : target;
}

/** Keeps the units of the highest scores, with z = 1. Returns the sparsity. */
export function chooseHard(
  table: UnitTable,
  scores: ArrayLike<number>,
  { target, layers = null, options, trainer, harden }:
    & Pick<SelectorEnd, "target">
    & Partial<Pick<SelectorEnd, "layers">>
    & Pick<SelectorParts, "options" | "trainer" | "harden">,
): number {
  const { layout } = options,
    least = leastTarget(table, target, options),
    masks = harden(table, scores, { target: least, layerTargets: layers, layout });
  trainer.setMasks(masks);
  return sparsityOf(table, masks);
}
