// Detects a loss that diverges: the monitored mean and its limit.
import { option } from "../../core/errors.ts";
import { kindOfMethod } from "../methods/all.ts";
import type { ResolvedOptions } from "../options/options.ts";
import type { LossHistory, Stage } from "../contract.ts";
import type { Finding, ResolvedMonitor } from "./alarm.ts";

/** History before the first loss. */
export const NO_LOSSES: LossHistory = { last: [], lowest: null };

/** Steps of the mean. The loss of a single batch of few tokens is too noisy. */
const MEAN_STEPS = 4;
/**
 * Least distance from the lowest loss to that of a uniform guess, in nats, for models that are hardly better than a
 * guess. With 1, runs of a small model on its own texts exceeded their limit by the half nat that the cuts cost them;
 * with the monitor set to warn they ended well.
 */
const LEAST_ROOM = 2;

/**
 * Adds one loss. The mean of the last four losses may rise by `threshold` of the distance from its lowest value to the
 * loss of a uniform guess, `chance` = ln(vocabulary). The distance counts as at least {@link LEAST_ROOM}, since with
 * less a healthy run may exceed the limit.
 */
export function watchLoss(
  history: LossHistory,
  loss: number,
  { chance, stage, setting, of = { method: "compresso", size: null } }: {
    readonly chance: number;
    readonly stage: Stage;
    readonly setting: ResolvedMonitor;
    /** Method and size of the run. */
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

/** Advice for pruning more gently. Steps of a one-shot method are recovery alone, so more of them do not help. */
export function lessAtOnce({ method, size }: Pick<ResolvedOptions, "method" | "size">): string {
  const less = size
    ? `a larger size (${option("size.parameters")}, ${option("size.bytes")})`
    : `a lower ${option("sparsity")}`;
  return kindOfMethod(method) === "one-shot" ? `to ${less}` : `in more steps (${option("steps")}) or to ${less}`;
}

/** Advice for a LoRA learning rate that is too high in a stage. */
export function lowerRate(stage: Stage): string {
  const scheduled = `or \`${stage === "prune" ? "rates" : stage}.lora\` where a schedule sets it`;
  return stage === "postfinetune"
    ? `lower the learning rate of LoRA in the last stage (${
      option("rates.postfinetune")
    } or, where that is not given, ${option("rates.lora")}, ${scheduled})`
    : `lower the learning rate of LoRA (${option("rates.lora")}, ${scheduled})`;
}
