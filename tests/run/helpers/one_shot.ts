// Golden models with random batches, and their one-shot scores.
import { type Device, openDevice } from "../../../lib/gpu/device.ts";
import { openHfFolder } from "../../disk.ts";
import type { WeightSource } from "../../../lib/spec/source.ts";
import { IDLE_STATE } from "../../../lib/nn/train/step_state.ts";
import type { UnitKind } from "../../../lib/units/kinds/all.ts";
import { type UnitTable, unitTable } from "../../../lib/units/table.ts";
import { uniform } from "../../../lib/core/random.ts";
import type { Batch } from "../../../lib/data/batches.ts";
import { loadModelFrom, type Model } from "../../../lib/model/model.ts";
import { METHODS } from "../../../lib/run/methods/all.ts";
import { oneShotScores } from "../../../lib/run/methods/one_shot_scores.ts";
import { Trainer } from "../../../lib/run/trainer.ts";
import { type GoldenName, openGolden } from "../../golden/helpers/golden.ts";
import { decoderOf, type Rows } from "./decoder_f64.ts";

/** Sequences of a batch, and tokens of each. */
export const BATCH = 3, SEQ = 24;
/** For all tests of the file. */
export const device: Device = await openDevice();

/** A golden model with two random batches. */
export async function withGolden(
  name: GoldenName,
  work: (parts: { model: Model; source: WeightSource; batches: readonly Batch[] }) => Promise<void>,
): Promise<void> {
  const source = await openHfFolder((await openGolden(name)).modelPath);
  using model = await loadModelFrom(source, { device, baseDtype: "f32" });
  await work({ model, source, batches: [1, 2].map((seed) => randomBatch(source.spec.vocab, seed)) });
}

/** Random tokens in sequences of different lengths, of which the first three have no label. */
export function randomBatch(vocab: number, seed: number): Batch {
  const lengths = Array.from({ length: BATCH }, (_, row) => SEQ - (row === 0 ? 0 : 4 * row + seed));
  const tokens = Uint32Array.from({ length: BATCH * SEQ }, (_, i) => Math.floor(vocab * uniform(seed, i)));
  const labels = Int32Array.from(tokens, (token, i) => {
    const at = i % SEQ;
    return at < 3 || at >= (lengths[Math.floor(i / SEQ)] ?? SEQ) ? -100 : token;
  });
  const count = (of: ArrayLike<boolean>): number => Array.from(of).filter(Boolean).length;
  return {
    tokens,
    labels,
    lengths,
    realTokens: lengths.reduce((sum, length) => sum + length, 0),
    labelTokens: count(Array.from(labels, (label) => label >= 0)),
  };
}

/** The sequences of batches without padding. */
export function sequences(batches: readonly Batch[]): { tokens: number[]; labels: number[] }[] {
  return batches.flatMap(({ tokens, labels, lengths = [] }) =>
    lengths.map((length, row) => ({
      tokens: [...tokens.subarray(row * SEQ, row * SEQ + length)],
      labels: [...labels.subarray(row * SEQ, row * SEQ + length)],
    }))
  );
}

/** A trainer for the batches. */
export function trainerOf(model: Model, table: UnitTable): Trainer {
  const lora = { rank: 2, alpha: 2, targets: ["q"] } as const;
  return new Trainer(model, { batch: BATCH, seq: SEQ, seed: 1, lora, table });
}

/** Scores by the model, the table, and everything that the definitions need. */
export async function scored(
  { model, batches }: { readonly model: Model; readonly batches: readonly Batch[] },
  kinds: readonly UnitKind[],
  method: "magnitude" | "random" | "taylor" | "wanda-sp" | "flap",
): Promise<{ table: ReturnType<typeof unitTable>; scores: Float64Array }> {
  const table = unitTable(model.spec, kinds);
  using trainer = trainerOf(model, table);
  const { scores } = await oneShotScores(model, table, {
    method: METHODS[method],
    batches,
    batch: BATCH,
    seq: SEQ,
    seed: 7,
    weightTerms: (batch) => trainer.weightTerms(batch, { state: IDLE_STATE }),
    maskGradients: (batch) => trainer.maskGradients(batch, { state: IDLE_STATE }),
  });
  return { table, scores };
}

/** For methods that ask for no gradients. */
export const NO_GRADIENTS = {
  weightTerms: () => Promise.reject(new Error("not asked for")),
  maskGradients: () => Promise.reject(new Error("not asked for")),
};

/** Inputs of o or down of a layer over all tokens that have a label behind them. */
export async function inputsOf(source: WeightSource, batches: readonly Batch[]): Promise<{ o: Rows; down: Rows }[]> {
  const decode = await decoderOf(source);
  const passes = sequences(batches).map(({ tokens, labels }) => ({ inputs: decode(tokens).inputs, labels }));
  const learned = (part: "o" | "down", layer: number): Rows =>
    passes.flatMap(({ inputs, labels }) =>
      (inputs[layer]?.[part] ?? []).filter((_, at) => (labels[at + 1] ?? -100) >= 0)
    );
  return source.spec.layers.map((_, layer) => ({ o: learned("o", layer), down: learned("down", layer) }));
}

/** Rows as columns. */
export function columnsOf(rows: Rows): number[][] {
  return Array.from({ length: rows[0]?.length ?? 0 }, (_, j) => rows.map((row) => row[j] ?? NaN));
}

/** Σx / n. */
export const mean = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((sum, x) => sum + x, 0) / values.length;
/** Σ(x − mean)². */
export const squares = (values: ArrayLike<number>): number => {
  const middle = mean(values);
  return Array.from(values).reduce((sum, x) => sum + (x - middle) ** 2, 0);
};
/** The deviation with n − 1. */
export const deviation = (values: ArrayLike<number>): number => Math.sqrt(squares(values) / (values.length - 1));
