// Makes the file of a choice in memory, and measures how faithful it is to the dense model.
import { fidelity, type FidelityReference, type FidelityResult, readReference } from "../eval/fidelity.ts";
import { memoryFiles } from "../files/memory.ts";
import { type ModelFiles, openModel } from "../formats/open.ts";
import { loadModelFrom, type Model } from "../model/model.ts";
import { perplexity } from "../eval/perplexity.ts";
import { VOCABULARY_FILE } from "../run/folder.ts";
import type { RunSummary } from "../run/result.ts";
import { runInto } from "../run/run_into.ts";
import type { RunOfMany, SharedWork } from "../run/shared_work.ts";
import { memorySink } from "../run/sink/memory.ts";
import { stageModel } from "../slice/export.ts";
import { cutModel } from "../slice/vocabulary/cut_model.ts";
import { refuse } from "../core/errors.ts";
import { parameterCount } from "../spec/decoder.ts";
import { type ChoiceShape, cutsAny, type FitChoice, runOf } from "./choice.ts";
import type { FitTexts } from "./texts.ts";
import { memoryOfUse, speedOfUse } from "./use.ts";

/** A choice with what it comes to. */
export interface FitRow {
  /** The choice. Numbers stand for what was left open, but for a cut to size. */
  readonly choice: FitChoice;
  /** Bytes of the GGUF. */
  readonly bytes: number;
  /** Parameters of the model. */
  readonly parameters: number;
  /** How it agrees with the dense model on the text. Tokens of a cut vocabulary alone are compared. */
  readonly fidelity: FidelityResult;
  /** Bytes of GPU memory where it writes text, see `memoryOfUse`; null without a budget for them. */
  readonly memory: number | null;
  /** Tokens a second that it writes on this device; null without a budget for them. */
  readonly tokensPerSecond: number | null;
  /**
   * Bits per byte of text that the choice costs: the mean KL over the bytes of a token, and what a text in the cut
   * vocabulary takes more with the dense model's own layers.
   */
  readonly lost: number;
}

/** What a model may take, and has to give; without a value it does not count. */
export interface FitBudget {
  /** Bytes of GPU memory at most. */
  readonly memory?: number | undefined;
  /** Tokens of the context that memory is counted for. */
  readonly context: number;
  /** Tokens a second at least. */
  readonly tokensPerSecond?: number | undefined;
}

/** What choices are made and measured with. */
export interface Workshop {
  readonly dense: Model;
  readonly shape: ChoiceShape;
  readonly texts: FitTexts;
  readonly budget: FitBudget;
  /** Tokens of a window of the text, and windows. */
  readonly window: number;
  readonly windows: number;
  readonly signal: AbortSignal | undefined;
  /** Sizes of vocabularies that have all tokens of the rows. */
  readonly whole: Set<number>;
  /** Scores of units by lever and vocabulary, which cuts of any share have in common. */
  readonly work: Map<string, SharedWork>;
  /** The dense model's reading of the text by the size of the vocabulary. */
  readonly references: Map<number, FidelityReference>;
  /** Bits of the text with the dense model's layers by the size of the vocabulary. */
  readonly bits: Map<number, number>;
}

/** A workshop without results. */
export function createWorkshop(
  given: Omit<Workshop, "whole" | "work" | "references" | "bits">,
): Workshop {
  return { ...given, whole: new Set(), work: new Map(), references: new Map(), bits: new Map() };
}

/** Folder in the memory. */
const OUT = "fit";

/**
 * Makes and measures a choice. The file is the one that a run with these options writes, byte for byte.
 *
 * @throws CompressoError("input") for types that are too large for the size, see `TooSmallError`.
 * @throws CompressoError("usage") for a size that the lever cannot reach.
 */
export async function makeRow(choice: FitChoice, workshop: Workshop): Promise<FitRow> {
  const { dense, shape, texts, signal, bits, whole } = workshop, files = memoryFiles();
  let summary: RunSummary | null = null;
  if (cutsAny(choice)) {
    const run = runOf(choice, shape, texts);
    const sink = memorySink(files, { out: OUT, export: run.export });
    summary = await runInto(sink, dense, { ...run, signal }, workOf(choice, workshop));
  } else {
    const { names: { exported: name }, bytes } = shape, { tokenizer } = dense;
    using staged = await stageModel(dense.source, OUT, {
      ...{ files, name, tokenizer, formats: ["gguf"], signal },
      ...bytes === null ? { ggufDtype: "auto" } : { ggufSize: bytes },
    });
    await staged.commit();
  }
  const path = `${OUT}/model.gguf`, made = await openModel(files, path), { vocabulary = null } = summary ?? {};
  if (vocabulary && choice.vocabulary === "needed") whole.add(vocabulary.after);
  if (vocabulary && !bits.has(vocabulary.after)) {
    const { kept = [] } = JSON.parse(await files.text(`${OUT}/${VOCABULARY_FILE}`) ?? "{}");
    if (!bits.has(dense.spec.vocab)) bits.set(dense.spec.vocab, await bitsOf(dense, workshop));
    using cut = await cutModel(dense, Int32Array.from(kept, Number), { signal });
    bits.set(vocabulary.after, await bitsOf(cut, workshop));
  }
  return {
    choice: vocabulary && choice.vocabulary === "needed" ? { ...choice, vocabulary: vocabulary.after } : choice,
    bytes: files.files.get(path)?.length ?? NaN,
    parameters: parameterCount(made.source.spec),
    ...await measureModel(made, workshop),
  };
}

/**
 * What cuts by the same lever in the same vocabulary share; runs measure nothing, as their files are measured. In a vocabulary that has all tokens of the rows, the rows
 * give the same scores.
 */
function workOf(
  { cut, vocabulary }: FitChoice,
  { work, whole }: Pick<Workshop, "work" | "whole">,
): RunOfMany {
  if (!cut || vocabulary === "to size") return { measures: false };
  const key = `${cut.lever} ${vocabulary}`, hasAll = typeof vocabulary === "number" && whole.has(vocabulary);
  const scores = hasAll ? work.get(`${cut.lever} null`)?.scores ?? null : null;
  const known = work.get(key) ?? { scores, sequences: 0, dense: null };
  work.set(key, known);
  return { work: known, measures: false };
}

/** Bits that a model needs for the text. */
async function bitsOf(model: Model, { texts: { text }, window, signal }: Workshop): Promise<number> {
  const { nll, tokens } = await perplexity(model, text, { window, stride: window, signal });
  await model.release();
  return nll * tokens / Math.LN2;
}

/**
 * What a model takes and gives, how it agrees with the dense one, and what that costs.
 *
 * @throws CompressoError("input") for a model that takes more than the budget, or gives less.
 */
export async function measureModel(
  { source, tokenizer }: ModelFiles,
  { dense, budget, texts: { text }, window, windows, signal, references, bits }: Workshop,
): Promise<MeasuredUse> {
  const { device, weights: { baseDtype } } = dense, { context } = budget;
  const memory = budget.memory === undefined
    ? null
    : await memoryOfUse(source, { device, baseDtype, context: Math.min(context, source.spec.maxPosition) });
  if (memory !== null) checkMemory(memory, budget.memory);
  const { vocab } = source.spec, isCut = vocab !== dense.spec.vocab;
  const reference = references.get(vocab) ?? await readReference(dense, text, {
    ...{ window, maxWindows: windows, signal },
    ...isCut ? { vocab, tokenizer: tokenizer ?? undefined } : {},
  });
  references.set(vocab, reference);
  using model = await loadModelFrom(source, { device, tokenizer, baseDtype, signal });
  const tokensPerSecond = budget.tokensPerSecond === undefined ? null : await speedOfUse(model, { signal });
  if (tokensPerSecond !== null) checkSpeed(tokensPerSecond, budget.tokensPerSecond);
  const found = await fidelity(model, reference, { signal });
  const diverged = found.kl * found.tokens / reference.bytes / Math.LN2;
  const more = isCut ? (bits.get(vocab) ?? NaN) - (bits.get(dense.spec.vocab) ?? NaN) : 0;
  const lost = diverged + more / new TextEncoder().encode(text).length;
  return { memory, tokensPerSecond, fidelity: found, lost };
}

/** What is measured of a model. */
export type MeasuredUse = Pick<FitRow, "fidelity" | "lost" | "memory" | "tokensPerSecond">;

const WHAT = "cannot fit the model";

function checkMemory(memory: number, most = Infinity): void {
  if (memory <= most) return;
  refuse("input", WHAT, {
    rule: `it takes ${memory.toLocaleString("en")} bytes of memory`,
    value: most.toLocaleString("en"),
    option: "memory",
  });
}

function checkSpeed(rate: number, least = 0): void {
  if (rate >= least) return;
  const rule = `it writes ${rate.toPrecision(3)} tokens a second`;
  refuse("input", WHAT, { rule, value: least, option: "tokensPerSecond" });
}
