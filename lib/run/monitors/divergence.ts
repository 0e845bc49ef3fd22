// A loss that runs away: the mean that is watched, and its limit.
import { option } from "../../core/errors.ts";
import { isOneShot } from "../methods/names.ts";
import type { ResolvedOptions } from "../options/options.ts";
import type { LossHistory, Stage } from "../contract.ts";
import type { Finding, ResolvedMonitor } from "./alarm.ts";

/** Nothing seen yet. */
export const NO_LOSSES: LossHistory = { last: [], lowest: null };

/** Steps over which the mean is taken: a batch of few tokens has a loss of its own. */
const MEAN_STEPS = 4;
/**
 * Least way from the lowest loss to a guess, in nats, for models that are hardly better than one: with 1, runs of a small model on its own texts came
 * past their limit by the half nat that the cuts cost them, and ended well where the monitor only warned.
 */
const LEAST_ROOM = 2;

/**
 * Takes in one loss. The mean of the last four may rise by `threshold` of the way from the lowest such mean to the loss of a uniform guess,
 * `chance` = ln(vocabulary), taken as at least {@link LEAST_ROOM}. Where less than that lies between the two, a run that ends well may come so far.
 */
export function watchLoss(
  history: LossHistory,
  loss: number,
  { chance, stage, setting, of = { method: "compresso", size: null } }: {
    readonly chance: number;
    readonly stage: Stage;
    readonly setting: ResolvedMonitor;
    /** What the run is. */
    readonly of?: Pick<ResolvedOptions, "method" | "size">;
  },
): { readonly history: LossHistory; readonly found: readonly Finding[] } {
  const last = [...history.last, loss].slice(-MEAN_STEPS);
  const mean = last.reduce((sum, value) => sum + value, 0) / last.length;
  const lowest = Math.min(mean, history.lowest ?? mean);
  if (last.length < MEAN_STEPS) return { history: { last, lowest }, found: [] };
  const limit = lowest + setting.threshold * Math.max(LEAST_ROOM, chance - lowest);
  const found: Finding[] = mean <= limit ? [] : [{
    monitor: "divergence",
    key: "divergence",
    message: `the loss runs away: its mean over ${MEAN_STEPS} steps is ${mean.toFixed(3)}, limit ${
      limit.toFixed(3)
    } (lowest ${lowest.toFixed(3)}, a uniform guess ${chance.toFixed(3)})`,
    change: `${lowerRate(stage)}${stage === "finetune" ? "" : `, or prune ${lessAtOnce(of)}`}`,
  }];
  return { history: { last, lowest }, found };
}

/** How a cut costs less: steps of a one-shot method are recovery alone. */
export function lessAtOnce({ method, size }: Pick<ResolvedOptions, "method" | "size">): string {
  const less = size
    ? `a larger size (${option("size.parameters")}, ${option("size.bytes")})`
    : `a lower ${option("sparsity")}`;
  return isOneShot(method) ? `to ${less}` : `in more steps (${option("steps")}) or to ${less}`;
}

/** What to do about a LoRA that learns too fast in a stage. */
export function lowerRate(stage: Stage): string {
  const scheduled = `or \`${stage === "prune" ? "rates" : stage}.lora\` where a schedule sets it`;
  return stage === "postfinetune"
    ? `lower the learning rate of LoRA in the last stage (${
      option("rates.postfinetune")
    } or, where that is not given, ${option("rates.lora")}, ${scheduled})`
    : `lower the learning rate of LoRA (${option("rates.lora")}, ${scheduled})`;
}
