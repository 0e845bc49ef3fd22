// The measures of an experiment: what is measured on a model, how its values are named, and what they depend on.
import { CompressoError, refuse } from "../core/errors.ts";
import { COLLABORATIVE_PROMPT } from "../data/prompts/encode.ts";
import { withoutMark } from "../core/text.ts";
import { dataPath } from "../local/rows.ts";
import { exactText, readText, textProblem } from "../files/text_file.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import { loadTasks, taskDigest } from "../eval/evaluate.ts";
import { scoreTask } from "../eval/score_task.ts";
import { metricNames, metricsOf, taskScore } from "../eval/metrics.ts";
import type { LoadedTask } from "../eval/task_data.ts";
import { answerRows } from "../eval/answer_rows.ts";
import { encodeChoices } from "../eval/choice_rows.ts";
import type { Model } from "../model/model.ts";
import { perplexity } from "../eval/perplexity.ts";
import { rowPerplexity } from "../eval/row_perplexity.ts";
import { scoreChoices } from "../eval/score.ts";
import { spellMeasure } from "./failure.ts";
import { fileFacts, promptName } from "./identity.ts";
import { labelsOf } from "./unique_labels.ts";
import { shownOption } from "./options.ts";
import type { RowCache } from "./rows.ts";
import type { Control, EvaluateDefinition, Measure, Value } from "./types.ts";

/** The text of a prompt's setting: null for none, the collaborative prompt, or the text of a file. */
export async function promptOf(setting: boolean | string | undefined): Promise<string | null> {
  if (setting === false) return null;
  if (setting === undefined || setting === true) return COLLABORATIVE_PROMPT;
  const fail = (value: string, cause?: unknown): never => {
    refuse("input", `cannot use the prompt of ${setting}`, {
      rule: "it is a UTF-8 file that holds the text of the prompt",
      value,
      cause,
    });
  };
  const text = await exactText(setting).catch((error) => fail(textProblem(error), error));
  return withoutMark(text).trim() || fail("it is empty");
}

/**
 * All measures of an experiment, in the order of the tables.
 *
 * @throws CompressoError("input") for files that are missing or cannot be read
 * @throws CompressoError("usage") for tasks with the name of another measure
 */
export async function measuresOf(evaluate: EvaluateDefinition, cache: RowCache): Promise<Measure[]> {
  const settings = [...new Set(evaluate.prompt ?? [false])], nameOf = labelsOf(settings, settingName);
  const prompts = await Promise.all(settings.map(async (setting): Promise<LabelledPrompt> => ({
    // With several prompts the names of values say which one.
    label: settings.length === 1 ? "" : `, ${nameOf(setting)} prompt`,
    prompt: await promptOf(setting),
  })));
  const measures: Measure[] = [];
  for (const item of evaluate.perplexity ?? []) {
    const { name, text: path, window, maxWindows, limitChars } = item, text = await readText(await dataPath(path));
    measures.push({
      id: `perplexity ${name}`,
      identity: JSON.stringify({ window, maxWindows, limitChars, text: await cache.digest(path) }),
      named: nameAs([name]),
      take: (model, control) => takePerplexity(model, text, { ...item, ...control }),
    });
  }
  for (const { name, seq, ...file } of evaluate.rows ?? []) {
    const set = await cache.read(file, "fix or remove it, or set `skipBroken: true` of the measure"),
      isText = set.kind === "text";
    for (const { label, prompt } of isText ? [{ label: "", prompt: null }] : prompts) {
      measures.push({
        id: `rows ${name}${label}`,
        identity: JSON.stringify({
          file: await cache.digest(file.file),
          ...fileFacts(file),
          seq,
          prompt: promptName(prompt),
        }),
        named: nameAs([`${name}${label}`]),
        take: async (model, control) => {
          const { perplexity: value, tokens, stderr, digest, ...counts } = await rowPerplexity(model, set.rows, {
            seq,
            prompt,
            skipBroken: file.skipBroken ?? false,
            signal: control.signal,
            onProgress: (done, all) => control.onProgress?.(done / all),
          });
          const { rows, truncated, skipped, broken } = counts, named = `${name}${label}`;
          const taken = { n: tokens, tokens: digest, rows: { rows, truncated, skipped, broken } };
          // Of exp(nll), to first order.
          return [{ name: named, kind: "perplexity", value, stderr: finite(stderr * value), ...taken }];
        },
      });
    }
  }
  for (const { name, file, limit, exactMatch = false } of evaluate.choices ?? []) {
    const set = await cache.read({ file, limit }, "fix or remove it");
    for (const { label, prompt } of prompts) {
      measures.push({
        id: `choices ${name}${label}`,
        identity: JSON.stringify({
          limit,
          prompt: promptName(prompt),
          file: await cache.digest(file),
          exactMatch,
        }),
        named: nameAs([`${name}${label}`, ...(exactMatch ? [`${name} exact match${label}`] : [])]),
        take: async (model, control) => {
          const rows = encodeChoices(set.rows, {
            tokenizer: tokenizerOf(model),
            prompt,
            limit,
          });
          const stop = { signal: control.signal };
          const { accuracy, n } = await scoreChoices(model, rows, {
            ...stop,
            onProgress: (done, all) => control.onProgress?.(done / all),
          });
          const chosen = accuracyValue(`${name}${label}`, accuracy, n);
          if (!exactMatch) return [chosen];
          const answers = await answerRows(model, set.rows.slice(0, limit), { ...stop, prompt });
          return [chosen, accuracyValue(`${name} exact match${label}`, answers.exactMatch, answers.n)];
        },
      });
    }
  }
  for (const { task, label } of await tasksOf(evaluate, prompts)) {
    const { name } = task, of = { task: name, ...(label === "" ? {} : { label }) };
    measures.push({
      id: `task ${name}${label}`,
      identity: taskDigest(task),
      named: nameAs(metricNames(task).map((metric) => `${name} ${metric}${label}`), of),
      take: async (model, control) => {
        const scored = await scoreTask(model, task, {
          signal: control.signal,
          onProgress: (done, total) => control.onProgress?.(done / total),
        });
        const score = taskScore(scored), { n, truncated } = score;
        const shared = { kind: "accuracy", n, truncated, ...of } as const;
        return metricsOf(score).map(({ name: metric, value, stderr }) => ({
          name: `${name} ${metric}${label}`,
          value,
          stderr: finite(stderr),
          ...shared,
        }));
      },
    });
  }
  return measures;
}

/** Refuses windows and rows that are longer than a model's context. Throws `CompressoError("usage")`. */
export function checkLengths(
  { perplexity = [], rows = [] }: EvaluateDefinition,
  { name: model, spec: { maxPosition } }: { readonly name: string; readonly spec: Pick<DecoderSpec, "maxPosition"> },
): void {
  const lengths = [
    ...perplexity.map(({ name, window }) => [name, "window", window] as const),
    ...rows.map(({ name, seq }) => [name, "seq", seq] as const),
  ];
  for (const [name, option, length] of lengths) {
    if (length <= maxPosition) continue;
    refuse("usage", `cannot measure ${name} on the model ${model}`, {
      rule: `${option} is at most the model's context of ${maxPosition} tokens`,
      value: length,
    });
  }
}

/** Gives values the names of this definition. */
function nameAs(names: readonly string[], of: Pick<Value, "task" | "label"> = {}): Measure["named"] {
  return (values) =>
    values.map(({ label: _label, ...value }, index) => ({ ...value, name: names[index] ?? value.name, ...of }));
}

/** A prompt at inference, and what it adds to the names of values. */
interface LabelledPrompt {
  readonly label: string;
  readonly prompt: string | null;
}

/** The tasks with their questions for each prompt. The names of tasks from files are only known here. */
async function tasksOf(
  { perplexity = [], rows = [], choices = [], tasks }: EvaluateDefinition,
  prompts: readonly LabelledPrompt[],
): Promise<{ readonly task: LoadedTask; readonly label: string }[]> {
  if (!tasks) return [];
  const { names, data, limit } = tasks, loaded: { task: LoadedTask; label: string }[] = [];
  for (const { label, prompt } of prompts) {
    const own = await loadTasks({ tasks: names, taskData: data, prompt, limit })
      .catch((error) => {
        if (!(error instanceof CompressoError)) throw error;
        throw error.with({ spell: spellMeasure });
      });
    for (const task of own) loaded.push({ task, label });
  }
  const others = [...perplexity, ...rows, ...choices].map((item) => item.name);
  const twice = loaded.flatMap(({ task }) => metricNames(task).map((metric) => `${task.name} ${metric}`))
    .find((name) => others.includes(name));
  if (twice === undefined) return loaded;
  refuse("usage", "cannot measure a task", { rule: "measures of all kinds have different names", value: twice });
}

/** An accuracy with its binomial standard error. */
function accuracyValue(name: string, accuracy: number, n: number): Value {
  return { name, kind: "accuracy", value: accuracy, stderr: Math.sqrt(accuracy * (1 - accuracy) / n), n };
}

async function takePerplexity(
  model: Model,
  text: string,
  { name, window, maxWindows, limitChars, signal, onProgress }:
    & NonNullable<EvaluateDefinition["perplexity"]>[number]
    & Control,
): Promise<Value[]> {
  const { perplexity: value, tokens: n, digest: tokens } = await perplexity(model, text, {
    window,
    maxWindows,
    limitChars,
    signal,
    onProgress: (done, all) => onProgress?.(done / all),
  });
  return [{ name, kind: "perplexity", value, stderr: null, n, tokens }];
}

function settingName(setting: unknown): string {
  return setting === true ? "with" : setting === false ? "no" : shownOption(setting, "prompt");
}

function tokenizerOf({ tokenizer }: Model): Tokenizer {
  if (tokenizer) return tokenizer;
  throw noTokenizer("cannot score text");
}

function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
