// How a method chooses units during the pruning stage: learned masks, gradual saliency, a score at once. Owns what happens at its beginning, at every step and at its end; refuses the loop.
import type { SlotGradients } from "../../nn/mask_slots.ts";
import type { LayerTerms, OneShotMethod } from "../../masks/baselines.ts";
import { heldUnits, withTheirLayers } from "../frozen.ts";
import { addGradients, GRADUAL_EVERY, gradualMasks } from "../../masks/gradual.ts";
import type { hardenMasks } from "../../masks/harden.ts";
import type { FrozenUnits } from "../../schedule/definition.ts";
import { leastUniform, type UniformCounts, uniformGoals } from "../../units/uniform.ts";
import { besidePrior, priorShape, saliencyPrior } from "../../masks/prior.ts";
import { createSaliency, maskStart, openStart, perParameter } from "../../masks/saliency.ts";
import { constantLogAlpha } from "../../masks/start.ts";
import { unitParameters, type UnitTable } from "../../units/units.ts";
import { packMasks } from "../../nn/mask_slots.ts";
import type { WeightSource } from "../../spec/source.ts";
import { writeBiases } from "../../nn/weights.ts";
import type { Batch, Batches } from "../../data/batches.ts";
import type { CalibrationData } from "../calibration.ts";
import type { Model } from "../../model/model.ts";
import { checkUnits, compensate, type OneShotScores, oneShotScores, OUT_OF_ROWS, ROWS_MEND } from "./one_shot.ts";
import type { ResolvedOptions } from "../options/options.ts";
import type { Trainer } from "../trainer.ts";
import { keptBy, sparsityOf } from "./kept.ts";
import type { Rates } from "../contract.ts";

/** A method at work. All that it knows lies in the trainer, so that checkpoints have it. */
export interface Chooser {
  /** Before the first step of the stage. */
  begin(): Promise<void>;
  /** Before every step. Returns the sparsity of masks that are hard already, null while they are learned. */
  beforeStep(at: ChooserAim): Promise<number | null>;
  /** After every step. */
  afterStep(): Promise<void>;
  /** Makes the masks hard at the target. Returns the sparsity that was expected before. */
  end(at: ChooserEnd): Promise<number>;
  /** Before every step of other stages, and at the run's end: a hook may have written masks. */
  settle(): Promise<null>;
  /** After a checkpoint of a run whose masks are hard was read. */
  resumed(): Promise<void>;
  /** Weights that are sliced at the end, where they are not the model's own. */
  readonly source: WeightSource | null;
}

/** What a step aims at. */
export interface ChooserAim {
  /** Step of the stage, from 0. */
  readonly step: number;
  readonly target: number;
  /** Targets of single layers; null, for one or all, leaves them to the whole. */
  readonly layers: readonly (number | null)[] | null;
  readonly freeze: readonly FrozenUnits[];
  readonly rates: Pick<Rates, "saliencyDecay">;
}

/** What the last step of the stage aimed at. */
export interface ChooserEnd extends Pick<ChooserAim, "target" | "layers"> {
  /** β at which the masks were trained last. */
  readonly temperature: number;
}

/** What a method works with. */
export interface ChooserParts {
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

const CALIBRATION_BATCHES = 8;
/** Sequences whose activations are measured, which takes forward passes alone. */
const MEASURED_SEQUENCES = 128;
/** Told apart from the seed of training, so that calibration has batches of its own. */
const CALIBRATION_SEED = 0x5a11;

/** The chooser of the run's method. */
export function createChooser(parts: ChooserParts): Chooser {
  const { method } = parts.options;
  if (method === "compresso") return learned(parts);
  return method === "gradual" ? gradual(parts) : oneShot(parts, method);
}

function learned(parts: ChooserParts): Chooser {
  const { model, table, options, trainer, calibration, counts: sized } = parts, { rates, layout } = options;
  const uniform = layout === "uniform"
    ? uniformGoals(table, sized ? { counts: sized } : { target: options.sparsity })
    : null;
  return {
    ...NOTHING,
    async begin(): Promise<void> {
      if (options.start === "constant") return trainer.setLogAlpha(constantLogAlpha(table, options));
      const rows = firstBatches(parts), texts = calibration ? [...calibration.batches()] : [];
      const look = counter(parts, rows.length + texts.length);
      const measured = await saliencyOn(parts, { of: "rows", batches: rows, look }), { prior: weight } = rates;
      const other = calibration && await saliencyOn(parts, { of: "calibration's rows", batches: texts, look });
      const ofWeights = saliencyPrior(table, measured, { shape: await priorShape(model.source, table), weight });
      const ofOthers = other && besidePrior(table, measured, { other, weight });
      const prior = ofOthers ? ofWeights.map((value, unit) => value + (ofOthers[unit] ?? 0)) : ofWeights;
      const whole = measured.map((value, unit) => value + (prior[unit] ?? 0));
      const { logAlpha, drift, range: [least, most] } = maskStart(perParameter(table, whole), { spread: rates.spread });
      trainer.setLogAlpha(openStart(logAlpha, rates));
      const followed = whole.map((value, unit) => {
        const size = unitParameters(table, unit);
        return Math.max(least * size, Math.min(most * size, value));
      });
      trainer.learner.follow(followed, { prior, drift, saliencyDecay: rates.saliencyDecay });
    },
    beforeStep({ target, layers, freeze, rates: { saliencyDecay } }): Promise<null> {
      const { learner } = trainer;
      learner.setSaliencyDecay(saliencyDecay);
      learner.setLayerGoals(layers);
      learner.setPartGoals(uniform?.at(target) ?? null);
      learner.setHold(heldUnits(table, freeze));
      return Promise.resolve(null);
    },
    async end({ target, layers, temperature }): Promise<number> {
      const { logAlpha, constraint } = await trainer.save();
      const counts = target === options.sparsity ? uniform?.counts : undefined;
      const least = leastTarget(table, target, options);
      const { keptMasks } = options, kept = keptMasks === "one" ? {} : { temperature, kept: keptMasks };
      const aim = { target: least, layout, layerTargets: layers, ...kept, ...(counts ? { counts } : {}) };
      trainer.setMasks(parts.harden(table, logAlpha, aim));
      return constraint[7] ?? NaN;
    },
  };
}

/** The batches that are looked at before the first step: more for longer stages. */
function firstBatches(parts: ChooserParts): Batch[] {
  const count = Math.min(CALIBRATION_BATCHES, Math.max(2, Math.ceil(parts.options.steps / 10)));
  return [...calibrationBatches(parts, count)];
}

/** Mean saliency of the units on batches, at the present masks. Throws `CompressoError("numeric")` where it tells none apart. */
async function saliencyOn(
  { table, maskGradients }: ChooserParts,
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
    fix: `${of === "rows" ? OUT_OF_ROWS : ROWS_MEND}; where LoRA has run away before, lower --lora-rate`,
  });
  return mean;
}

/** log α holds the running mean of squared gradients. */
function gradual(parts: ChooserParts): Chooser {
  const { table, options, trainer, harden, counts: sized } = parts;
  let known: { readonly writes: number; readonly hard: number } | null = null;
  return {
    ...NOTHING,
    begin: () => Promise.resolve(trainer.setLogAlpha(new Float32Array(table.count))),
    async beforeStep({ step, target, layers, freeze }): Promise<number> {
      // What a hook has set is what this step runs at.
      if (step > 0 && step % GRADUAL_EVERY === 0 && !trainer.isWritten) {
        const counts = target === options.sparsity && sized ? { counts: sized } : {}, flags = heldUnits(table, freeze);
        const kept = flags && keptBy(table, await trainer.masks()), { layout } = options;
        const held = kept && { flags: withTheirLayers(table, flags), kept };
        const aim = { target, layout, layerTargets: layers, held, ...counts };
        trainer.setMasks(gradualMasks(table, await trainer.logAlpha(), aim));
      }
      // A hook may have written others meanwhile.
      if (known?.writes !== trainer.maskWrites) {
        known = { writes: trainer.maskWrites, hard: sparsityOf(table, await trainer.masks()) };
      }
      return known.hard;
    },
    async afterStep(): Promise<void> {
      const mean = await trainer.logAlpha();
      const slots = table.kinds.has("layers") ? packMasks(table.spec, table.layout, await trainer.masks()) : null;
      addGradients(table, mean, { slotGradients: await trainer.slotGradients(), slots });
      trainer.setLogAlpha(mean);
    },
    async end({ target, layers }): Promise<number> {
      const before = sparsityOf(table, await trainer.masks()), seen = await trainer.logAlpha();
      if (seen.every((value) => value === 0)) {
        // A schedule has ended the stage before its first step, and a size or equal widths are to be met all the same.
        const batches = firstBatches(parts), look = counter(parts, batches.length);
        seen.set(perParameter(table, await saliencyOn(parts, { of: "rows", batches, look })));
        trainer.setLogAlpha(seen);
      }
      chooseHard(table, seen, { target, layers, options, trainer, harden });
      return before;
    },
  };
}

function oneShot(parts: ChooserParts, method: OneShotMethod): Chooser {
  const { model, table, options, trainer, weightTerms, harden, signal } = parts, { batch, seq, seed } = options;
  let source: WeightSource | null = null;
  const score = async (): Promise<OneShotScores> => {
    // A run that went back has a compensation in its weights, which is no part of the model that is scored.
    if (method === "flap") await writeBiases(model.device, model.weights, model.source);
    const isMeasured = method === "wanda-sp" || method === "flap";
    const count = isMeasured ? Math.ceil(MEASURED_SEQUENCES / batch) : CALIBRATION_BATCHES;
    const batches = [...parts.calibration?.batches() ?? calibrationBatches(parts, count)];
    return await oneShotScores(model, table, {
      method,
      ranking: options.ranking,
      batches: counted(batches, counter(parts, batches.length)),
      batch,
      seq,
      seed,
      weightTerms,
      ...(signal ? { signal } : {}),
    });
  };
  let known: { readonly stats: OneShotScores["stats"]; readonly writes: number } | null = null;
  const compensated = async (stats: OneShotScores["stats"]): Promise<void> => {
    if (stats) source = await compensate(model, { masks: await trainer.masks(), stats });
    known = { stats, writes: trainer.maskWrites };
  };
  return {
    ...NOTHING,
    async end({ target }): Promise<number> {
      const { scores, stats } = await score();
      trainer.setLogAlpha(ranks(scores));
      const sparsity = chooseHard(table, scores, { target, options, trainer, harden });
      await compensated(stats);
      return sparsity;
    },
    async settle(): Promise<null> {
      if (known && known.writes !== trainer.maskWrites) await compensated(known.stats);
      return null;
    },
    async resumed(): Promise<void> {
      if (method === "flap") await compensated((await score()).stats);
    },
    get source(): WeightSource | null {
      return source;
    },
  };
}

/** Counts so many looks. */
function counter({ onScoring }: ChooserParts, looks: number): () => void {
  let done = 0;
  return () => onScoring?.(++done / looks);
}

/** Batches, each of which is done when the next one is asked for. */
function* counted(batches: readonly Batch[], look: () => void): Generator<Batch> {
  for (const batch of batches) {
    yield batch;
    look();
  }
}

/** The same batches at every call. */
function* calibrationBatches({ makeBatches, options }: ChooserParts, count: number): Generator<Batch> {
  const batches = makeBatches((options.seed + CALIBRATION_SEED) >>> 0);
  for (let index = 0; index < count; index++) yield batches.next();
}

/** What most methods do at most times. */
const NOTHING = {
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
function leastTarget(
  table: UnitTable,
  target: number,
  { layout, sparsity }: Pick<ResolvedOptions, "layout" | "sparsity">,
): number {
  return layout === "uniform" && target !== sparsity ? Math.max(target, leastUniform(table)) : target;
}

/** Keeps the units of the highest scores, with z = 1. Returns the sparsity. */
function chooseHard(
  table: UnitTable,
  scores: ArrayLike<number>,
  { target, layers = null, options, trainer, harden }:
    & Pick<ChooserEnd, "target">
    & Partial<Pick<ChooserEnd, "layers">>
    & Pick<ChooserParts, "options" | "trainer" | "harden">,
): number {
  const { layout } = options,
    least = leastTarget(table, target, options),
    masks = harden(table, scores, { target: least, layerTargets: layers, layout });
  trainer.setMasks(masks);
  return sparsityOf(table, masks);
}

/** Places in ascending order of score, ties by index: what f32 holds of any scores without mixing their order. */
function ranks(scores: ArrayLike<number>): Float32Array<ArrayBuffer> {
  const order = Array.from({ length: scores.length }, (_, unit) => unit)
    .sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || a - b);
  const result = new Float32Array(scores.length);
  order.forEach((unit, rank) => result[unit] = rank);
  return result;
}
