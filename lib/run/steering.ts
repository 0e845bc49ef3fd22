// What each step of a run aims at, by the built-in cubic schedule or the user's own, whose output is checked at each
// step.
import { kindOfMethod } from "./methods/all.ts";
import { CompressoError, option, refuse } from "../core/errors.ts";
import { heldUnits } from "./frozen.ts";
import { mostUniform } from "../units/uniform.ts";
import { checkLayerTargets, checkReachable, mostSparsity } from "../units/selection.ts";
import type { UnitTable } from "../units/table.ts";
import { cubicSparsity, progressOf } from "../schedule/ramp.ts";
import type { ScheduleOutput } from "../schedule/output.ts";
import { stagesOf } from "./methods/stages.ts";
import { type LayerState, type OUTER_RATES, type OuterStage, type RecordView } from "../schedule/definition.ts";
import { raisedLimit } from "./options/resolve.ts";
import type { ResolvedOptions } from "./options/options.ts";
import { type OpenSchedule, openScheduleWith, type ScheduleSource, type ScriptOpener } from "../schedule/open.ts";
import { checkTrust } from "../schedule/open.ts";
import type { SizeGoal } from "./size_goal.ts";
import { checkFollowed, type Following, type OptionNumbers, ratesSet } from "./schedule_parts.ts";
import type { Rates, Stage, StagePlan, StepRates, StepRecord } from "./contract.ts";
import { leastLimit, shownLimit } from "../masks/saliency.ts";

/** What a step of the pruning stage aims at. */
export interface Steering {
  /** Sparsity to hold. */
  readonly target: number;
  readonly rates: StepRates;
  /** Whether the stage ends before this step. */
  readonly end: boolean;
  readonly layers: ScheduleOutput["layers"];
  readonly freeze: ScheduleOutput["freeze"];
}

/** What a step uses: its aim in the pruning stage, and the LoRA numbers that a schedule sets in the other stages. */
export interface Steered {
  readonly steering: Steering | null;
  readonly set: OuterNumbers;
  /** Whether the stage ends before this step. */
  readonly end: boolean;
}

/** Input of a schedule at a step. */
export interface SteeringInput {
  /** Step within its stage, from 0, and steps of the stage. */
  readonly step: number;
  readonly steps: number;
  /** The last records, oldest first. */
  readonly records: readonly RecordView[];
  /** How far the layers are cut now; called only for the user's own schedule. */
  readonly layers: () => Promise<readonly LayerState[]>;
}

/** Decides what every step aims at. Disposing it ends a schedule's process; a later call starts a new one. */
export interface Steerer extends AsyncDisposable {
  /** Whether it needs the last records, up to the step before. */
  readonly needsRecords: boolean;
  /** Identifies the schedule, for resumed runs. */
  readonly identity: string;
  /**
   * Whether it sets LoRA's dropout in some stage, or the share of the labels that the last stage learns from. Steps
   * then need the memory for these at any value.
   */
  readonly drops: boolean;
  readonly focuses: boolean;
  /** Numbers that it sets in all remaining stages that use them, counted from a stage. */
  readonly scheduled: (stage: number) => readonly string[];
  at(input: SteeringInput): Promise<Steering>;
  /** What it sets of LoRA's numbers at a step of another stage, and whether the stage ends before the step. */
  outside(stage: OuterStage, input: SteeringInput): Promise<Omit<Steered, "steering">>;
}

/** Evaluates the schedule for a step of any stage. */
export async function steered(steerer: Steerer, stage: Stage, input: SteeringInput): Promise<Steered> {
  if (stage !== "prune") return { steering: null, ...await steerer.outside(stage, input) };
  const steering = await steerer.at(input);
  return { steering, set: {}, end: steering.end };
}

/** Numbers of a step outside the pruning stage that a schedule sets. */
export type OuterNumbers = { readonly [name in typeof OUTER_RATES["postfinetune"][number]]?: number };

/**
 * Opens the schedule of a run.
 *
 * @throws CompressoError("input") if it cannot be read.
 * @throws CompressoError("usage") if it has parts that the run's method or layout does not support.
 */
export async function openSteerer(
  table: UnitTable,
  options: Pick<ResolvedOptions, "sparsity" | "rates"> & Following,
  { schedule, openScript = null, given = {}, goal = null, trust = false, signal, onLog }: {
    readonly schedule?: ScheduleSource | undefined;
    /** Opens schedules that are scripts; null refuses scripts. */
    readonly openScript?: ScriptOpener | null;
    /** Numbers that the run's options set. */
    readonly given?: OptionNumbers | undefined;
    /** The run's size; the targets of layers at the last step must permit it. */
    readonly goal?: Pick<SizeGoal, "harden"> | null | undefined;
    readonly trust?: boolean | undefined;
    readonly signal?: AbortSignal | undefined;
    readonly onLog?: ((line: string) => void) | undefined;
  },
): Promise<Steerer> {
  const { sparsity, rates } = options;
  checkTrust(schedule, trust);
  if (schedule === undefined) return cubic(sparsity, rates);
  const open = (): Promise<OpenSchedule> =>
    openScheduleWith(schedule, {
      trust,
      warmup: rates.warmup,
      signal,
      onLog,
    }, openScript);
  const opened = await open();
  try {
    checkFollowed(opened, { given, options });
  } catch (error) {
    await opened[Symbol.asyncDispose]();
    throw error;
  }
  const most = options.layout === "uniform" ? mostUniform(table) : mostSparsity(table);
  return scripted(reopening(opened, open), table, {
    sparsity,
    rates,
    stages: stagesOf(options),
    isWithoutLora: given.lora === 0,
    aim: { most, goal, least: leastLimitOf(options) },
  });
}

/**
 * A schedule whose process ends when it is disposed, such as after an error of the run, and starts again when the run
 * continues.
 */
function reopening(first: OpenSchedule, open: () => Promise<OpenSchedule>): OpenSchedule {
  if (!first.isolated) return first;
  let now: OpenSchedule | null = first;
  const reopen = async (): Promise<OpenSchedule> => {
    const again = await open();
    if (again.identity === first.identity) return again;
    await again[Symbol.asyncDispose]();
    refuse("mismatch", `cannot continue with the schedule ${first.name}`, {
      rule: "it is the schedule that the run started with",
      value: `${first.identity} then, ${again.identity} now`,
      fix: "restore the first schedule, or start a new run",
    });
  };
  return {
    ...first,
    evaluate: async (input) => await (now ??= await reopen()).evaluate(input),
    async [Symbol.asyncDispose](): Promise<void> {
      const last = now;
      now = null;
      await last?.[Symbol.asyncDispose]();
    },
  };
}

function cubic(sparsity: number, rates: Rates): Steerer {
  const curve = cubicSparsity({ target: sparsity, warmup: rates.warmup });
  return {
    needsRecords: false,
    identity: "cubic",
    drops: false,
    focuses: false,
    scheduled: () => [],
    at: ({ step, steps }) =>
      Promise.resolve({ target: curve(progressOf(step, steps)), rates, end: false, layers: null, freeze: [] }),
    outside: () => Promise.resolve({ set: {}, end: false }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

function scripted(
  schedule: OpenSchedule,
  table: UnitTable,
  { sparsity, rates, stages, isWithoutLora, aim }: {
    readonly sparsity: number;
    readonly rates: Rates;
    readonly stages: readonly StagePlan[];
    /** Whether LoRA is not trained, even if the schedule sets a rate. */
    readonly isWithoutLora: boolean;
    readonly aim: Aim;
  },
): Steerer {
  const allowed = (set: ScheduleOutput["rates"]): ScheduleOutput["rates"] =>
    isWithoutLora && set.lora !== undefined ? { ...set, lora: 0 } : set;
  return {
    needsRecords: true,
    identity: schedule.identity,
    drops: schedule.parts.some((part) => part.endsWith(".dropout")),
    focuses: schedule.parts.includes("postfinetune.focus"),
    scheduled: (stage) => ratesSet(schedule.parts, stages.slice(stage)),
    async at({ step, steps, records, layers }): Promise<Steering> {
      const progress = progressOf(step, steps);
      const seen = { sparsity, step, steps, records, layers: await layers() };
      const output = await schedule.evaluate({ stage: "prune", progress, ...seen });
      const now: StepRates = { ...rates, ...allowed(output.rates) };
      const target = output.sparsity ?? cubicSparsity({ target: sparsity, warmup: now.warmup })(progress);
      if (!output.end) {
        checkLimit(output.rates, { step, steps }, aim);
        checkTargets(table, { step, steps, target, layers: output.layers }, aim);
        atStep({ step, steps }, () => heldUnits(table, output.freeze));
      }
      return { target, rates: now, end: output.end, layers: output.layers, freeze: output.freeze };
    },
    async outside(stage, { step, steps, records, layers }): Promise<Omit<Steered, "steering">> {
      if (!schedule.parts.includes(stage)) return { set: {}, end: false };
      const seen = { sparsity, step, steps, records, layers: await layers() };
      const { rates: set, end } = await schedule.evaluate({ stage, progress: progressOf(step, steps), ...seen });
      return { set: allowed(set), end };
    },
    [Symbol.asyncDispose]: () => schedule[Symbol.asyncDispose](),
  };
}

/** What a schedule sees of a record. */
export function recordView(record: StepRecord): RecordView {
  const { stage, step, loss, target, expected, lambda1, lambda2, gradNorm, learningRate } = record;
  return { stage, step, loss, target, expected, lambda1, lambda2, gradNorm, learningRate };
}

/** Bounds of targets and of the limit of log α. */
interface Aim {
  /** Largest sparsity that can be reached. */
  readonly most: number;
  readonly goal: Pick<SizeGoal, "harden"> | null;
  /** Least limit of log α. */
  readonly least: number;
}

/** Least limit of log α that a run's options may have. */
function leastLimitOf({ method, start, rates }: Pick<ResolvedOptions, "method" | "start" | "rates">): number {
  return kindOfMethod(method) === "learned" && start === "saliency" ? leastLimit(rates) : 0;
}

/**
 * Refuses a limit of log α that would make more than half of the units equal, as the run's own option is refused.
 * Throws `CompressoError("input")`, with step and value.
 */
function checkLimit(
  { logAlphaLimit: limit = Infinity }: ScheduleOutput["rates"],
  { step, steps }: Pick<SteeringInput, "step" | "steps">,
  { least }: Aim,
): void {
  if (limit >= least) return;
  refuse("input", `cannot use the schedule at step ${step} of ${steps}`, {
    rule: `the limit of log α is at least ${
      shownLimit(least)
    } where masks start from saliency, so that half of all units keep their order: three times the spread, and what opens a unit`,
    value: `rates.logAlphaLimit = ${limit}`,
    fix: raisedLimit(),
  });
}

/**
 * Refuses targets that units and rules cannot meet, so that no steps are wasted. During the stage, layer targets may
 * cut less than the target of the whole requires; at the last step they must agree.
 *
 * @throws CompressoError("input") with step and value.
 */
function checkTargets(
  table: UnitTable,
  { step, steps, target, layers }: Pick<SteeringInput, "step" | "steps"> & Pick<Steering, "target" | "layers">,
  { most, goal }: Aim,
): void {
  const what = `cannot use the schedule at step ${step} of ${steps}`;
  if (target > most + ROUNDING) {
    refuse("input", what, {
      rule: `cutting ${[...table.kinds].join(", ")} under the run's rules reaches at most ${most.toFixed(4)}`,
      value: `sparsity = ${target}`,
      fix: `lower what the schedule returns, loosen a rule, or add kinds to ${option("units")}`,
    });
  }
  if (!layers) return;
  atStep({ step, steps }, () => checkLayerTargets(table, layers));
  if (step < steps - 1 || target <= 0 && !goal) return;
  atStep({ step, steps }, () => {
    // Whether a size can be reached does not depend on the units' scores.
    if (goal) {
      goal.harden(table, new Float32Array(table.count), { target: null, layerTargets: layers, layout: "compact" });
    } else checkReachable(table, Math.min(target, most), { layerTargets: layers });
  }, {
    fix: `let the targets of layers come to the ${
      goal ? "size" : "whole's"
    } at the last step, or leave some layers to it (null)`,
  });
}

/** Runs a check of what a schedule returned for a step; the error names the step. */
function atStep(
  { step, steps }: Pick<SteeringInput, "step" | "steps">,
  check: () => void,
  fix: { readonly fix?: string } = {},
): void {
  try {
    check();
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    const what = `cannot use the schedule at step ${step} of ${steps}: ${error.partsAs(option).what}`;
    throw error.with({ code: "input", what, ...fix });
  }
}

/** Tolerance for quotients of integers. */
const ROUNDING = 1e-9;
