// What a schedule may aim at in a run, and what it leaves without effect. Owns these refusals; refuses to steer.
import { CompressoError } from "../core/errors.ts";
import { leastLimit, shownLimit } from "../masks/saliency.ts";
import { cubicSparsity, progressOf } from "../schedule/ramp.ts";
import type { ScheduleOutput } from "../schedule/output.ts";
import { type LayerState, LORA_RATES, OUTER_STAGES, RECORDS_SEEN, type RecordView } from "../schedule/definition.ts";
import { checkLayerTargets, checkReachable, type UnitTable } from "../units/units.ts";
import { checkParts } from "./methods/chooser.ts";
import { stagesOf } from "./methods/names.ts";
import type { PruneOptions, ResolvedOptions } from "./options/options.ts";
import type { OpenSchedule } from "../schedule/host.ts";
import type { SizeGoal } from "./size_goal.ts";
import type { Steering, SteeringInput } from "./steering.ts";
import type { Rates } from "./contract.ts";

/** Rates that nothing but the pruning stage's steps use, all of which a schedule may set. */
const OF_STEPS = ["mask", "lambda", "saliencyDecay", "warmup", "tracking"] as const;

/** Numbers that a run was told, as far as it was. */
export type GivenNumbers = Partial<Rates> & {
  /** Of LoRA: 0 is as if it was not given. */
  readonly dropout?: number | undefined;
  readonly focus?: number | undefined;
};

/** The numbers that options tell a run and that a schedule may set. */
export function givenNumbers({ rates, lora, focus }: Pick<PruneOptions, "rates" | "lora" | "focus">): GivenNumbers {
  return { ...rates, dropout: lora?.dropout, focus };
}

/** What of a run says which parts of a schedule it can follow. */
export type Following = Pick<ResolvedOptions, "method" | "layout" | "start" | "prefinetune" | "steps" | "postfinetune">;

/**
 * Refuses a schedule with parts that a run cannot follow, whatever their values will be, and rates that the run was given and that would do nothing
 * beside it. Throws `CompressoError("usage")`.
 */
export function checkFollowed(
  schedule: Pick<OpenSchedule, "name" | "parts">,
  { given = {}, options }: { readonly given?: GivenNumbers | undefined; readonly options: Following },
): void {
  checkParts(schedule.parts, options);
  checkOverruled(schedule, given);
  // Cells without LoRA have a rate of 0 and no steps of it, whatever else is said.
  if (given.lora === 0 && !given.postfinetune) return;
  checkStages(schedule, options);
  checkLoraOverruled(schedule, { given, options });
}

/** Of rates of a single stage. */
function checkOverruled(schedule: Pick<OpenSchedule, "name" | "parts">, given: GivenNumbers): void {
  const { parts } = schedule;
  const rate = OF_STEPS.find((name) => given[name] !== undefined && parts.includes(`rates.${name}`));
  if (rate) {
    const rule = "steps of the pruning stage alone use it, and a schedule that sets it does so at each";
    throw overruled(rate, { rule, value: given[rate], schedule, sets: [`rates.${rate}`] });
  }
  for (const [name, part] of [["postfinetune", "postfinetune.lora"], ["focus", "postfinetune.focus"]] as const) {
    if (given[name] === undefined || !parts.includes(part)) continue;
    const rule = "steps of the last stage alone use it, and a schedule that sets it does so at each";
    throw overruled(name, { rule, value: given[name], schedule, sets: [part] });
  }
}

/** Of rates that all stages have. */
function checkLoraOverruled(
  schedule: Pick<OpenSchedule, "name" | "parts">,
  { given, options }: { readonly given: GivenNumbers; readonly options: Following },
): void {
  for (const name of LORA_RATES) {
    if (name === "dropout" && given.dropout === 0) continue;
    const users = stagesOf(options).filter(({ stage, steps }) =>
      steps > 0 && !(name === "lora" && stage === "postfinetune" && given.postfinetune !== undefined)
    );
    const sets = users.map(({ stage }) => `${stage === "prune" ? "rates" : stage}.${name}` as const);
    if (given[name] === undefined || sets.length === 0 || !sets.every((part) => schedule.parts.includes(part))) {
      continue;
    }
    const rule = "a stage takes it from the run, not from the schedule";
    throw overruled(name, { rule, value: given[name], schedule, sets });
  }
}

function overruled(
  name: keyof GivenNumbers,
  { rule, value, schedule, sets }: {
    readonly rule: string;
    readonly value: number | undefined;
    readonly schedule: Pick<OpenSchedule, "name">;
    readonly sets: readonly string[];
  },
): CompressoError {
  return new CompressoError("usage", {
    what: name === "dropout" || name === "focus" ? `cannot use the ${name} given` : `cannot use the rate '${name}'`,
    rule,
    value: `${value}, and ${schedule.name} sets ${sets.join(", ")}`,
    fix: "leave it out of one of the two; in an experiment give it to a grid of other schedules",
  });
}

/** Refuses parts of a schedule for stages that have no steps. */
function checkStages({ name, parts }: Pick<OpenSchedule, "name" | "parts">, options: Following): void {
  const stages = stagesOf(options),
    steps = (stage: string): number => stages.find((one) => one.stage === stage)?.steps ?? 0;
  const idle = OUTER_STAGES.find((stage) => parts.includes(stage) && steps(stage) === 0);
  if (idle === undefined) return;
  throw new CompressoError("usage", {
    what: "cannot follow the schedule",
    rule: "a stage that it steers has steps",
    value: `${name} steers ${idle}, which has none`,
    fix: `give the stage steps (--${idle === "finetune" ? "prefinetune" : idle}), or leave the part out`,
  });
}

/** Whether a schedule's last step can be asked for beforehand: one with an `end` may never come to it. */
export function isForeseen({ parts }: OpenSchedule): boolean {
  return parts.includes("layers") && !parts.includes("end");
}

/** Runs as they may be when the last step comes: losses, and how far the first layer and the last are cut. A rule that compares layers differs in them too. */
const RUNS = [{ loss: 0.05, cuts: [0, 0.3] }, { loss: 2, cuts: [0.7, 0.1] }, { loss: 20, cuts: [1, 1] }] as const;

/** The last records of such a run, and its layers. */
function foreseen(
  { loss, cuts: [head, tail] }: typeof RUNS[number],
  { step, before, sparsity, learningRate: rate, count: layerCount }: {
    readonly step: number;
    /** Steps before the stage. */
    readonly before: number;
    readonly sparsity: number;
    readonly learningRate: number;
    /** Layers. */
    readonly count: number;
  },
): { readonly records: readonly RecordView[]; readonly layers: readonly LayerState[] } {
  const cut = (head + tail) / 2, learningRate = rate * (1 + cut);
  const count = Math.min(RECORDS_SEEN, before + step), first = before + step - count;
  const records = Array.from({ length: count }, (_, index): RecordView => {
    const isPruning = first + index >= before;
    return {
      stage: isPruning ? "prune" : "finetune",
      step: first + index + 1,
      loss: loss * (2 - (index + 1) / count),
      target: isPruning ? sparsity * (1 - cut / 2) : null,
      expected: isPruning ? cut : null,
      ...{ lambda1: cut, lambda2: -cut, gradNorm: loss, learningRate },
    };
  });
  const between = (share: number): number => head + (tail - head) * share;
  const layers = Array.from({ length: layerCount }, (_, layer): LayerState => {
    const share = layerCount > 1 ? layer / (layerCount - 1) : 0.5;
    return { heads: between(1 - share), ffn: between(share) };
  });
  return { records, layers };
}

/**
 * Refuses targets of layers that do not agree with the whole's at the last step, before the stage is spent on them: of a schedule that decides so
 * whatever the run is like by then. What others decide is known at that step only.
 */
export async function checkLast(
  schedule: OpenSchedule,
  table: UnitTable,
  { sparsity, rates, before, steps, aim }: {
    readonly sparsity: number;
    readonly rates: Rates;
    readonly before: number;
    readonly steps: number;
    readonly aim: Aim;
  },
): Promise<void> {
  const step = steps - 1, progress = progressOf(step, steps);
  const decided: (Pick<ScheduleOutput, "sparsity" | "layers"> & { readonly warmup: number })[] = [];
  try {
    for (const run of RUNS) {
      const count = table.spec.layers.length;
      const { records, layers } = foreseen(run, { step, before, sparsity, learningRate: rates.lora, count });
      const output = await schedule.evaluate({ stage: "prune", progress, sparsity, step, steps, records, layers });
      decided.push({
        ...{ sparsity: output.sparsity, layers: output.layers },
        warmup: output.rates.warmup ?? rates.warmup,
      });
    }
  } catch {
    // What it refuses to decide of such a run, it may decide of a real one: in a new process, where this one was ended for it.
    if (schedule.isolated) await schedule[Symbol.asyncDispose]();
    return;
  }
  const [first] = decided;
  if (!first || new Set(decided.map((one) => JSON.stringify(one))).size > 1) return;
  const target = first.sparsity ?? cubicSparsity({ target: sparsity, warmup: first.warmup })(progress);
  checkTargets(table, { step, steps, target, layers: first.layers }, aim);
}

/** What bounds targets and the limit of log α. */
export interface Aim {
  /** Largest sparsity that there is. */
  readonly most: number;
  readonly goal: Pick<SizeGoal, "harden"> | null;
  /** Least limit of log α. */
  readonly least: number;
}

/** Least limit of log α that a run's options may have. */
export function leastLimitOf({ method, start, rates }: Pick<ResolvedOptions, "method" | "start" | "rates">): number {
  return method === "compresso" && start === "saliency" ? leastLimit(rates) : 0;
}

/** Refuses a clamp that would make alike more than half of the units, which start apart, as the run's own is refused. Throws `CompressoError("input")`, with step and value. */
export function checkLimit(
  { logAlphaLimit: limit = Infinity }: ScheduleOutput["rates"],
  { step, steps }: Pick<SteeringInput, "step" | "steps">,
  { least }: Aim,
): void {
  if (limit >= least) return;
  throw new CompressoError("input", {
    what: `cannot use the schedule at step ${step} of ${steps}`,
    rule: `the limit of log α is at least ${
      shownLimit(least)
    } where masks start from saliency, so that half of all units keep their order: three times the spread, and what opens a unit`,
    value: `rates.logAlphaLimit = ${limit}`,
    fix:
      "raise rates.logAlphaLimit, lower the run's --spread, or start from a constant (--start constant, without --spread)",
  });
}

/**
 * Refuses targets that units and rules cannot meet before the stage is spent on them. Those of layers may stay behind the whole's on the way; at
 * the last step they have to agree. Throws `CompressoError("input")`, with step and value.
 */
export function checkTargets(
  table: UnitTable,
  { step, steps, target, layers }: Pick<SteeringInput, "step" | "steps"> & Pick<Steering, "target" | "layers">,
  { most, goal }: Aim,
): void {
  const what = `cannot use the schedule at step ${step} of ${steps}`;
  if (target > most + ROUNDING) {
    throw new CompressoError("input", {
      what,
      rule: `cutting ${[...table.kinds].join(", ")} under the run's rules reaches at most ${most.toFixed(4)}`,
      value: `sparsity = ${target}`,
      fix: "lower what the schedule returns, loosen a rule, or add kinds to --units",
    });
  }
  if (!layers) return;
  named({ step, steps }, () => checkLayerTargets(table, layers));
  if (step < steps - 1 || target <= 0 && !goal) return;
  named({ step, steps }, () => {
    // Whatever the units' scores, a size is within reach or not.
    if (goal) {
      goal.harden(table, new Float32Array(table.count), { target: null, layerTargets: layers, layout: "compact" });
    } else checkReachable(table, Math.min(target, most), { layerTargets: layers });
  }, {
    fix: `let the targets of layers come to the ${
      goal ? "size" : "whole's"
    } at the last step, or leave some layers to it (null)`,
  });
}

/** Checks what a schedule decides for a step; the error names it. */
export function named(
  { step, steps }: Pick<SteeringInput, "step" | "steps">,
  check: () => void,
  fix: { readonly fix?: string } = {},
): void {
  try {
    check();
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    const { parts } = error, what = `cannot use the schedule at step ${step} of ${steps}: ${parts.what}`;
    throw new CompressoError("input", { ...parts, what, ...fix }, { cause: error });
  }
}

/** Errors of a quotient of whole numbers. */
const ROUNDING = 1e-9;
