// Checks the definition of an experiment: its form, its options, and how its parts fit together.
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { z } from "../core/packages.ts";
import { MAX_SEED } from "../core/random.ts";
import { type CellOptions, checkOption } from "./options.ts";
import { RUN_NUMBERS } from "./run_numbers.ts";
import type { DataSource, Experiment, ExperimentDefinition, Grid } from "./types.ts";

const name = z.string().regex(
  /^(?=.*[a-z\d])[\w.-]+(?: [\w.-]+)*$/i,
  "expected letters, digits, '_', '-', '.' and single spaces, with a letter or digit among them",
);
const path = z.string().min(1), positive = z.int().positive();
const fileData = z.strictObject({
  file: path,
  limit: positive.optional(),
  last: positive.optional(),
  textField: z.string().optional(),
  skipBroken: z.boolean().optional(),
});
const written = z.strictObject({
  generate: z.strictObject({
    count: positive,
    tokens: z.int().min(2),
    temperature: z.number().positive().optional(),
    seed: z.int().nonnegative().max(MAX_SEED).optional(),
  }),
});
const answered = z.strictObject({
  answers: fileData.extend({
    tokens: z.int().min(2),
    temperature: z.number().nonnegative().optional(),
    seed: z.int().nonnegative().max(MAX_SEED).optional(),
  }),
});
const source = z.union(
  [path, fileData, written, answered],
  "expected a path, or an object with file, generate or answers",
);
const options = z.record(z.string(), z.unknown());
const grid = z.record(z.string(), z.array(z.unknown(), "expected a list of values, such as [2, 4]").min(1));
const FORM = z.strictObject({
  name,
  question: z.string().optional(),
  files: z.record(name, z.union([path, z.literal(false)], "expected a path, null or false").nullable()).optional(),
  model: z.union([path, z.record(name, path)], "expected a path, or paths by name"),
  data: z.union([source, z.record(name, source)], "expected a data set, or several by name").optional(),
  base: options.optional(),
  grid: z.union([grid, z.array(grid).min(1)], "expected lists of values by option, or a list of such grids"),
  evaluate: z.strictObject({
    perplexity: z.array(z.strictObject({
      name,
      text: path,
      window: z.int().min(2),
      maxWindows: positive.optional(),
      limitChars: positive.optional(),
    })).optional(),
    rows: z.array(fileData.extend({ name, seq: z.int().min(2) })).optional(),
    choices: z.array(
      z.strictObject({ name, file: path, limit: positive.optional(), exactMatch: z.boolean().optional() }),
    ).optional(),
    tasks: z.strictObject({ names: z.array(z.string()).min(1), data: path, limit: positive.optional() }).optional(),
    prompt: z.array(z.union([z.boolean(), path], "expected true, false or a path")).min(1).optional(),
  }).optional(),
});

/**
 * Checks an experiment, which a file gives as its default export.
 *
 * @throws CompressoError("usage") that names the wrong part
 *
 * @example
 * ```ts
 * import { defineExperiment } from "compresso/experiment";
 * export default defineExperiment({
 *   name: "rank",
 *   model: "demo",
 *   base: { sparsity: 0.3, steps: 40 },
 *   grid: { rank: [2, 4, 8], seed: [1, 2, 3] },
 * });
 * ```
 */
export function defineExperiment(definition: ExperimentDefinition): Experiment {
  const parsed = FORM.safeParse(definition);
  if (!parsed.success) throw wrongForm(parsed.error.issues, definition);
  refuseMisspelt(definition);
  const where = "the experiment";
  for (const [option, value] of Object.entries(definition.base ?? {})) {
    if (value !== undefined) checkOption(option, value, `the base of ${where}`);
  }
  for (const part of gridsOf(definition)) {
    for (const [option, values] of Object.entries(part)) {
      for (const value of values ?? []) checkOption(option, value, `the grid of ${where}`);
    }
  }
  checkRest(definition);
  return Object.freeze({ definition });
}

/** The default export of a file as an experiment. Throws `CompressoError("input")` for anything else. */
export function asExperiment(exported: unknown, file: string): Experiment {
  if (typeof exported === "object" && exported !== null && "definition" in exported) {
    return defineExperiment(exported.definition as ExperimentDefinition);
  }
  refuse("input", `cannot use ${file} as an experiment`, {
    rule: "its default export is defineExperiment({ … })",
    value: exported === undefined ? "no default export" : typeof exported,
  });
}

/** The grids of an experiment. */
export function gridsOf({ grid }: Pick<ExperimentDefinition, "grid">): readonly Grid[] {
  return isList(grid) ? grid : [grid];
}

/** Models by name; one alone is "model". */
export function modelsOf({ model }: Pick<ExperimentDefinition, "model">): Readonly<Record<string, string>> {
  return typeof model === "string" ? { model } : model;
}

/** Data sets by name; one alone is "data". */
export function dataOf({ data }: Pick<ExperimentDefinition, "data">): Readonly<Record<string, DataSource>> {
  if (data === undefined) return {};
  return isSource(data) ? { data } : data;
}

function isList(grid: ExperimentDefinition["grid"]): grid is readonly Grid[] {
  return Array.isArray(grid);
}

function isSource(data: NonNullable<ExperimentDefinition["data"]>): data is DataSource {
  return source.safeParse(data).success;
}

const MEAN_OF_TASKS = /^mean (acc|acc_norm|exact_match) of \d+ tasks$/;

/** Options without effect on a cell without LoRA. */
const OF_LORA: readonly (keyof CellOptions)[] = [
  ...[
    "rank",
    "alpha",
    "rslora",
    "loraTargets",
    "dropout",
    "loraRate",
    "postfinetuneRate",
    "clipNorm",
    "weightDecay",
    "optimizer",
  ] as const,
  ...["focus", "prefinetune", "postfinetune"] as const,
];

/** Combinations of an experiment: each is a run, and each is named in its tables. */
const MOST_CELLS = 10_000;

function cellCount(grid: Grid): number {
  return Object.values(grid).reduce((product, values) => product * (values?.length ?? 1), 1);
}

/** Checks what depends on several parts. */
function checkRest(definition: ExperimentDefinition): void {
  const fail = (rule: string, value: string): never => {
    const what = `cannot define the experiment '${definition.name}'`;
    refuse("usage", what, { rule, value });
  };
  const models = Object.keys(modelsOf(definition)), sets = Object.keys(dataOf(definition));
  if (models.length === 0) fail("there is at least one model", "none");
  const values = (option: "model" | "data" | "calibration" | "valData"): unknown[] => [
    ...(definition.base?.[option] === undefined ? [] : [definition.base[option]]),
    ...gridsOf(definition).flatMap((part) => [...part[option] ?? []]),
  ];
  for (const value of values("model")) {
    if (!models.includes(String(value))) fail(`'model' is one of ${models.join(", ")}`, String(value));
  }
  for (const option of ["data", "calibration", "valData"] as const) {
    for (const value of values(option)) {
      if (sets.includes(String(value))) continue;
      const rule = sets.length > 0 ? `is one of ${sets.join(", ")}` : "is left out, as the experiment has no data sets";
      fail(`'${option}' ${rule}`, String(value));
    }
  }
  const cells = gridsOf(definition).reduce((sum, part) => sum + cellCount(part), 0);
  if (cells > MOST_CELLS) fail(`the grids have at most ${MOST_CELLS} combinations`, `${cells}`);
  const { base = {} } = definition;
  const without = gridsOf(definition).filter(({ lora = [base.lora] }) => lora.includes(false));
  const idle = OF_LORA.find((option) =>
    new Set(without.flatMap((part) => (part[option] ?? [base[option]]).map((value) => JSON.stringify(value)))).size > 1
  );
  if (idle !== undefined) {
    fail("cells without LoRA do not differ in options of LoRA", `lora false and several of '${idle}'`);
  }
  const { perplexity = [], rows = [], choices = [], tasks, prompt = [] } = definition.evaluate ?? {};
  const asked = prompt.find((setting) => setting !== false);
  if (asked !== undefined && rows.length + choices.length === 0 && tasks === undefined) {
    fail("a prompt at inference needs rows, choices or tasks", `evaluate.prompt has ${asked}, and there are none`);
  }
  const names = [
    ...[...perplexity, ...rows, ...choices].map((item) => item.name),
    ...choices.filter(({ exactMatch }) => exactMatch).map((item) => `${item.name} exact match`),
    ...(tasks?.names ?? []).flatMap((task) => [`${task} acc`, `${task} acc_norm`]),
  ];
  // Two measures of one name could not be distinguished in the tables.
  const twice = names.find((one, index) => names.indexOf(one) !== index);
  if (twice !== undefined) fail("measures of all kinds have different names", twice);
  const own = names.find((one) => RUN_NUMBERS.some(({ name }) => name === one) || MEAN_OF_TASKS.test(one));
  if (own !== undefined) fail("no measure has the name of a number of the report", own);
  for (const item of [...rows, ...Object.values(dataOf(definition))]) {
    if (typeof item === "string" || "generate" in item) continue;
    const { file, limit, last } = "answers" in item ? item.answers : item;
    if (limit === undefined || last === undefined) continue;
    fail("rows are taken from the first on, or from the end", `${file} with limit and last`);
  }
}

/**
 * Refuses a single data set with a wrong part: it would be read as several sets, one of them called file, generate or
 * answers.
 */
function refuseMisspelt({ data }: ExperimentDefinition): void {
  if (data === undefined || isSource(data) || !("file" in data || "generate" in data || "answers" in data)) return;
  const form = "file" in data ? fileData : "generate" in data ? written : answered, known = Object.keys(form.shape);
  const others = Object.keys(data).filter((key) => !known.includes(key));
  if (others.length === 0) throw wrongForm(form.safeParse(data).error?.issues ?? [], data, "data.");
  // A set may have such a name where the others are not like names of parts.
  const stranger = others.find((key) => nearest(key, known) !== null);
  if (stranger === undefined) return;
  refuse("usage", "cannot define the experiment", {
    rule: "data is either one set (file, generate or answers …) or several named sets",
    value: `'${stranger}' is neither`,
    fix: `did you mean ${nearest(stranger, known)}?`,
  });
}

type Issue = z.core.$ZodIssue;

/** The issues of the likeliest form of a part: the form of the same type with the fewest issues. */
function issuesOf(issue: Issue, above: Issue["path"] = []): Issue[] {
  const path = [...above, ...issue.path], whole: Issue[] = [{ ...issue, path }];
  if (issue.code !== "invalid_union") return whole;
  const [likeliest] = issue.errors.map((issues) => issues.flatMap((one) => issuesOf(one, path)))
    .filter((issues) => !issues.some((one) => isOfOtherType(one) && one.path.length === path.length))
    .sort((a, b) => a.length - b.length);
  return likeliest ?? whole;
}

function isOfOtherType({ code }: Issue): boolean {
  return ["invalid_type", "invalid_value", "invalid_union"].includes(code);
}

/** The error of a definition, or of the part of it that lies at `where`. */
function wrongForm(issues: readonly Issue[], definition: unknown, where = ""): CompressoError {
  const [issue] = issues.flatMap((one) => issuesOf(one)), at = issue?.path ?? [];
  const value = at.reduce<unknown>(
    (part, key) => typeof part === "object" && part !== null ? Reflect.get(part, key) : undefined,
    definition,
  );
  const shown = value === undefined ? "not given" : JSON.stringify(value) ?? String(value);
  return refusal("usage", "cannot define the experiment", {
    rule: `${at.length > 0 ? `${where}${at.join(".")}: ` : ""}${issue?.message ?? "another form"}`,
    value: shown.length > 120 ? `${shown.slice(0, 117)}…` : shown,
  });
}
