// Statistics of a model's activations on calibration data: the forward passes.
import { createInputStatistics } from "../../nn/column_stats.ts";
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
  /** Stops the work. */
  readonly signal?: AbortSignal;
}

/**
 * Mean and sum of squared deviations of every input channel of o_proj and down_proj. They are taken over the tokens
 * before labels, which a loss sees: no padding, instructions or prompts. All masks are 1, without LoRA.
 */
export async function calibrate(model: Model, options: CalibrateOptions): Promise<ActivationStats> {
  const { device, weights, spec } = model, { batches, batch, seq, signal } = options, rows = batch * seq;
  using pass = createPass(device, weights, { batch, seq });
  const context = pass.plan();
  using plan = context.plan;
  using statistics = createInputStatistics(device, spec, { rows, of: ["o", "down"] });
  recordForward({ ...context, observe: statistics.observe });
  plan.finish();
  for (const { tokens, labels } of batches) {
    signal?.throwIfAborted();
    device.write(pass.act.tokens, tokens);
    statistics.choose(Uint32Array.from(shiftLabels(labels, { seq }), (label) => label >= 0 ? 1 : 0));
    await plan.run(signal ? { signal } : {});
  }
  const layers = spec.layers.map((): { o: ChannelStats | null; down: ChannelStats | null } => ({
    o: null,
    down: null,
  }));
  for (const { layer, of, mean, squares } of await statistics.read()) {
    const own = layers[layer];
    if (own && (of === "o" || of === "down")) own[of] = { mean, squares };
  }
  return { tokens: statistics.count, layers };
}
