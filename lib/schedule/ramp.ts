// The numbers of a run without a schedule as functions of progress: cubic sparsity, and LoRA's learning rate in each stage.

/** Default share of the pruning stage after which the target is reached. */
export const WARMUP = 0.4;

/** Share of a stage that is done with a step: 1 / steps at its first, 1 at its last; 0 is before the first. */
export type Progress = number;

/**
 * Cubic sparsity schedule (Zhu & Gupta 2017): t(k) = T·(1 − (1 − min(1, k / warm-up))³).
 *
 * @example
 * ```ts
 * import { cubicSparsity } from "./ramp.ts";
 * const schedule = cubicSparsity({ target: 0.3, warmup: 0.5 });
 * if (schedule(0) !== 0 || schedule(0.5) !== 0.3 || schedule(1) !== 0.3) throw new Error("not cubic");
 * ```
 */
export function cubicSparsity(
  { target, warmup }: { readonly target: number; readonly warmup: number },
): (progress: Progress) => number {
  return (progress) => target - target * (1 - Math.min(1, progress / warmup)) ** 3;
}

/** Linear warm-up over the first `warmup` share, then a cosine from `peak` down to `floor`. */
export function warmupCosine(
  { peak, warmup, floor = 0 }: { readonly peak: number; readonly warmup: number; readonly floor?: number },
): (progress: Progress) => number {
  return (progress) => {
    if (progress < warmup) return peak * (progress / warmup);
    const rest = warmup < 1 ? (progress - warmup) / (1 - warmup) : 1;
    return floor + (peak - floor) * 0.5 * (1 + Math.cos(Math.PI * rest));
  };
}

/** Learning rate of LoRA: warm-up over the first half of the first stage, constant, and over the last stage a cosine from `postfinetune` to a tenth. */
export function stageRate(
  stage: "finetune" | "prune" | "postfinetune",
  { lora, postfinetune }: { readonly lora: number; readonly postfinetune: number },
): (progress: Progress) => number {
  if (stage === "finetune") return (progress) => lora * Math.min(1, 2 * progress);
  if (stage === "prune") return () => lora;
  return warmupCosine({ peak: postfinetune, warmup: 0, floor: postfinetune / 10 });
}

/** Progress of step `index` of `count`; steps count from 0, and the first step already moves. */
export function progressOf(index: number, count: number): Progress {
  return count <= 0 ? 1 : Math.min(1, (index + 1) / count);
}
