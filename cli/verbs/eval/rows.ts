// Accuracy on rows with choices and exact match of generated answers for `compresso eval --data`.
import { readRows } from "../../../lib/local/rows.ts";
import { promptCost } from "../../../lib/data/prompts/encode.ts";
import { answerPrompts, answerRows } from "../../../lib/eval/answer_rows.ts";
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
  const isAnswered = options.exactMatch === true;
  const isChosen = !isAnswered || rows.some((row) => row.kind === "instruct" && row.choices !== undefined);
  await checkEach(paths, {}, ({ source: { spec }, tokenizer: own }) => {
    const tokenizer = tokenizerOf({ tokenizer: own });
    if (isChosen) checkRows(encodeChoices(rows, { tokenizer, prompt }), spec.maxPosition);
    if (isAnswered) answerPrompts(rows, { tokenizer, spec, prompt });
  });
  return plainWork(async (_, { model, adapters, ranks, signal, progress, tune }) => {
    const tokenizer = tokenizerOf(model);
    if (prompt !== null) promptNote(promptCost({ tokenizer, prompt }), "each instruction");
    const answers = isAnswered
      ? await answerRows(model, rows, {
        prompt,
        adapters,
        ranks,
        signal,
        onProgress: (done, all) => progress.phase("answering", done / all),
      })
      : null;
    const given = answers && { exactMatch: answers.exactMatch, exact: answers.perRow.map(({ isExact }) => isExact) };
    if (!isChosen) return { kind: "rows", n: rows.length, choices: null, answers: given };
    const choices = encodeChoices(rows, { tokenizer, prompt });
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
    const right = perRow.map(({ isCorrect }) => isCorrect);
    return { kind: "rows", n, choices: { accuracy, correct, right }, answers: given };
  });
}
