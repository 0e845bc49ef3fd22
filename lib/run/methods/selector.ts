// What all methods of choosing units share: the interface of a selector, and the batches that it scores units on.
import { option } from "../../core/errors.ts";
import { dealt, type Ranks } from "../../ranks/ranks.ts";
import type { SlotGradients } from "../../nn/mask_slots.ts";
import type { LayerTerms } from "../../masks/baselines.ts";
import type { hardenMasks } from "../../masks/harden.ts";
import type { FrozenUnits } from "../../schedule/definition.ts";
import { leastUniform, type UniformCounts } from "../../units/uniform.ts";
import { createSaliency } from "../../masks/saliency.ts";
import type { UnitTable } from "../../units/table.ts";
import type { WeightSource } from "../../spec/source.ts";
import type { Batch, Batches } from "../../data/batches.ts";
import type { CalibrationData } from "../calibration.ts";
import type { Model } from "../../model/model.ts";
import { checkUnits, OUT_OF_ROWS, ROWS_FIX } from "./finite_scores.ts";
import type { ResolvedOptions } from "../options/options.ts";
import type { SharedWork } from "../shared_work.ts";
import type { Trainer } from "../trainer.ts";
import { sparsityOf } from "./kept.ts";
import type { Rates } from "../contract.ts";

/** A method during a run. All its state is in the trainer, so checkpoints contain it. */
export interface UnitSelector {
  /** Before the first step of the stage. */
  begin(): Promise<void>;
  /** Before every step. Returns the sparsity of masks that are hard already; null while they are learned. */
  beforeStep(at: SelectorAim): Promise<number | null>;
  /** After every step. */
  afterStep(): Promise<void>;
  /** Makes the masks hard at the target. Returns the expected sparsity before that. */
  end(at: SelectorEnd): Promise<number>;
  /** Before every step of other stages, and at the end of the run: a hook may have written masks. */
  settle(): Promise<null>;
  /** After reading a checkpoint of a run whose masks are hard. */
  resumed(): Promise<void>;
  /** Weights to slice at the end; null for the model's own. */
  readonly source: WeightSource | null;
}

/** What a step aims at. */
export interface SelectorAim {
  /** Step of the stage, from 0. */
  readonly step: number;
  readonly target: number;
  /** Targets of single layers; a layer with null follows the target of the whole. null: all layers do. */
  readonly layers: readonly (number | null)[] | null;
  readonly freeze: readonly FrozenUnits[];
  readonly rates: Pick<Rates, "saliencyDecay">;
}

/** What the last step of the stage aimed at. */
export interface SelectorEnd extends Pick<SelectorAim, "target" | "layers"> {
  /** β of the last training step of the masks. */
  readonly temperature: number;
}

/** What a method needs. */
export interface SelectorParts {
  readonly model: Model;
  readonly table: UnitTable;
  readonly options: ResolvedOptions;
  readonly trainer: Trainer;
  readonly makeBatches: (seed: number) => Batches;
  /** Rows to score units on besides the training rows; null if there are none. */
  readonly calibration: CalibrationData | null;
  /** Gradients of all slots on a batch, at the current masks. */
  readonly maskGradients: (batch: Batch) => Promise<SlotGradients>;
  /** Σ|w·∂L/∂w| of the base's weights on a batch, at the current masks. */
  readonly weightTerms: (batch: Batch) => Promise<LayerTerms[]>;
  /** Widths that a size leaves every layer, if all are cut alike. */
  readonly counts: UniformCounts | null;
  /** Makes masks hard, at the target or at the run's size. */
  readonly harden: typeof hardenMasks;
  /** Processes that share the batches out. */
  readonly ranks?: Ranks | undefined;
  readonly signal?: AbortSignal | undefined;
  /** What the run shares with others. */
  readonly work?: SharedWork | undefined;
  /** Receives the share of the batches that are done. */
  readonly onScoring?: ((share: number) => void) | undefined;
}

export const CALIBRATION_BATCHES = 8;

/** Offset from the seed of training, so that calibration has different batches. */
const CALIBRATION_SEED = 0x5a11;

/** The batches for scoring before the first step; longer stages use more. */
export function firstBatches(parts: SelectorParts): Batch[] {
  const count = Math.min(CALIBRATION_BATCHES, Math.max(2, Math.ceil(parts.options.steps / 10)));
  return [...calibrationBatches(parts, count)];
}

/** Calibration batches, the same at every call. */
export function* calibrationBatches({ makeBatches, options }: SelectorParts, count: number): Generator<Batch> {
  const batches = makeBatches((options.seed + CALIBRATION_SEED) >>> 0);
  for (let index = 0; index < count; index++) yield batches.next();
}

/**
 * Mean saliency of the units on batches, at the current masks. Throws `CompressoError("numeric")` if it cannot rank
 * them.
 */
export async function saliencyOn(
  { table, maskGradients, ranks }: Pick<SelectorParts, "table" | "maskGradients" | "ranks">,
  { of, batches, look }: { readonly of: string; readonly batches: readonly Batch[]; readonly look: () => void },
): Promise<Float64Array<ArrayBuffer>> {
  const saliency = createSaliency(table);
  for await (const [, gradients] of dealt(batches, ranks, maskGradients)) {
    saliency.add(gradients);
    look();
  }
  const mean = saliency.mean();
  checkUnits(table, mean, {
    what: `cannot tell units apart by the ${of}`,
    fix: `${of === "rows" ? OUT_OF_ROWS : ROWS_FIX}; if LoRA ran away before, lower ${
      option("rates.lora")
    } and continue (${option("resume")}, with ${option("mayDiffer", "rates")})`,
  });
  return mean;
}

/** Reports progress over `looks` batches. */
export function counter({ onScoring }: SelectorParts, looks: number): () => void {
  let done = 0;
  return () => onScoring?.(++done / looks);
}

/** Defaults of a selector. */
export const NOTHING = {
  begin: () => Promise.resolve(),
  beforeStep: () => Promise.resolve(null),
  afterStep: () => Promise.resolve(),
  settle: () => Promise.resolve(null),
  resumed: () => Promise.resolve(),
  source: null,
} as const;

/**
 * The least sparsity to cut for a target. Under the uniform layout it is that of equal widths alone. A schedule may end
 * below it, which raises an alarm.
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
