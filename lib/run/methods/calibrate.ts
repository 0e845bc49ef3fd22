// Statistics of a model's activations on calibration data: the forward passes.
import { dealt, type Ranks } from "../../ranks/ranks.ts";
import { createInputStatistics, type InputMoments } from "../../nn/column_stats.ts";
import { writeRows } from "../../nn/key_ranges.ts";
import { createPass, recordForward, shiftLabels } from "../../nn/pass.ts";
import type { ActivationStats, ChannelStats } from "../../masks/baselines_activations.ts";
import type { Batch } from "../../data/batches.ts";
import type { Model } from "../../model/model.ts";

/** Options of {@link calibrate}. */
export interface CalibrateOptions {
  /** Calibration data; all batches have `batch` · `seq` tokens. */
  readonly batches: Iterable<Batch>;
  /** Sequences of a batch. */
  readonly batch: number;
  /** Tokens of a sequence with its padding. */
  readonly seq: number;
  /** Whether rows packed into a sequence do not see each other. Default false. */
  readonly documentMask?: boolean | undefined;
  /** Processes that share the batches out. Default: this one alone. */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each batch. */
  readonly onBatch?: (() => void) | undefined;
}

/**
 * Mean and sum of squared deviations of every input channel of o_proj and down_proj. They are taken over the tokens
 * before labels, which a loss sees: no padding, instructions or prompts. All masks are 1, without LoRA. What the
 * batches give is merged in f64, in their order, so that ranks change no bit.
 */
export async function calibrate(model: Model, options: CalibrateOptions): Promise<ActivationStats> {
  const { device, weights, spec } = model,
    { batches, batch, seq, ranks, signal, onBatch } = options,
    rows = batch * seq;
  using pass = createPass(device, weights, { batch, seq, ranges: options.documentMask ? "rows" : undefined });
  const context = pass.plan();
  using plan = context.plan;
  using statistics = createInputStatistics(device, spec, { rows, of: ["o", "down"] });
  recordForward({ ...context, observe: statistics.observe });
  plan.finish();
  const measure = async ({ tokens, labels, positions }: Batch): Promise<Measured> => {
    signal?.throwIfAborted();
    device.write(pass.act.tokens, tokens);
    if (pass.ranges) writeRows(pass, positions);
    statistics.clear();
    statistics.choose(Uint32Array.from(shiftLabels(labels, { seq }), (label) => label >= 0 ? 1 : 0));
    await plan.run({ signal });
    return { count: statistics.count, moments: await statistics.read() };
  };
  const merged = (await statistics.read()).map(({ layer, of, mean, squares }) => ({
    layer,
    of,
    mean: new Float64Array(mean.length),
    squares: new Float64Array(squares.length),
  }));
  let tokens = 0;
  for await (const [, { count, moments }] of dealt(batches, ranks, measure)) {
    for (const [index, own] of moments.entries()) merge(merged[index], own, { before: tokens, count });
    tokens += count;
    onBatch?.();
  }
  const layers = spec.layers.map((): { o: ChannelStats | null; down: ChannelStats | null } => ({
    o: null,
    down: null,
  }));
  for (const { layer, of, mean, squares } of merged) {
    const own = layers[layer];
    if (own && (of === "o" || of === "down")) {
      own[of] = { mean: Float32Array.from(mean), squares: Float32Array.from(squares) };
    }
  }
  return { tokens, layers };
}

/** Statistics of one batch, over `count` tokens. */
interface Measured {
  readonly count: number;
  readonly moments: readonly InputMoments[];
}

/**
 * Merges the statistics of `count` tokens into those of the n before: with δ = μ_k − μ, μ += δ · n_k / (n + n_k) and
 * M += M_k + δ² · n · n_k / (n + n_k) (Chan, Golub, LeVeque 1979).
 */
function merge(
  into: { readonly mean: Float64Array; readonly squares: Float64Array } | undefined,
  { mean, squares }: InputMoments,
  { before, count }: { readonly before: number; readonly count: number },
): void {
  if (!into || count === 0) return;
  const share = count / (before + count);
  for (let channel = 0; channel < mean.length; channel++) {
    const delta = (mean[channel] ?? 0) - (into.mean[channel] ?? 0);
    into.mean[channel] = (into.mean[channel] ?? 0) + delta * share;
    into.squares[channel] = (into.squares[channel] ?? 0) + (squares[channel] ?? 0) + delta * delta * before * share;
  }
}
