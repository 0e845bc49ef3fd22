// What a method of choosing units is: a record. The list is in all.ts.
import type { Ranking } from "../../masks/baselines.ts";
import type { UnitMeasure, UnitSaliency } from "../../masks/unit_saliency.ts";
import type { UnitKind } from "../../units/kinds/all.ts";

/** A method. */
export type Method = LearnedMethod | GradualMethod | OneShotMethod | ExpertMethod;

/** Masks are learned at every step of the pruning stage. */
export interface LearnedMethod {
  readonly name: string;
  readonly kind: "learned";
}

/** Masks are hard at every step of the pruning stage, and chosen again every few steps. */
export interface GradualMethod {
  readonly name: string;
  readonly kind: "gradual";
}

/** Scores whole experts, which are cut without training; see `EXPERT_SCORES`. */
export interface ExpertMethod {
  readonly name: string;
  readonly kind: "experts";
}

/** Units are scored and cut once, before any training: all steps train LoRA after the cut. */
export interface OneShotMethod {
  readonly name: string;
  readonly kind: "one-shot";
  /** What is measured for the score. */
  readonly from: readonly UnitMeasure[];
  /** Kinds of units that it scores, the default of the option `units` first. Default: all. */
  readonly units?: readonly UnitKind[];
  /** One score per unit; units of the lowest scores are cut first. */
  readonly score: (saliency: UnitSaliency) => ArrayLike<number> | Promise<ArrayLike<number>>;
  /** Default of the option `ranking`. */
  readonly ranking: Ranking;
  /** Whether the option may have no other value: scores of different layers and kinds are not comparable. */
  readonly isRankingFixed?: true;
  /** Whether biases of o_proj and down_proj keep the mean of what is cut; needs a measure of activations. */
  readonly compensates?: true;
}

/**
 * A one-shot method with a score of your own. Units are scored and cut before any training.
 *
 * @example A unit is worth its weights times its activations.
 * ```ts
 * import { demoData, loadModel, openDevice, prune, readRows } from "compresso";
 * import type { OwnMethod } from "compresso/run";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { rows } = await readRows(demoData("train"));
 * const method: OwnMethod = {
 *   name: "weights-by-activations",
 *   from: ["weights", "activations"],
 *   score: ({ weights, activations }) => weights.map((weight, unit) => weight * (activations[unit] ?? 0)),
 * };
 * using run = prune(model, { rows, sparsity: 0.2, steps: 8, method, batch: 4, seq: 80 });
 * for await (const { step, loss } of run) console.log(step, loss);
 * await run.export("runs/own");
 * ```
 */
export interface OwnMethod {
  /** Its name in run.json. A resumed run must have the same; no method of Compresso may have it. */
  readonly name: string;
  /** The measures that the score reads; others are not available to it. Default: all. */
  readonly from?: readonly UnitMeasure[];
  /**
   * Gives each unit a score: one finite number per unit, in the order of the units. Units of the lowest scores are cut
   * first. On several machines it is called on each, and must give the same.
   */
  readonly score: (saliency: UnitSaliency) => ArrayLike<number> | Promise<ArrayLike<number>>;
}

/** Whether a measure is taken from gradients at the current masks. */
export function isOfGradients(measure: UnitMeasure): boolean {
  return measure === "firstOrder" || measure === "fisher";
}

/** Whether a measure is taken at the current masks. */
function isAtMasks(measure: UnitMeasure): boolean {
  return isOfGradients(measure) || measure === "influence";
}

/** Whether a method measures the activations of the whole model. */
export function measuresActivations({ from }: OneShotMethod): boolean {
  return from.includes("activations") || from.includes("fluctuations");
}

/** Whether a method measures rows by forward passes alone. */
export function measuresForward(method: OneShotMethod): boolean {
  return measuresActivations(method) || method.from.includes("influence");
}

/** Whether a method scores units on rows, so that it takes calibration rows. */
export function scoresOnRows(method: Method): boolean {
  return method.kind === "learned" ||
    (method.kind === "one-shot" && (measuresForward(method) || method.from.some(isOfGradients)));
}

/** Whether the score may be taken in several rounds: all its measures are taken at the current masks. */
export function takesRounds(method: Method): boolean {
  return method.kind === "one-shot" && method.from.length > 0 && method.from.every(isAtMasks);
}
