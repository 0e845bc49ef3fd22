// What a pruning stage aims at, step by step: the built-in cubic schedule, or the user's own. Owns what a schedule is shown; refuses the loop.
import { CompressoError } from "../errors.ts";
import { heldUnits } from "../prune/frozen.ts";
import { leastLimit, shownLimit } from "../prune/saliency.ts";
import { mostUniform } from "../prune/uniform.ts";
import { checkLayerTargets, checkReachable, type LayerPart, mostSparsity, type UnitTable } from "../prune/units.ts";
import { cubicSparsity, progressOf } from "../prune/schedule.ts";
import type { ScheduleOutput } from "../prune/schedule_output.ts";
import type { LayerState, RecordView } from "../prune/schedule_script.ts";
import { checkParts, keptBy } from "./chooser.ts";
import type { Rates, ResolvedOptions } from "./options.ts";
import type { StepRecord } from "./records.ts";
import { type OpenSchedule, openSchedule, type ScheduleSource } from "./schedule_host.ts";
import { checkTrust } from "./schedule_source.ts";
import type { SizeGoal } from "./size_goal.ts";
import type { Trainer } from "./trainer.ts";

/** What a step of the pruning stage aims at. */
export interface Steering {
  /** Sparsity to hold. */
  readonly target: number;
  readonly rates: Rates;
  /** Whether the stage ends before this step. */
  readonly end: boolean;
  readonly layers: ScheduleOutput["layers"];
  readonly freeze: ScheduleOutput["freeze"];
}

/** What is known when a step is steered. */
export interface SteeringInput {
  /** Step of the stage, from 0, and steps of the stage. */
  readonly step: number;
  readonly steps: number;
  /** The last records, oldest first. */
  readonly records: readonly RecordView[];
  /** How far the layers are cut now; asked for only where a schedule is given. */
  readonly layers: () => Promise<readonly LayerState[]>;
}

/** Decides what every step aims at. Dispose it to end a schedule's process; who asks again after that has a new one. */
export interface Steerer extends AsyncDisposable {
  /** Whether it must be shown the last records, up to the step before. */
  readonly needsRecords: boolean;
  /** What tells it from another one, for resumed runs. */
  readonly identity: string;
  /** Rates that it sets. */
  readonly scheduled: readonly string[];
  at(input: SteeringInput): Promise<Steering>;
}

/** Records that a schedule sees. */
export const RECORDS_SEEN = 32;

/** What a schedule sees of records when so many steps are done. */
export function recordsAt(records: readonly RecordView[], step: number): readonly RecordView[] {
  return records.filter((record) => record.step <= step).slice(-RECORDS_SEEN);
}

/**
 * Opens the schedule of a run. Throws `CompressoError`: "input" where it cannot be read, "usage" where it has parts that the run's method or layout
 * cannot follow.
 */
export async function openSteerer(
  table: UnitTable,
  options: Pick<ResolvedOptions, "sparsity" | "rates" | "method" | "layout" | "start">,
  { schedule, given = {}, goal = null, trust = false, signal, onLog }: {
    readonly schedule?: ScheduleSource | undefined;
    /** Rates that the run was told, which a schedule's own would overrule. */
    readonly given?: Partial<Rates> | undefined;
    /** The run's size, which the last step's targets of layers must leave room for. */
    readonly goal?: Pick<SizeGoal, "harden"> | null | undefined;
    readonly trust?: boolean | undefined;
    readonly signal?: AbortSignal | undefined;
    readonly onLog?: ((line: string) => void) | undefined;
  },
): Promise<Steerer> {
  const { sparsity, rates } = options;
  checkTrust(schedule, trust, { option: "trustSchedule" });
  if (schedule === undefined) return cubic(sparsity, rates);
  const open = (): Promise<OpenSchedule> =>
    openSchedule(schedule, {
      trust,
      warmup: rates.warmup,
      ...(signal ? { signal } : {}),
      ...(onLog ? { onLog } : {}),
    });
  const opened = await open();
  try {
    checkParts(opened.parts, options);
    checkOverruled(opened, given);
  } catch (error) {
    await opened[Symbol.asyncDispose]();
    throw error;
  }
  const most = options.layout === "uniform" ? mostUniform(table) : mostSparsity(table);
  return scripted(reopening(opened, open), table, {
    sparsity,
    rates,
    aim: { most, goal, least: leastLimitOf(options) },
  });
}

/** Rates that nothing but the pruning stage's steps use, all of which a schedule may set. */
const OF_STEPS = ["mask", "lambda", "memory", "warmup", "tracking"] as const;

/** Refuses rates that would do nothing beside a schedule's own. Throws `CompressoError("usage")`. */
function checkOverruled({ name: schedule, parts }: OpenSchedule, given: Partial<Rates>): void {
  const name = OF_STEPS.find((rate) => given[rate] !== undefined && parts.includes(`rates.${rate}`));
  if (name === undefined) return;
  throw new CompressoError("usage", {
    what: `cannot use the rate '${name}'`,
    rule: "steps of the pruning stage alone use it, and a schedule that sets it does so at each",
    value: `${given[name]}, and ${schedule} sets rates.${name}`,
    mend: "leave it out of one of the two; in an experiment give it to a grid of other schedules",
  });
}

/** A schedule whose process ends when it is disposed, as at an error of the run, and is started anew where the run is taken up again. */
function reopening(first: OpenSchedule, open: () => Promise<OpenSchedule>): OpenSchedule {
  if (!first.isolated) return first;
  let now: OpenSchedule | null = first;
  const reopen = async (): Promise<OpenSchedule> => {
    const again = await open();
    if (again.identity === first.identity) return again;
    await again[Symbol.asyncDispose]();
    throw new CompressoError("mismatch", {
      what: `cannot go on with the schedule ${first.name}`,
      rule: "it is the one that the run began with",
      value: `${first.identity} then, ${again.identity} now`,
      mend: "put the first one back, or begin the run anew",
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
    scheduled: [],
    at: ({ step, steps }) =>
      Promise.resolve({ target: curve(progressOf(step, steps)), rates, end: false, layers: null, freeze: [] }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

function scripted(
  schedule: OpenSchedule,
  table: UnitTable,
  { sparsity, rates, aim }: { readonly sparsity: number; readonly rates: Rates; readonly aim: Aim },
): Steerer {
  let isChecked = !isForeseen(schedule);
  return {
    needsRecords: true,
    identity: schedule.identity,
    scheduled: schedule.parts.flatMap((part) => part.startsWith("rates.") ? [part.slice("rates.".length)] : []),
    async at({ step, steps, records, layers }): Promise<Steering> {
      const progress = progressOf(step, steps);
      // Also where a run is taken up with another schedule.
      if (!isChecked) {
        const before = (records.at(-1)?.step ?? step) - step;
        await checkLast(schedule, table, { sparsity, rates, before, steps, aim });
      }
      isChecked = true;
      const output = await schedule.evaluate({ progress, sparsity, step, steps, records, layers: await layers() });
      const now: Rates = { ...rates, ...output.rates };
      const target = output.sparsity ?? cubicSparsity({ target: sparsity, warmup: now.warmup })(progress);
      if (!output.end) {
        checkLimit(output.rates, { step, steps }, aim);
        checkTargets(table, { step, steps, target, layers: output.layers }, aim);
        named({ step, steps }, () => heldUnits(table, output.freeze));
      }
      return { target, rates: now, end: output.end, layers: output.layers, freeze: output.freeze };
    },
    [Symbol.asyncDispose]: () => schedule[Symbol.asyncDispose](),
  };
}

/** Whether a schedule's last step can be asked for beforehand: one with an `end` may never come to it. */
function isForeseen({ parts }: OpenSchedule): boolean {
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
async function checkLast(
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
      const output = await schedule.evaluate({ progress, sparsity, step, steps, records, layers });
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
interface Aim {
  /** Largest sparsity that there is. */
  readonly most: number;
  readonly goal: Pick<SizeGoal, "harden"> | null;
  /** Least limit of log α. */
  readonly least: number;
}

/** Least limit of log α that a run's options may have. */
function leastLimitOf({ method, start, rates }: Pick<ResolvedOptions, "method" | "start" | "rates">): number {
  return method === "compresso" && start === "saliency" ? leastLimit(rates) : 0;
}

/** Refuses a clamp that would make alike more than half of the units, which start apart, as the run's own is refused. Throws `CompressoError("input")`, with step and value. */
function checkLimit(
  { limit = Infinity }: ScheduleOutput["rates"],
  { step, steps }: Pick<SteeringInput, "step" | "steps">,
  { least }: Aim,
): void {
  if (limit >= least) return;
  throw new CompressoError("input", {
    what: `cannot use the schedule at step ${step} of ${steps}`,
    rule: `the limit of log α is at least ${
      shownLimit(least)
    } where masks start from saliency, so that half of all units keep their order: three times the spread, and what opens a unit`,
    value: `rates.limit = ${limit}`,
    mend: "raise rates.limit, lower the run's --spread, or start from a constant (--start constant, without --spread)",
  });
}

/**
 * Refuses targets that units and rules cannot meet before the stage is spent on them. Those of layers may stay behind the whole's on the way; at
 * the last step they have to agree. Throws `CompressoError("input")`, with step and value.
 */
function checkTargets(
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
      mend: "lower what the schedule returns, loosen a rule, or add kinds to --units",
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
    mend: `let the targets of layers come to the ${
      goal ? "size" : "whole's"
    } at the last step, or leave some layers to it (null)`,
  });
}

/** Checks what a schedule decides for a step; the error names it. */
function named(
  { step, steps }: Pick<SteeringInput, "step" | "steps">,
  check: () => void,
  mend: { readonly mend?: string } = {},
): void {
  try {
    check();
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    const { parts } = error, what = `cannot use the schedule at step ${step} of ${steps}: ${parts.what}`;
    throw new CompressoError("input", { ...parts, what, ...mend }, { cause: error });
  }
}

/** Errors of a quotient of whole numbers. */
const ROUNDING = 1e-9;

/** How far each layer is cut: by expectation while masks are learned, at the β and noise of the last step, if there was one. */
export async function layerStates(
  { table, options: { method, rates } }: {
    readonly table: UnitTable;
    readonly options: Pick<ResolvedOptions, "method" | "rates">;
  },
  trainer: Pick<Trainer, "logAlpha" | "masks">,
  last: Pick<Rates, "temperature" | "noise"> | null,
): Promise<LayerState[]> {
  if (method === "compresso") return layerShares(table, expectedCuts(await trainer.logAlpha(), last ?? rates));
  return layerShares(table, keptBy(table, await trainer.masks()).map((kept) => 1 - kept));
}

/** How far each unit is cut by expectation: 1 − P(z > 0), as kernels/hard_concrete.wgsl has it. */
export function expectedCuts(
  logAlpha: Float32Array,
  { temperature, noise }: Pick<Rates, "temperature" | "noise">,
): Float64Array {
  const shift = temperature * Math.log(11), scale = Math.max(noise, 0.05);
  return Float64Array.from(logAlpha, (value) => 1 / (1 + Math.exp((value + shift) / scale)));
}

/** Mean cut of each layer's heads and FFN columns; what the layer's own gate cuts, it cuts of all of them. */
export function layerShares(table: UnitTable, cuts: ArrayLike<number>): LayerState[] {
  return table.layers.map(({ attention, ffn, gate }) => {
    const left = 1 - (gate < 0 ? 0 : cuts[gate] ?? 0);
    const share = ({ first, count, total }: LayerPart): number => {
      let cut = 0;
      for (let unit = first; unit < first + count; unit++) cut += cuts[unit] ?? 0;
      return total === 0 ? 0 : 1 - left * (1 - (count > 0 ? cut / count : 0));
    };
    return { heads: share(attention), ffn: share(ffn) };
  });
}

/** What a schedule sees of a record. */
export function recordView(record: StepRecord): RecordView {
  const { stage, step, loss, target, expected, lambda1, lambda2, gradNorm, learningRate } = record;
  return { stage, step, loss, target, expected, lambda1, lambda2, gradNorm, learningRate };
}
