// Looks for the choice of levers that loses least at a size: makes and measures candidates, one after the other.
import { CompressoError, option, refusal, refuse } from "../core/errors.ts";
import { TooSmallError } from "../formats/gguf/fit_types.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { Row } from "../data/rows.ts";
import type { Model } from "../model/model.ts";
import { fittingShape } from "../run/options/fitting.ts";
import { ggufDtypeFor } from "../slice/export_options.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { whyWhole } from "../units/fitting_kinds.ts";
import { livingLayers } from "../units/rules.ts";
import { type ChoiceShape, choiceText, type FitChoice, type Lever, LEVERS } from "./choice.ts";
import { createWorkshop, type FitRow, makeRow, type Workshop } from "./make.ts";
import { depthsOf, searchChoices } from "./search.ts";
import { splitTexts } from "./texts.ts";

/** What is asked of a model. */
export interface FitOptions {
  /** Bytes of its GGUF at most. Default: any. */
  readonly fileSize?: number | undefined;
  /** Bytes of GPU memory that it takes at most where it writes text, see `memoryOfUse`. Default: any. */
  readonly memory?: number | undefined;
  /** Tokens of a text that memory is counted for; default 2048, or the model's context where that is less. */
  readonly context?: number | undefined;
  /** Tokens a second that it writes at least on the dense model's device. Default: any. */
  readonly tokensPerSecond?: number | undefined;
  /** Instructions or texts: units and tokens are chosen by most of them, and choices are measured on the last ones. */
  readonly rows: readonly Row[];
  /** Names of the model within the GGUF. */
  readonly names: ChoiceShape["names"];
  /** Windows of 256 tokens that choices are measured on, at most; default 4. */
  readonly windows?: number | undefined;
  /** What may be done. Default: all. */
  readonly levers?: readonly Lever[] | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called before a choice is made, and with the rows so far. */
  readonly onChoice?: ((text: string, rows: readonly FitRow[]) => void) | undefined;
}

/** The choices that were measured. */
export interface FitPlan {
  /** Those that meet the budget, the best one first. */
  readonly rows: readonly FitRow[];
  /** Those that cannot be made, and why. */
  readonly impossible: readonly { readonly choice: FitChoice; readonly error: CompressoError }[];
  /** Rows from the first one on that the cuts were made by. */
  readonly cutRows: number;
  /** How they were made. */
  readonly workshop: Workshop;
}

/** Budgets that a larger cut may meet, and that are measured. */
const BUDGETS: ReadonlySet<string> = new Set(["memory", "tokensPerSecond"] satisfies (keyof FitOptions)[]);
/** Tokens of a window. */
const WINDOW = 256;
/** Windows at most by default. */
export const WINDOWS = 4;
/** Tokens of a text that memory is counted for. */
const CONTEXT = 2048;
/** Tokens of a sequence on which units are scored. */
const SEQ = 128;

/**
 * Makes and measures choices within a budget. For a size of the file: types alone; the vocabulary, the width and the
 * depth alone at the model's own type; each of them with types; and the best of these together. Along each of them it
 * stops where a larger cut loses more. The row that loses least comes first, be it a single lever or several.
 *
 * Without a size: the model as it is, and cuts in its own type.
 *
 * @throws CompressoError("usage") without any budget.
 * @throws CompressoError("input") for a budget that no choice meets, with what each takes, and for a model without tokenizer.
 */
export async function planFit(dense: Model, options: FitOptions): Promise<FitPlan> {
  const {
      fileSize,
      memory,
      tokensPerSecond,
      rows: given,
      names,
      levers = LEVERS,
      windows = WINDOWS,
      signal,
      onChoice,
    } = options,
    { spec, source, tokenizer } = dense;
  checkBudget(options);
  if (!tokenizer) throw noTokenizer("cannot fit a model");
  const window = Math.min(WINDOW, spec.maxPosition), seq = Math.min(SEQ, spec.maxPosition);
  const texts = splitTexts(given, { tokenizer, tokens: (windows + 1) * window });
  const { units } = fittingShape(spec, {}, { source, formats: ["gguf"] });
  const shape = { bytes: fileSize ?? null, names, dtype: ggufDtypeFor(source, { ggufDtype: "auto" }), units, seq };
  const budget = { memory, tokensPerSecond, context: Math.min(options.context ?? CONTEXT, spec.maxPosition) };
  const workshop = createWorkshop({ dense, shape, budget, texts, window, windows, signal });
  const rows: FitRow[] = [], impossible: { choice: FitChoice; error: CompressoError }[] = [];
  let smallest = Infinity;
  const attempt = async (choice: FitChoice): Promise<FitRow | "over" | null> => {
    onChoice?.(choiceText(choice), rows);
    try {
      const row = await makeRow(choice, workshop);
      rows.push(row);
      return row;
    } catch (error) {
      if (!(error instanceof CompressoError) || !["usage", "input"].includes(error.code)) throw error;
      if (error instanceof TooSmallError) smallest = Math.min(smallest, error.smallest);
      impossible.push({ choice, error });
      return error instanceof TooSmallError || BUDGETS.has(error.parts.option ?? "") ? "over" : null;
    }
  };
  const whole = levers.includes("depth") ? whyDeep(spec) : null;
  if (whole) impossible.push(whole);
  const depths = whole ? [] : depthsOf(spec);
  await searchChoices(levers, attempt, { hasSize: fileSize !== undefined, vocab: spec.vocab, depths });
  if (rows.length === 0) {
    const isSize = smallest < Infinity,
      fault = impossible.at(-1)?.error.parts.option;
    refuse("input", "cannot fit the model", {
      rule: isSize ? `the smallest file that was found has ${smallest} bytes` : reasonsOf(impossible),
      value: fileSize ?? memory ?? tokensPerSecond,
      fix: "allow more, or try more levers",
      option: !isSize && fault !== undefined && BUDGETS.has(fault) ? fault : "fileSize",
    });
  }
  rows.sort((a, b) => a.lost - b.lost);
  return { rows, impossible, cutRows: texts.rows.length, workshop };
}

/** The choice of fewer layers with its error, of a model that cannot lose layers; null if it can. */
function whyDeep(spec: DecoderSpec): FitPlan["impossible"][number] | null {
  const rules = livingLayers(spec) < 2
    ? { rule: "one layer stays", value: "one layer" }
    : whyWhole("layers", spec, "compact");
  if (!rules) return null;
  const choice = { cut: { lever: "depth", share: "to size" }, vocabulary: null, types: false } as const;
  return { choice, error: refusal("usage", "cannot cut whole layers", { ...rules, option: "levers" }) };
}

function reasonsOf(impossible: FitPlan["impossible"]): string {
  return impossible.map(({ choice, error: { parts: { what, rule = what } } }) => `${choiceText(choice)}: ${rule}`).join(
    "; ",
  );
}

/** Refuses a fit without a budget. Throws `CompressoError("usage")`. */
export function checkBudget(
  { fileSize, memory, tokensPerSecond }: Pick<FitOptions, "fileSize" | "memory" | "tokensPerSecond">,
): void {
  if (fileSize === undefined && memory === undefined && tokensPerSecond === undefined) {
    const rule = `one of ${["fileSize", "memory", "tokensPerSecond"].map((name) => option(name)).join(", ")}`;
    refuse("usage", "cannot fit a model without a budget", { rule, value: "none", option: "fileSize" });
  }
}
