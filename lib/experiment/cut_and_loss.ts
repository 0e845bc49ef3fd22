// Numbers of one run: what it cut of each layer, and how its loss went.
import { packMasks } from "../nn/mask_slots.ts";
import { CutState } from "../units/cut_state.ts";
import { keptUnits, type UnitTable } from "../units/table.ts";
import type { PruneResult } from "../run/result.ts";
import type { Rates, StepRecord } from "../run/contract.ts";
import type { CutProfile, LossProfile } from "./types.ts";

/** Computes the profile of a finished run; `learned` says whether its log α are those of learned masks. */
export function cutProfile(
  { table, masks, logAlpha, sparsity }: Pick<PruneResult, "table" | "masks" | "logAlpha" | "sparsity">,
  { learned, rates }: { readonly learned: boolean; readonly rates: Pick<Rates, "temperature" | "noise"> },
): CutProfile {
  const { spec } = table, kept = keptUnits(table, packMasks(spec, table.layout, masks)), state = new CutState(table);
  let hidden = spec.hidden;
  for (let unit = 0; unit < table.count; unit++) {
    if (kept[unit]) continue;
    if (unit >= table.hiddenFirst && unit < table.layerFirst) hidden--;
    state.drop(unit);
  }
  const layers = spec.layers.map((_, layer) => 1 - (1 - state.layerSparsity(layer)) * hidden / spec.hidden);
  const weights = table.layers.map(({ attention, ffn }) => attention.total + ffn.total);
  const total = weights.reduce((sum, weight) => sum + weight, 0), uniform = sparsity.hard;
  const unevenness = layers.reduce((sum, cut, layer) => sum + Math.abs(cut - uniform) * (weights[layer] ?? 0), 0) /
    total;
  const { temperature, noise } = rates;
  return {
    layers,
    uniform,
    unevenness,
    undecided: learned ? betweenShare(table, logAlpha, (one) => aliveChance(one, temperature, noise)) : null,
    fractional: learned ? betweenShare(table, logAlpha, (one) => plainMask(one, temperature)) : null,
  };
}

/** Share of the units of which a value of their log α lies between 0.05 and 0.95. */
function betweenShare(table: UnitTable, logAlpha: ArrayLike<number>, of: (logAlpha: number) => number): number {
  let count = 0;
  for (let unit = 0; unit < table.count; unit++) {
    const value = of(logAlpha[unit] ?? 0);
    if (value > 0.05 && value < 0.95) count++;
  }
  return count / table.count;
}

/** P(z > 0) as kernels/shared/hard_concrete.wgsl has it. */
function aliveChance(logAlpha: number, temperature: number, noise: number): number {
  return sigmoid((logAlpha + temperature * Math.log(11)) / Math.max(noise, 0.05));
}

/** z without noise as kernels/shared/hard_concrete.wgsl has it; its bounds of 0 and 1 make no difference between 0.05 and 0.95. */
function plainMask(logAlpha: number, temperature: number): number {
  return 1.2 * sigmoid(logAlpha / temperature) - 0.1;
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
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
    // As arguments so many numbers as a long run has steps would overflow the stack.
    worst: from.length === 0 ? null : means.reduce((a, b) => Math.max(a, b), -Infinity),
    roughness: changes.length === 0 ? null : Math.sqrt(mean(changes.map((change) => (change - middle) ** 2))),
    gap: gaps.length > 0 ? Math.max(...gaps) : null,
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
