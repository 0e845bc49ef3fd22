// A schedule's decisions over a simulated pruning stage. Owns the simulation; refuses to open schedules and to draw.
import { cubicSparsity, progressOf, stageRate } from "../lib/prune/schedule.ts";
import { leastLimit, shownLimit } from "../lib/prune/saliency.ts";
import type { ScheduleOutput } from "../lib/prune/schedule_output.ts";
import { type LayerState, RATE_NAMES, type RecordView } from "../lib/prune/schedule_script.ts";
import { resolveMonitors } from "../lib/run/monitors/alarm.ts";
import { defaultRates } from "../lib/run/options.ts";
import type { OpenSchedule } from "../lib/run/schedule_host.ts";
import { RECORDS_SEEN } from "../lib/run/steering.ts";
import { formatShare } from "./output.ts";

/** One step of a preview. */
export interface PreviewPoint extends ScheduleOutput {
  /** The step, from 0. */
  readonly step: number;
  /** Share of the stage done with it. */
  readonly progress: number;
  /** Sparsity that the step holds: the schedule's, or the run's own where it says nothing. */
  readonly target: number;
}

/** What a schedule does over a stage. */
export interface Preview {
  readonly name: string;
  readonly isolated: boolean;
  readonly steps: number;
  /** The run's target. */
  readonly sparsity: number;
  /** In words, what the schedule was shown in place of a run. */
  readonly simulated: string;
  /** The steps up to the end. */
  readonly points: readonly PreviewPoint[];
  /** The step before which the schedule ends the stage; null where it does not. */
  readonly endsBefore: number | null;
}

/** A line of a chart; a point for each step. */
export interface Series {
  readonly name: string;
  readonly values: readonly number[];
}

/** Asks a schedule for every step. Throws what it throws. */
export async function previewSchedule(
  schedule: OpenSchedule,
  { steps, prefinetune, sparsity, layers: count, ...given }: {
    readonly steps: number;
    /** Steps of fine-tuning before the stage. */
    readonly prefinetune: number;
    readonly sparsity: number;
    readonly layers: number;
    /** Share of the stage after which the run's own schedule is at its target. */
    readonly warmup?: number;
  },
): Promise<Preview> {
  const { name, isolated } = schedule, rates = { ...defaultRates(steps), ...given };
  const points: PreviewPoint[] = [], seen = Math.min(prefinetune, RECORDS_SEEN), rateOf = stageRate("finetune", rates);
  const records = Array.from({ length: seen }, (_, index) => {
    const step = prefinetune - seen + index;
    return simulatedRecord(step, { learningRate: rateOf(progressOf(step, prefinetune)) });
  });
  let layers: readonly LayerState[] = Array.from({ length: count }, () => ({ heads: 0, ffn: 0 }));
  let endsBefore: number | null = null;
  for (let step = 0; step < steps; step++) {
    const progress = progressOf(step, steps);
    const output = await schedule.evaluate({
      progress,
      step,
      steps,
      sparsity,
      records: records.slice(-RECORDS_SEEN),
      layers,
    });
    if (output.end) {
      endsBefore = step;
      break;
    }
    const warmup = output.rates.warmup ?? rates.warmup;
    const target = output.sparsity ?? cubicSparsity({ target: sparsity, warmup })(progress);
    points.push({ step, progress, target, ...output });
    layers = layers.map((layer, index) => nextLayer(layer, { index, target, output }));
    const set = {
      learningRate: stageRate("prune", { ...rates, ...output.rates })(progress),
      pruning: { progress, target },
    };
    records.push(simulatedRecord(prefinetune + step, set));
  }
  return {
    name,
    isolated,
    steps,
    sparsity,
    simulated:
      `${count} layers that follow their targets at once, behind ${prefinetune} steps of fine-tuning; loss 2.2 + 0.4·e^(−4·progress) + 2·sparsity²`,
    points,
    endsBefore,
  };
}

/** What is drawn: the sparsity, then every number of the loop that the schedule sets. */
export function previewSeries({ points }: Preview): readonly Series[] {
  if (points.length === 0) return [];
  const own = points.some(({ sparsity }) => sparsity !== null) ? "" : " (the run's own)";
  const set = RATE_NAMES.filter((rate) => points.some(({ rates }) => rates[rate] !== undefined));
  return [
    { name: `sparsity${own}`, values: points.map(({ target }) => target) },
    ...set.map((rate) => ({ name: rate, values: points.map(({ rates }) => rates[rate] ?? NaN) })),
  ];
}

/**
 * What a run would refuse, or raise an alarm for at its end: targets of all layers that do not come to the whole's, layers of one size taken, a clamp
 * of log α that is too narrow, and a sparsity of the schedule's own that is not the run's. Null where it is well.
 */
export function shortfall({ points, endsBefore, sparsity, steps }: Preview): string | null {
  const last = points.at(-1);
  if (!last) return null;
  const lowest = Math.min(...points.map(({ rates }) => rates.limit ?? Infinity)),
    least = leastLimit(defaultRates(steps));
  if (lowest < least) {
    return `the limit of log α falls to ${lowest}: a run whose masks start from saliency, with the default spread, refuses less than ${
      shownLimit(least)
    }`;
  }
  if (endsBefore !== null) return null;
  const numbers = last.layers?.filter((value) => value !== null) ?? [];
  const isWhole = numbers.length > 0 && numbers.length === last.layers?.length;
  const mean = numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
  const { threshold = Infinity } = resolveMonitors().constraint ?? {};
  if (isWhole && (mean < last.target - 0.005 || mean > last.target + threshold)) {
    return `the targets of all layers come to ${formatShare(mean)} at the last step, where the whole's is ${
      formatShare(last.target)
    }: a run ${mean < last.target ? "refuses that" : "cuts what they say, and raises an alarm"}`;
  }
  if (last.sparsity === null || Math.abs(last.sparsity - sparsity) <= threshold) return null;
  return `the schedule ends at ${formatShare(last.sparsity)}, where --sparsity is ${
    formatShare(sparsity)
  }: a run cuts what the schedule says, and raises an alarm`;
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
  const frozen = (kind: "heads" | "ffn"): boolean =>
    freeze.some((units) => (units.kind === kind || units.kind === "layer") && units.layer === index);
  return { heads: frozen("heads") ? layer.heads : share, ffn: frozen("ffn") ? layer.ffn : share };
}

/** The record after a step of the run, from 0; of fine-tuning where it is not `pruning`. */
function simulatedRecord(
  step: number,
  { learningRate, pruning }: {
    readonly learningRate: number;
    readonly pruning?: { readonly progress: number; readonly target: number };
  },
): RecordView {
  const { progress, target } = pruning ?? { progress: 0, target: 0 };
  return {
    stage: pruning ? "prune" : "finetune",
    step: step + 1,
    loss: 2.2 + 0.4 * Math.exp(-4 * progress) + 2 * target ** 2,
    target: pruning?.target ?? null,
    expected: pruning?.target ?? null,
    lambda1: 0,
    lambda2: 0,
    gradNorm: 1,
    learningRate,
  };
}
