// The decisions of a schedule over a simulated run.
import { cubicSparsity, progressOf, stageRate } from "../../../lib/schedule/ramp.ts";
import { leastLimit, shownLimit } from "../../../lib/masks/saliency.ts";
import type { ScheduleOutput } from "../../../lib/schedule/output.ts";
import {
  type LayerState,
  type LoopNumber,
  type OuterStage,
  RATE_NAMES,
  RECORDS_SEEN,
  type RecordView,
  type ScheduleInput,
} from "../../../lib/schedule/definition.ts";
import { resolveMonitors } from "../../../lib/run/monitors/alarm.ts";
import { defaultRates } from "../../../lib/run/options/rates.ts";
import type { OpenSchedule } from "../../../lib/schedule/open.ts";
import { formatShare } from "../../terminal/output.ts";

/** One step of a preview. */
export interface PreviewPoint extends ScheduleOutput {
  /** The step, from 0. */
  readonly step: number;
  /** Share of the stage done with it. */
  readonly progress: number;
  /** Sparsity of the step: the schedule's, or the run's own where the schedule sets none. */
  readonly target: number;
}

/** One step of a preview in a stage before or after pruning. */
export type OuterPoint = Pick<PreviewPoint, "step" | "progress" | "rates">;

/** What a schedule does in a stage before or after pruning. */
export interface OuterPreview {
  readonly steps: number;
  /** The steps up to the end. */
  readonly points: readonly OuterPoint[];
  /** The step before which the schedule ends the stage; null if it does not. */
  readonly endsBefore: number | null;
}

/** What a schedule does over a run. */
export interface Preview {
  readonly name: string;
  readonly isolated: boolean;
  readonly steps: number;
  /** The run's target. */
  readonly sparsity: number;
  /** The simulated run, in words. */
  readonly simulated: string;
  /** The stage before, where the schedule steers it; else null. */
  readonly finetune: OuterPreview | null;
  /** The steps of the pruning stage up to the end. */
  readonly points: readonly PreviewPoint[];
  /** The last stage, where the schedule steers it; else null. */
  readonly postfinetune: OuterPreview | null;
  /** The step before which the schedule ends the stage; null if it does not. */
  readonly endsBefore: number | null;
}

/** A line of a chart; a point for each step. */
export interface Series {
  readonly name: string;
  readonly values: readonly number[];
}

/** What a chart shows, over so many steps of a stage. */
export interface Chart extends Series {
  readonly stage: RecordView["stage"];
  readonly steps: number;
  readonly endsBefore: number | null;
}

/** Asks a schedule for every step. Throws what it throws. */
export async function previewSchedule(
  schedule: OpenSchedule,
  { steps, prefinetune, postfinetune, sparsity, layers: count, ...given }: {
    readonly steps: number;
    /** Steps of fine-tuning before the stage. */
    readonly prefinetune: number;
    /** Steps of fine-tuning after it. */
    readonly postfinetune: number;
    readonly sparsity: number;
    readonly layers: number;
    /** Share of the stage after which the run's own schedule is at its target. */
    readonly warmup?: number;
  },
): Promise<Preview> {
  const { name, isolated } = schedule, rates = { ...defaultRates(steps), ...given };
  const points: PreviewPoint[] = [], records: RecordView[] = [];
  let layers: readonly LayerState[] = Array.from({ length: count }, () => ({ heads: 0, ffn: 0, sparsity: 0 }));
  let endsBefore: number | null = null, target = 0;
  const seen = (): Pick<ScheduleInput, "sparsity" | "records" | "layers"> => ({
    sparsity,
    records: records.slice(-RECORDS_SEEN),
    layers,
  });
  const outer = async (stage: OuterStage, steps: number): Promise<OuterPreview | null> => {
    const asked: OuterPoint[] = [], rateOf = stageRate(stage, rates), before = records.at(-1)?.step ?? 0;
    const isSteered = schedule.parts.includes(stage);
    for (let step = 0; step < steps; step++) {
      const progress = progressOf(step, steps), at = { stage, progress, step, steps };
      const output = isSteered ? await schedule.evaluate({ ...at, ...seen() }) : null;
      if (output?.end) return { steps, points: asked, endsBefore: step };
      if (output) asked.push({ step, progress, rates: output.rates });
      const learningRate = output?.rates.lora ?? rateOf(progress), ofPruning = stage === "finetune" ? 0 : 1;
      records.push(simulatedRecord(before + step, { stage, progress: ofPruning, target, learningRate }));
    }
    return isSteered ? { steps, points: asked, endsBefore: null } : null;
  };
  const finetune = await outer("finetune", prefinetune), before = records.length;
  for (let step = 0; step < steps; step++) {
    const stage = "prune", progress = progressOf(step, steps);
    const output = await schedule.evaluate({ stage, progress, step, steps, ...seen() });
    if (output.end) {
      endsBefore = step;
      break;
    }
    const warmup = output.rates.warmup ?? rates.warmup;
    target = output.sparsity ?? cubicSparsity({ target: sparsity, warmup })(progress);
    points.push({ step, progress, target, ...output });
    layers = layers.map((layer, index) => nextLayer(layer, { index, target, output }));
    const learningRate = stageRate(stage, { ...rates, ...output.rates })(progress);
    records.push(simulatedRecord(before + step, { stage, progress, target, learningRate }));
  }
  const simulated =
    `${count} layers that follow their targets at once, after ${before} steps of fine-tuning; loss 2.2 + 0.4·e^(−4·progress) + 2·sparsity²`;
  // No later stage would see its records.
  const after = schedule.parts.includes("postfinetune") ? await outer("postfinetune", postfinetune) : null;
  return { name, isolated, steps, sparsity, simulated, finetune, points, postfinetune: after, endsBefore };
}

const NUMBERS: readonly LoopNumber[] = [...RATE_NAMES, "focus"];

/** The charts: the sparsity, then every number of the loop that the schedule sets, stage by stage. */
export function previewCharts({ finetune, points, postfinetune, steps, endsBefore }: Preview): readonly Chart[] {
  const own = points.some(({ sparsity }) => sparsity !== null) ? "" : " (the run's own)";
  const charts = (stage: Chart["stage"], { points, ...of }: OuterPreview): Chart[] =>
    NUMBERS.filter((rate) => points.some(({ rates }) => rates[rate] !== undefined)).map((rate) => ({
      name: stage === "prune" ? rate : `${rate}, stage ${stage}`,
      values: points.map(({ rates }) => rates[rate] ?? NaN),
      stage,
      ...of,
    }));
  const targets = points.map(({ target }) => target), stage = "prune";
  return [
    ...(points.length > 0 ? [{ name: `sparsity${own}`, values: targets, stage, steps, endsBefore } as const] : []),
    ...charts(stage, { points, steps, endsBefore }),
    ...(finetune ? charts("finetune", finetune) : []),
    ...(postfinetune ? charts("postfinetune", postfinetune) : []),
  ];
}

/** What a run would refuse, or raise an alarm for. */
export type Shortfall =
  /** A stage that the schedule steers has no steps. */
  | { readonly of: "stage"; readonly stage: "finetune" | "postfinetune"; readonly run: "refuses" }
  /** The clamp of log α gets narrower than masks that start from saliency take. */
  | { readonly of: "logAlphaLimit"; readonly value: number; readonly wanted: number; readonly run: "refuses" }
  /** The targets of all layers, of equal size, do not add up to the target of the whole at the last step. */
  | { readonly of: "layers"; readonly value: number; readonly wanted: number; readonly run: "refuses" | "alarms" }
  /** The last sparsity is not the run's. */
  | { readonly of: "sparsity"; readonly value: number; readonly wanted: number; readonly run: "alarms" };

/** The first thing that a run would refuse or raise an alarm for; null for none. */
export function shortfall({ finetune, points, postfinetune, endsBefore, sparsity, steps }: Preview): Shortfall | null {
  const last = points.at(-1), idle = [finetune, postfinetune].find((stage) => stage?.steps === 0);
  if (idle) return { of: "stage", stage: idle === finetune ? "finetune" : "postfinetune", run: "refuses" };
  if (!last) return null;
  // Not Math.min: a call cannot take so many arguments.
  const lowest = points.reduce((least, { rates }) => Math.min(least, rates.logAlphaLimit ?? Infinity), Infinity),
    least = leastLimit(defaultRates(steps));
  if (lowest < least) return { of: "logAlphaLimit", value: lowest, wanted: least, run: "refuses" };
  if (endsBefore !== null) return null;
  const numbers = last.layers?.filter((value) => value !== null) ?? [];
  const isWhole = numbers.length > 0 && numbers.length === last.layers?.length;
  const mean = numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
  const { threshold = Infinity } = resolveMonitors().constraint ?? {};
  if (isWhole && (mean < last.target - 0.005 || mean > last.target + threshold)) {
    return { of: "layers", value: mean, wanted: last.target, run: mean < last.target ? "refuses" : "alarms" };
  }
  if (last.sparsity === null || Math.abs(last.sparsity - sparsity) <= threshold) return null;
  return { of: "sparsity", value: last.sparsity, wanted: sparsity, run: "alarms" };
}

/** A shortfall in words. */
export function shortfallLine(short: Shortfall): string {
  switch (short.of) {
    case "stage":
      return `the schedule steers ${short.stage}, which has no steps: a run refuses that, except for the recovery of a one-shot method`;
    case "logAlphaLimit":
      return `the limit of log α falls to ${short.value}: a run whose masks start from saliency, with the default spread, refuses less than ${
        shownLimit(short.wanted)
      }`;
    case "layers":
      return `the targets of all layers add up to ${
        formatShare(short.value)
      } at the last step, where the target of the whole is ${formatShare(short.wanted)}: a run ${
        short.run === "refuses" ? "refuses that" : "follows them, and raises an alarm"
      }`;
    case "sparsity":
      return `the schedule ends at ${formatShare(short.value)}, where --sparsity is ${
        formatShare(short.wanted)
      }: a run follows the schedule, and raises an alarm`;
  }
}

function nextLayer(
  layer: LayerState,
  { index, target, output: { layers, freeze } }: {
    readonly index: number;
    readonly target: number;
    readonly output: ScheduleOutput;
  },
): LayerState {
  const share = layers?.[index] ?? target;
  // Where single units are frozen, the others move.
  const frozen = (kind: "heads" | "ffn"): boolean =>
    freeze.some((held) =>
      (held.kind === kind || held.kind === "layer") && held.layer === index && !("units" in held && held.units)
    );
  const isFrozen = frozen("heads") && frozen("ffn");
  return {
    heads: frozen("heads") ? layer.heads : share,
    ffn: frozen("ffn") ? layer.ffn : share,
    sparsity: isFrozen ? layer.sparsity : share,
  };
}

/** The record after a step of the run, from 0. */
function simulatedRecord(
  step: number,
  { stage, progress, target, learningRate }: {
    readonly stage: RecordView["stage"];
    /** That of the pruning stage. */
    readonly progress: number;
    readonly target: number;
    readonly learningRate: number;
  },
): RecordView {
  const goal = stage === "prune" ? target : null;
  return {
    stage,
    step: step + 1,
    loss: 2.2 + 0.4 * Math.exp(-4 * progress) + 2 * target ** 2,
    target: goal,
    expected: goal,
    lambda1: 0,
    lambda2: 0,
    gradNorm: 1,
    learningRate,
  };
}
