// What came of a cell: numbers of its run, from run.json and records.jsonl.
import { layerSparsity } from "../report/derived.ts";
import type { StepRecord } from "../run/contract.ts";
import type { RunSummary } from "../run/result.ts";
import type { CellOutcome, LossProfile } from "./types.ts";

/** What came of a run. */
export function outcomeOf(summary: RunSummary, records: readonly StepRecord[]): CellOutcome {
  const { sparsity, parameters, undecided, data, seconds, adapter, alarms } = summary;
  const { layers, weights } = layerSparsity(summary),
    sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  const apart = layers.map((cut, layer) => Math.abs(cut - sparsity.hard) * (weights[layer] ?? 0));
  return {
    sparsity,
    parameters,
    cut: { layers, unevenness: sum(apart) / sum(weights) },
    undecided,
    loss: lossProfile(records),
    steps: records.length,
    tokens: sum(records.map(({ tokens }) => tokens)),
    labels: sum(records.map(({ labelTokens }) => labelTokens)),
    cutRows: data.truncated,
    promptTokens: data.promptTokens,
    seconds: sum(Object.values(seconds)),
    adapter,
    alarms,
  };
}

/** Computes the profile of a run's records. */
export function lossProfile(records: readonly StepRecord[]): LossProfile {
  if (records.length === 0) return { last: null, worst: null, roughness: null, gap: null };
  const losses = records.map(({ loss }) => loss);
  const start = records.findIndex(({ stage }) => stage !== "finetune"), from = start < 0 ? [] : losses.slice(start);
  const means = from.map((_, index) => mean(from.slice(index, index + 5))).slice(0, Math.max(1, from.length - 4));
  const changes = from.slice(1).map((loss, index) => loss - (from[index] ?? loss)), middle = mean(changes);
  const pruning = records.filter(({ stage }) => stage === "prune");
  const gaps = pruning.slice(-Math.ceil(pruning.length / 10)).map(({ target, expected }) =>
    Math.abs((expected ?? NaN) - (target ?? NaN))
  );
  return {
    last: mean(losses.slice(-8)),
    // Not as arguments of one call: a number for each step of a long run would overflow the stack.
    worst: from.length === 0 ? null : means.reduce((a, b) => Math.max(a, b), -Infinity),
    roughness: changes.length === 0 ? null : Math.sqrt(mean(changes.map((change) => (change - middle) ** 2))),
    gap: gaps.length > 0 ? Math.max(...gaps) : null,
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
