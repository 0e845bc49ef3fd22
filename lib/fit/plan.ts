// Looks for the choice of levers that loses least at a size: makes and measures candidates, one after the other.
import { CompressoError, refuse } from "../core/errors.ts";
import { TooSmallError } from "../formats/gguf/fit_types.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { Row } from "../data/rows.ts";
import type { Model } from "../model/model.ts";
import { fittingShape } from "../run/options/fitting.ts";
import { ggufDtypeFor } from "../slice/export_options.ts";
import { type ChoiceShape, choiceText, type FitChoice, type Lever, LEVERS } from "./choice.ts";
import { createWorkshop, type FitRow, makeRow, type Workshop } from "./make.ts";
import { searchChoices } from "./search.ts";
import { splitTexts } from "./texts.ts";

/** What is asked of a model. */
export interface FitOptions {
  /** Bytes of its GGUF at most. */
  readonly fileSize: number;
  /** Instructions or texts: units and tokens are chosen by most of them, and choices are measured on the last ones. */
  readonly rows: readonly Row[];
  /** Names of the model within the GGUF. */
  readonly names: ChoiceShape["names"];
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

/** Tokens of a window, and windows at most. */
const WINDOW = 256, WINDOWS = 4;
/** Tokens of a sequence on which units are scored. */
const SEQ = 128;

/**
 * Makes and measures, for a size: types alone; the vocabulary alone and the width alone at the model's own type;
 * vocabularies with types; widths with types; and the best of these together. Along the vocabulary and the width it
 * stops where a larger cut loses more. The row that loses least comes first, be it a single lever or several.
 *
 * @throws CompressoError("input") for a size that no choice reaches, with the smallest one, and for a model without tokenizer.
 */
export async function planFit(dense: Model, options: FitOptions): Promise<FitPlan> {
  const { fileSize, rows: given, names, levers = LEVERS, signal, onChoice } = options,
    { spec, source, tokenizer } = dense;
  if (!tokenizer) throw noTokenizer("cannot fit a model");
  const context = Math.min(WINDOW, spec.maxPosition), seq = Math.min(SEQ, spec.maxPosition);
  const texts = splitTexts(given, { tokenizer, tokens: WINDOWS * context + context });
  const { units } = fittingShape(spec, {}, { source, formats: ["gguf"] });
  const shape = { bytes: fileSize, names, dtype: ggufDtypeFor(source, { ggufDtype: "auto" }), units, seq };
  const workshop = createWorkshop({ dense, shape, texts, window: context, windows: WINDOWS, signal });
  const rows: FitRow[] = [], impossible: { choice: FitChoice; error: CompressoError }[] = [];
  let smallest = Infinity;
  const attempt = async (choice: FitChoice): Promise<FitRow | null> => {
    onChoice?.(choiceText(choice), rows);
    try {
      const row = await makeRow(choice, workshop);
      rows.push(row);
      return row;
    } catch (error) {
      if (!(error instanceof CompressoError) || !["usage", "input"].includes(error.code)) throw error;
      if (error instanceof TooSmallError) smallest = Math.min(smallest, error.smallest);
      impossible.push({ choice, error });
      return null;
    }
  };
  await searchChoices(levers, attempt);
  if (rows.length === 0) {
    refuse("input", "cannot fit the model", {
      rule: smallest < Infinity ? `the smallest file that was found has ${smallest} bytes` : reasonsOf(impossible),
      value: fileSize,
      fix: "allow more",
      option: "fileSize",
    });
  }
  rows.sort((a, b) => a.lost - b.lost);
  return { rows, impossible, cutRows: texts.rows.length, workshop };
}

function reasonsOf(impossible: FitPlan["impossible"]): string {
  return impossible.map(({ choice, error: { parts: { what, rule = what } } }) => `${choiceText(choice)}: ${rule}`).join(
    "; ",
  );
}
