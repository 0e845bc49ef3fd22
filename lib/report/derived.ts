// Numbers that figures, tiles and tables compute from a run: smoothing, the steps that count, losses at both ends, cut shares of layers, time left.
import { type LayerSpec, linearPerDim } from "../spec/decoder.ts";
import type { Stage, StepRecord } from "../run/contract.ts";
import type { SizeResult } from "../run/size_goal.ts";
import type { RunSummary } from "../run/result.ts";
import type { ReportRun } from "./read_run.ts";

/**
 * Exponential mean with the weight e^(−1 / span) from step to step, without the bias towards a first value. What is not finite is left out of
 * the mean.
 */
export function smoothed(values: readonly number[], span: number): number[] {
  const keep = Math.exp(-1 / span);
  let sum = 0, weight = 0;
  return values.map((value) => {
    if (Number.isFinite(value)) [sum, weight] = [sum * keep + value * (1 - keep), weight * keep + 1 - keep];
    return weight > 0 ? sum / weight : NaN;
  });
}

/** Records without the steps that a rollback undid; these steps come again. */
export function keptRecords(records: readonly StepRecord[]): StepRecord[] {
  const kept: StepRecord[] = [];
  for (const record of records) {
    while ((kept.at(-1)?.step ?? 0) >= record.step) kept.pop();
    kept.push(record);
  }
  return kept;
}

/** Where each stage begins, after the first one. */
export function stageStarts(records: readonly StepRecord[]): { readonly x: number; readonly stage: Stage }[] {
  return records.flatMap(({ stage, step }, index) => {
    const before = records[index - 1];
    return before && before.stage !== stage ? [{ x: step, stage }] : [];
  });
}

/** What a run's sparsity is a share of. Follows from its options, which a run has before its result; null if they are not known. */
export function sparsityOf({ options }: Pick<ReportRun, "options">): SizeResult["sparsityOf"] | null {
  if (!options) return null;
  const { size = null, units } = options;
  return size !== null && Array.isArray(units) && units.includes("hidden") ? "model" : "layers";
}

/** Share of each layer's linear weights that was cut, their number before, and the share cut of all layers together. */
export function layerSparsity(
  { before, masks, layers, hidden }: Pick<RunSummary, "before" | "masks" | "layers" | "hidden">,
): { readonly layers: readonly number[]; readonly weights: readonly number[]; readonly uniform: number } {
  const sizes = before.layers.map((layer, index) => {
    const z = masks.heads[index] ?? [], share = layer.kvHeads > 0 ? layer.heads / layer.kvHeads : 1;
    const groups = Array.from({ length: layer.kvHeads }, (_, group) => z.slice(group * share, (group + 1) * share));
    const open = z.filter((value) => value !== 0).length;
    const kept: LayerSpec = {
      heads: layer.conv ? 0 : open,
      ...layer.conv && open > 0 ? { conv: layer.conv } : {},
      // Keys and values live while a head of their group does.
      kvHeads: groups.filter((group) => group.some((value) => value !== 0)).length,
      ffn: layers[index]?.ffn ?? 0,
      ...layer.rope ? { rope: layer.rope } : {},
    };
    return {
      before: linearPerDim(before, layer) * before.hidden,
      after: linearPerDim({ ...before, hidden }, kept) * hidden,
    };
  });
  const total = (key: "before" | "after"): number => sizes.reduce((sum, size) => sum + size[key], 0);
  return {
    layers: sizes.map((size) => size.before > 0 ? 1 - size.after / size.before : 0),
    weights: sizes.map((size) => size.before),
    uniform: 1 - total("after") / total("before"),
  };
}

/** Mean of what is finite; NaN for nothing. */
export function mean(values: readonly number[]): number {
  const finite = values.filter(Number.isFinite);
  return finite.reduce((sum, value) => sum + value, 0) / finite.length;
}

/** Steps whose speed counts for the time left. */
const SPEED_STEPS = 32;

/** Seconds that the steps to come take at the speed of the last ones; null if that is not known. */
export function secondsLeft(records: readonly StepRecord[]): number | null {
  const last = records.at(-1);
  const seconds = mean(records.slice(-SPEED_STEPS).map(({ tokens, tokensPerSecond }) => tokens / tokensPerSecond));
  return last && Number.isFinite(seconds) ? seconds * (last.steps - last.step) : null;
}

/** The last step that pruned. */
export function lastPruned({ records }: ReportRun): ReportRun["records"][number] | undefined {
  return records.findLast(({ target }) => target !== null);
}

/** Note on a sparsity that is not a share of the layers' linear weights; empty for the usual one. */
export function ofModel(run: ReportRun): string {
  return sparsityOf(run) === "model" ? "of the whole model" : "";
}

/** Steps over which first and last loss are taken. */
const ENDS = 10;

/** A loss, and in words over which steps it is taken. */
export interface LossEnd {
  readonly value: number;
  readonly of: string;
}

/**
 * Training loss at both ends of a run: means of ten steps if these do not overlap, otherwise single steps; `first` is
 * null if there is one step alone.
 */
export function lossEnds({ records }: ReportRun): { readonly first: LossEnd | null; readonly last: LossEnd | null } {
  const losses = keptRecords(records).map(({ loss }) => loss), [first] = losses, last = losses.at(-1);
  if (losses.length >= 2 * ENDS) {
    return {
      first: { value: mean(losses.slice(0, ENDS)), of: `first ${ENDS} steps` },
      last: { value: mean(losses.slice(-ENDS)), of: `last ${ENDS} steps` },
    };
  }
  return {
    first: first === undefined || losses.length < 2 ? null : { value: first, of: "first step" },
    last: last === undefined ? null : { value: last, of: "last step" },
  };
}

/** Seconds of all steps of a finished run. */
export function stepSeconds({ seconds }: NonNullable<ReportRun["summary"]>): number {
  return Object.values(seconds).reduce((sum, value) => sum + value, 0);
}
