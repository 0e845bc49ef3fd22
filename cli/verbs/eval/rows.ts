// Accuracy on rows with choices for `compresso eval --data`.
import { readRows } from "../../../lib/disk/rows.ts";
import { promptCost } from "../../../lib/data/prompts/encode.ts";
import { encodeChoices } from "../../../lib/eval/choice_rows.ts";
import { checkRows, scoreChoices } from "../../../lib/eval/score.ts";
import { checkEach } from "./models.ts";
import { BATCH_TOKENS, type EvalSettings, type EvalWork, plainWork } from "./work.ts";
import { readingNote } from "../prune/data_line.ts";
import { note } from "../../terminal/output.ts";
import { promptAtInference, promptNote } from "../../options/prompt.ts";
import { tokenizerOf } from "../../with_model.ts";

/** Reads the rows. */
export async function chooseRows(
  paths: readonly string[],
  dataPath: string,
  options: EvalSettings,
): Promise<EvalWork> {
  const prompt = await promptAtInference(options);
  const limit = options.limitRows === undefined ? {} : { limit: options.limitRows };
  const { rows, report } = await readRows(dataPath, { ...limit, brokenFix: "fix or remove it" });
  const leftOut = readingNote(report);
  if (leftOut !== null) note(`compresso: rows of ${dataPath} that are left out: ${leftOut}`);
  await checkEach(paths, {}, ({ source: { spec }, tokenizer }) => {
    checkRows(encodeChoices(rows, { tokenizer: tokenizerOf({ tokenizer }), prompt, ...limit }), spec.maxPosition);
  });
  return plainWork(async (_, { model, adapters, ranks, signal, progress, tune }) => {
    const tokenizer = tokenizerOf(model);
    if (prompt !== null) promptNote(promptCost({ tokenizer, prompt }), "each instruction");
    const choices = encodeChoices(rows, { tokenizer, prompt, ...limit });
    const lengths = choices.map((row) => row.prefix.length + row.choices.flat().length);
    await tune({
      rows: BATCH_TOKENS,
      directions: ["forward"],
      tokens: lengths.reduce((sum, length) => sum + length, 0),
    });
    const { accuracy, correct, n, perRow } = await scoreChoices(model, choices, {
      adapters,
      ranks,
      signal,
      onProgress: (done, all) => progress.phase("scoring", done / all),
    });
    return { kind: "rows", accuracy, correct, n, right: perRow.map(({ isCorrect }) => isCorrect) };
  });
}
