// Lines of a report that say how its cells were run and measured.
import { labelsOf } from "./unique_labels.ts";
import { CELL_OPTION_NAMES, shownOption } from "./options.ts";
import { isScript } from "../schedule/open.ts";
import type { DataSource, EvaluateDefinition, PlannedCell, ResolvedExperiment } from "./types.ts";

/** Lines that say how the cells were run and measured. */
export function protocolOf({ evaluate }: ResolvedExperiment, all: readonly PlannedCell[]): string[] {
  const shared = CELL_OPTION_NAMES.flatMap((name) => {
    const value = all[0]?.options[name], key = JSON.stringify(value);
    const isShared = value !== undefined && all.every(({ options }) => JSON.stringify(options[name]) === key);
    return isShared ? [`${name} ${shownOption(value, name)}`] : [];
  });
  const numbers = (of: (cell: PlannedCell) => number): string => {
    const values = all.map(of), least = Math.min(...values), most = Math.max(...values);
    return least === most ? `${least}` : `${least} to ${most}`;
  };
  const base = (path: string): string => path.replace(/^.*[/\\](?=.)/, "");
  const sourceOf = (source: DataSource): string => dataName(source, base);
  const pruned = listed(all.map(({ model: { name, path } }) => [name, path]), {
    shown: labelsOf(all.map(({ model: { path } }) => path), (path) => base(String(path))),
  });
  const trained = listed(all.map(({ options: { data = "" }, source }) => [data, source]), { shown: sourceOf });
  const calibrations = all.flatMap(({ options, calibration }) =>
    calibration === null ? [] : [[options.calibration ?? "", calibration] as const]
  );
  // A script may end a stage.
  const mayEnd = all.some(({ options: { schedule } }) => isScript(schedule));
  return [
    `pruned: ${pruned}; trained on ${trained}${
      calibrations.length === 0 ? "" : `; calibrated on ${listed(calibrations, { shown: sourceOf, isNamed: true })}`
    }`,
    `${all.length} cells of ${mayEnd ? "up to " : ""}${numbers(({ steps }) => steps)} steps (${
      numbers(({ tokens }) => tokens)
    } tokens, padding included)`,
    `the same for all: ${shared.join(", ") || "only defaults"}`,
    ...(evaluate.perplexity ?? []).map(({ name, text, window, maxWindows, limitChars }) =>
      `${name}: perplexity of ${limitChars ? `up to the first ${limitChars} characters of ` : ""}${base(text)}, ${
        maxWindows === undefined ? "all" : `up to ${maxWindows}`
      } windows of ${window} tokens, no BOS, each read alone`
    ),
    ...(evaluate.rows ?? []).map(({ name, file, limit, last, seq, textField }) =>
      `${name}: perplexity over ${
        last ? `the last ${last} rows` : limit ? `up to the first ${limit} rows` : "the rows"
      } of ${base(file)}${
        textField === undefined ? "" : `, texts in ${textField}`
      }, each read alone and cut to ${seq} tokens`
    ),
    ...(evaluate.choices ?? []).map(({ name, file, limit, exactMatch }) =>
      `${name}: share of ${limit ? `up to the first ${limit} rows` : "the rows"} of ${
        base(file)
      } whose right choice is the likeliest${
        exactMatch ? "; exact match: share that is answered in the words of the output, by greedy decoding" : ""
      }`
    ),
    ...(evaluate.tasks
      ? [
        `${evaluate.tasks.names.map(base).join(", ")}: ${
          evaluate.tasks.limit === undefined ? "all" : `up to ${evaluate.tasks.limit}`
        } questions of each, or of each of its subjects`,
      ]
      : []),
    ...promptLine(evaluate),
  ];
}

/** Each of several once, by its name in the tables. */
function listed<T>(
  all: readonly (readonly [name: string, value: T])[],
  { shown, isNamed = false }: { readonly shown: (value: T) => string; readonly isNamed?: boolean },
): string {
  const parts = new Map(all.map(([name, value]) => [JSON.stringify([name, value]), [name, shown(value)] as const]));
  return [...parts.values()].map(([name, text]) =>
    name !== "" && (isNamed || parts.size > 1) ? `${name} = ${text}` : text
  )
    .join(", ");
}

/** Rows to train on, in words. */
function dataName(source: DataSource, base: (path: string) => string): string {
  if (typeof source === "string") return base(source);
  if ("generate" in source) return `${source.generate.count} texts that the model writes`;
  if ("answers" in source) return `answers that the model writes to ${dataName(source.answers, base)}`;
  const { file, limit, last, textField } = source;
  const part = last ? `the last ${last} rows of ` : limit ? `the first ${limit} rows of ` : "";
  return `${part}${base(file)}${textField === undefined ? "" : ` (texts in ${textField})`}`;
}

/** The prompts before instructions and questions, where any is set. */
function promptLine({ rows = [], choices = [], tasks, prompt = [false] }: EvaluateDefinition): string[] {
  const texts = [...new Set(prompt)].map((one) =>
    one === true ? "the collaborative prompt" : one === false ? "nothing" : `the text of ${one.replace(/^.*[/\\]/, "")}`
  );
  if (rows.length + choices.length === 0 && !tasks || texts.join() === "nothing") return [];
  return [
    `before instructions and questions: ${texts.join(", ")}${texts.length > 1 ? "; each is measured separately" : ""}`,
  ];
}
