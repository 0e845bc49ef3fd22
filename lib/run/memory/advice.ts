// Finds changes of options that make a run fit in memory: single changes, all of them, or a lower LoRA rank. Each is
// planned again.
import { type CompressoError, option, refusal } from "../../core/errors.ts";
import { checkNames, type NamesOf } from "../../core/check_options.ts";
import { VALUE_DTYPES, type ValueDtype } from "../../nn/products/matrix.ts";
import { type BaseDtype, hasOwnBlocks } from "../../nn/weights.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import { type MemoryChange, type MemoryPlan, planMemory, plannerWithin } from "./plan.ts";
import { checkMemoryOptions } from "../options/check.ts";
import { LORA_DEFAULTS } from "../options/resolve.ts";
import { OPTION_TABLE } from "../options/table.ts";
import type { MemoryOptions } from "../options/options.ts";

/** A change of options that makes a run fit. */
export interface MemoryAdvice {
  /** The options that change. */
  readonly options: MemoryChange;
  /** Planned peak with the change. */
  readonly peakBytes: number;
}

/** What a plan has to fit into. */
export interface MemoryBudget {
  /** Bytes that the run may use; default no limit but the adapter's. */
  readonly memoryLimit?: number | undefined;
}

/** What may be smaller than the blocks of a file. */
const CODES: readonly ValueDtype[] = ["q8", "q4"];

const BUDGET: NamesOf<MemoryBudget> = { memoryLimit: "number" };

/** Sequence lengths that are tried are multiples of this. */
const SEQ_STEP = 32;

/** Whether a plan is within the budget and the adapter's limits. */
export function fits({ peakBytes, excesses }: MemoryPlan, budget: MemoryBudget): boolean {
  checkNames(budget, BUDGET, { whose: "a memory budget" });
  const { memoryLimit = Infinity } = budget;
  return peakBytes <= memoryLimit && excesses.length === 0;
}

/**
 * Finds what makes a run fit: a single change if one suffices, with the mildest of each kind and each smaller dtype;
 * otherwise all changes together; otherwise nothing. The changes are, in order:
 *
 * - recomputation, if it is off;
 * - the blocks of a quantised file as they are, which change no weight, or a smaller dtype of the frozen weights;
 * - fewer sequences per step;
 * - shorter sequences.
 *
 * If nothing helps, a lower rank of LoRA is tried, since all its matrices are in one buffer: alone, then with all other
 * changes but shorter sequences, then with the shortest sequences too.
 */
export async function adviseMemory(
  spec: DecoderSpec,
  options: MemoryOptions,
  budget: MemoryBudget,
): Promise<MemoryAdvice[]> {
  checkMemoryOptions(options, { whose: "adviseMemory" });
  checkNames(budget, BUDGET, { whose: "a memory budget" });
  const { batch = OPTION_TABLE.batch.default, seq = OPTION_TABLE.seq.default, baseDtype = "f16" } = options;
  const planned = plannerWithin(spec, options, budget);
  const attempt = async (change: MemoryChange): Promise<MemoryAdvice | null> => {
    const plan = await planned(change);
    return plan && { options: change, peakBytes: plan.peakBytes };
  };
  const shorter = (fixed: MemoryChange): Promise<MemoryAdvice | null> =>
    largest(Math.ceil(seq / SEQ_STEP) - 1, (steps) => attempt({ ...fixed, seq: steps * SEQ_STEP }));
  const single: (MemoryAdvice | null)[] = [];
  if (options.recompute === false) single.push(await attempt({ recompute: true }));
  const { storedDtype } = options, hasBlocks = storedDtype !== undefined && hasOwnBlocks({ spec, storedDtype });
  const smaller: readonly BaseDtype[] = baseDtype === "file" ? CODES : [
    ...hasBlocks ? ["file"] as const : [],
    ...VALUE_DTYPES.slice(VALUE_DTYPES.indexOf(baseDtype) + 1),
  ];
  for (const dtype of smaller) {
    single.push(await attempt({ baseDtype: dtype }));
  }
  single.push(await largest(batch - 1, (count) => attempt({ batch: count })));
  single.push(await shorter({}));
  const fitting = single.filter((advice) => advice !== null);
  if (fitting.length > 0) return fitting;
  const least = VALUE_DTYPES.at(-1) ?? baseDtype;
  const all: MemoryChange = {
    ...(options.recompute === false ? { recompute: true } : {}),
    ...(baseDtype === least ? {} : { baseDtype: least }),
    ...(batch > 1 ? { batch: 1 } : {}),
  };
  const together = await attempt(all) ?? await shorter(all);
  if (together) return [together];
  const { lora = LORA_DEFAULTS } = options, { rank = LORA_DEFAULTS.rank } = lora;
  for (const others of [{}, all, ...(seq > SEQ_STEP ? [{ ...all, seq: SEQ_STEP }] : [])]) {
    const lower = await largest(rank - 1, (count) => attempt({ ...others, lora: { ...lora, rank: count } }));
    if (lower) return [lower];
  }
  return [];
}

/** A plan that fits, on a device that may hold other things. */
export interface CheckedPlan extends MemoryPlan {
  /** Bytes on the device that are no part of the plan. */
  readonly otherBytes: number;
}

/**
 * Plans a run and refuses it if it does not fit.
 *
 * @throws CompressoError("gpu") over the budget or the adapter's limits, naming the changes that would fit.
 */
export async function checkMemory(
  spec: DecoderSpec,
  options: MemoryOptions,
  { memoryLimit = Infinity, deviceBytes = 0 }: MemoryBudget & {
    /** Bytes in use on the device, the frozen weights among them. */
    readonly deviceBytes?: number;
  } = {},
): Promise<CheckedPlan> {
  const plan = await planMemory(spec, options);
  const otherBytes = Math.max(0, deviceBytes - plan.stages.weights), budget = { memoryLimit: memoryLimit - otherBytes };
  if (fits(plan, budget)) return { ...plan, otherBytes };
  throw overMemory({ ...plan, otherBytes }, { memoryLimit, advice: await adviseMemory(spec, options, budget) });
}

/** The error for a plan that does not fit, with changes that would fit. */
export function overMemory(
  { peakBytes, otherBytes, excesses: [excess] }: CheckedPlan,
  { memoryLimit = Infinity, advice }: MemoryBudget & { readonly advice: readonly MemoryAdvice[] },
): CompressoError {
  const others = otherBytes > 0 ? `, and ${mebibytes(otherBytes)} are in use already` : "";
  const isOver = peakBytes + otherBytes > memoryLimit, isLimit = isOver && excess === undefined;
  // Other memory in use matters only if the run alone would fit.
  const ways = roomWords({ otherBytes: isLimit && peakBytes <= memoryLimit ? otherBytes : 0, isLimit });
  return refusal("gpu", "cannot prune in the memory that there is", {
    rule: isOver
      ? `the planned peak is within the memory limit, ${limitMebibytes(memoryLimit)}`
      : excess?.rule ?? "the plan is within the adapter's limits",
    value: isOver
      ? `the run needs ${mebibytes(peakBytes)}${others}`
      : `${excess?.what ?? "the plan is not"}: ${excess?.value ?? ""}`,
    fix: [...ways, adviceWords(advice, { isLimit })].join(", or "),
    option: isOver && isLimit ? "memoryLimit" : undefined,
  });
}

/** Ways to more room for the same options: freeing other memory, or raising the user's own limit. */
export function roomWords(
  { otherBytes, isLimit }: { readonly otherBytes: number; readonly isLimit: boolean },
): string[] {
  return [...(otherBytes > 0 ? [freeWords(otherBytes)] : []), ...(isLimit ? [`raise ${option("memoryLimit")}`] : [])];
}

/** What to do about bytes that are no part of a run. */
export function freeWords(bytes: number): string {
  return `free what else lies on the device (${mebibytes(bytes)})`;
}

/** Advice as one sentence. Against the user's own limit, another adapter would not help. */
export function adviceWords(
  advice: readonly MemoryAdvice[],
  { isLimit }: { readonly isLimit: boolean },
): string {
  if (advice.length === 0) return `use a smaller model${isLimit ? "" : ", or another adapter"}`;
  return `use ${
    advice.map(({ options, peakBytes }) => `${changeWords(options)} (${mebibytes(peakBytes)})`).join(", or ")
  }`;
}

/** Bytes in tenths of MiB, rounded up, so that the stated amount suffices; below one MiB in bytes. */
export function mebibytes(bytes: number): string {
  return inMebibytes(bytes, Math.ceil);
}

/** A limit in tenths of MiB, rounded down, so that an excess shows in the text. */
export function limitMebibytes(bytes: number): string {
  return inMebibytes(bytes, Math.floor);
}

function inMebibytes(bytes: number, round: (value: number) => number): string {
  return bytes < 2 ** 20 ? `${bytes} bytes` : `${round(10 * bytes / 2 ** 20) / 10} MiB`;
}

/** The result of `attempt` for the largest number up to `most` that gives one; all smaller numbers must give one. */
async function largest<T>(most: number, attempt: (value: number) => Promise<T | null>): Promise<T | null> {
  let low = 0, high = most + 1, best: T | null = null;
  while (high - low > 1) {
    // The smallest first: where it is too large, all are.
    const middle = low === 0 && high === most + 1 ? 1 : Math.floor((low + high) / 2), found = await attempt(middle);
    if (found) [low, best] = [middle, found];
    else if (middle === 1) return null;
    else high = middle;
  }
  return best;
}

/** A change of options as a text that marks them. */
export function changeWords({ batch, seq, baseDtype, recompute, lora }: MemoryChange): string {
  return [
    ...(lora?.rank === undefined ? [] : [option("lora.rank", lora.rank)]),
    ...(baseDtype === undefined ? [] : [option("baseDtype", baseDtype)]),
    ...(batch === undefined ? [] : [option("batch", batch)]),
    ...(seq === undefined ? [] : [option("seq", seq)]),
    ...(recompute ? [option("recompute", true)] : []),
  ].join(" and ");
}
