// The schema of run.json and records.jsonl. All readers use it; the types of what is written are checked against it.
import { plainText, refuse } from "../core/errors.ts";
import { isObject } from "../core/guards.ts";
import { z } from "../core/packages.ts";
import type { ChoiceScore } from "../eval/metrics.ts";
import { textIfThere } from "../files/text_file.ts";
import { GGUF_WRITE_TYPES } from "../formats/gguf/mixes.ts";
import { mixerMasks } from "../spec/decoder.ts";
import type { StepRecord } from "./contract.ts";
import { EXPERT_USE } from "./experts/scores_file.ts";
import { SUMMARY_FILE } from "./folder.ts";
import { type Alarm, ALARM_ACTIONS, MONITOR_NAMES } from "./monitors/alarm.ts";
import type { RunSummary } from "./result.ts";

/** JSON has no NaN: it is written as null. */
const number = z.number().nullable().transform((value) => value ?? NaN);
const count = z.int().nonnegative();
const text = z.string();

const ALARM = z.object({
  monitor: z.enum(MONITOR_NAMES),
  step: count,
  action: z.enum(ALARM_ACTIONS),
  restored: count.nullable().default(null),
  message: text,
  change: text,
  options: z.array(z.object({ option: text, value: text.optional(), at: count })).optional(),
}).transform(({ message, change, options, ...rest }): Alarm => {
  // Versions before 0.2 marked options in the texts.
  const old = plainText(change);
  return { ...rest, message: plainText(message).text, change: old.text, options: options ?? old.options };
});

const RECORD = z.object({
  stage: z.enum(["finetune", "prune", "postfinetune"]),
  step: z.int().positive(),
  steps: z.int().positive(),
  loss: number,
  target: z.number().nullable(),
  expected: z.number().nullable(),
  lambda1: number,
  lambda2: number,
  gradNorm: number,
  learningRate: number,
  tokens: count,
  labelTokens: count,
  tokensPerSecond: number,
  gpuBytes: count,
  plannedGpuBytes: count,
  layers: z.array(z.object({ heads: number, ffn: number, sparsity: number })).nullable(),
  heldout: number.exactOptional(),
  alarms: z.array(ALARM),
});

const heldOutPoint = z.object({ step: count, loss: number });
const layer = z.object({
  heads: count,
  kvHeads: count,
  ffn: count,
  window: z.int().positive().exactOptional(),
  rope: z.enum(["local", "none"]).exactOptional(),
  experts: z.object({ count, ffn: count }).exactOptional(),
  conv: z.literal(true).exactOptional(),
});
const change = z.object({ before: number, after: number });
const partSeconds = z.object({
  ...{ reading: number, preparing: number, steps: number, check: number, quality: number, writing: number },
});
const counts = z.object({ before: count, after: count });
const difference = z.object({ difference: number, stderr: number, low: number, high: number });
const agreement = z.object({
  ...{ kl: number, klError: number, klMedian: number, kl99: number, top1: number },
  ...{ tokens: count, dropped: number },
});
const bitsPerByte = z.object({
  ...{ before: number, after: number, bytes: count },
  agreement: agreement.nullable().default(null),
});
const lossChange = z.object({
  before: number,
  after: number,
  perplexity: change,
  bitsPerByte: change.nullable(),
  difference,
  agreement: agreement.nullable().default(null),
  labels: count,
  bytes: count,
  sequences: count,
});
const subsets = z.custom<NonNullable<ChoiceScore["subsets"]>>(isObject).exactOptional();
const choiceScore = z.object({
  acc: number,
  acc_norm: number,
  stderr: number,
  acc_norm_stderr: number,
  n: count,
  truncated: count,
  subsets,
});
// Runs of older versions have no interval.
const answerScore = z.object({ exact_match: number, stderr: number, n: count, truncated: count })
  .extend({ low: number.default(NaN), high: number.default(NaN), strict_match: number.exactOptional() });
const taskChange = z.union([
  z.object({
    before: choiceScore,
    after: choiceScore,
    difference: z.object({ acc: difference, acc_norm: difference }),
  }),
  z.object({ before: answerScore, after: answerScore, difference: z.object({ exact_match: difference }) }),
]);

/** Levels of a run's options at most. */
const MOST_DEPTH = 32;

/** The fields in the order in which they are written. */
const FIELDS = {
  sparsity: z.object({ target: number, expected: number, hard: number }),
  undecided: z.object({ chance: number, value: number }).nullable().default(null),
  validation: z.object({ best: heldOutPoint, last: heldOutPoint, isEarly: z.boolean() }).nullable().default(null),
  parameters: counts,
  writtenParameters: count,
  ggufDtype: z.enum(GGUF_WRITE_TYPES).nullable(),
  fellBack: count,
  size: z.custom<NonNullable<RunSummary["size"]>>(isObject).nullable(),
  layers: z.array(layer),
  hidden: count,
  maskedVsSliced: z.object({ maxAbs: number, range: number }),
  heldoutLoss: lossChange.nullable(),
  evaluation: z.object({ text: lossChange.nullable(), tasks: z.record(text, taskChange) }),
  vocabulary: z.object({
    ...{ before: count, after: count, counted: count, coverage: number, growth: number },
    ...{ heldout: bitsPerByte.nullable(), text: bitsPerByte.nullable() },
  }).nullable(),
  experts: z.object({
    ...{ before: count, after: count },
    kept: z.array(z.array(count).nullable()),
    scores: z.array(z.array(number).nullable()),
    use: EXPERT_USE.nullable(),
  }).nullable().default(null),
  seconds: z.object({ finetune: number, prune: number, postfinetune: number }),
  parts: z.object({ seconds: partSeconds, predicted: partSeconds.nullable() }).nullable().default(null),
  wallSeconds: number,
  resumedAfter: count,
  tokensPerSecond: number,
  peakGpuBytes: count,
  plannedGpuBytes: count,
  alarms: z.array(ALARM),
  // Older files have none.
  warnings: z.array(z.object({
    measure: z.enum(["none", "heldoutLoss", "textLoss", "heldoutBits", "textBits"]),
    ratio: z.number().nullable(),
    message: text,
  })).default([]),
  changes: z.array(z.object({ step: count, differences: z.array(text) })),
  adapter: text,
  versions: z.object({ compresso: text, deno: text }),
  data: z.custom<RunSummary["data"]>(isObject),
  options: z.custom<RunSummary["options"]>(
    (value) => isObject(value) && isWithinDepth(value, MOST_DEPTH),
    `expected an object that is nested at most ${MOST_DEPTH} deep`,
  ),
  inputs: z.record(text, text),
  origin: z.array(z.object({
    role: z.enum(["model", "data", "calibration", "vocabulary"]),
    name: text,
    bytes: count,
    source: text.exactOptional(),
  })),
  before: z.object({
    layers: z.array(layer),
    hidden: count,
    headDim: count,
    localHeadDim: count.exactOptional(),
    ungated: z.literal(true).exactOptional(),
    bytes: z.number(),
  }),
  masks: z.object({
    heads: z.array(z.array(z.number())),
    ffn: z.array(z.array(z.number())),
    hidden: z.array(z.number()),
  }),
  fileBytes: z.array(z.object({
    file: text,
    bytes: count,
    smaller: z.array(z.object({ dtype: text, bytes: count })).exactOptional(),
  })),
  files: z.array(z.object({ file: text, programs: z.array(text) })),
  skipped: z.array(z.object({ format: text, reason: text })),
} satisfies Readonly<Record<keyof RunSummary, z.ZodType>>;

const SUMMARY: z.ZodType<RunSummary> = z.object(FIELDS).superRefine(({ before, masks }, { addIssue }) => {
  const refuse = (message: string): void => addIssue({ code: "custom", path: ["masks"], message });
  if (masks.heads.length !== before.layers.length || masks.ffn.length !== before.layers.length) {
    const { heads, ffn } = masks;
    return refuse(`${before.layers.length} layers, ${heads.length} of heads, ${ffn.length} of FFN columns`);
  }
  before.layers.forEach(({ heads, kvHeads, conv }, index) => {
    const given = masks.heads[index]?.length;
    if (kvHeads <= heads && given === mixerMasks({ heads, ...conv ? { conv } : {} })) return;
    refuse(`layer ${index} has ${heads} heads, ${kvHeads} KV heads and ${given} values`);
  });
});

/** Names of the fields of run.json, in their order. */
export const RUN_FIELDS: readonly string[] = Object.keys(FIELDS);
/** Names of the fields of a line of records.jsonl, in their order. */
export const RECORD_FIELDS: readonly string[] = Object.keys(RECORD.shape);

/**
 * Reads run.json in the folder of a run; null if there is none, because the run is not finished.
 *
 * @throws CompressoError("input") if it is damaged, or of another version
 */
export async function readSummary(folder: string): Promise<RunSummary | null> {
  const path = `${folder}/${SUMMARY_FILE}`, found = await textIfThere(path);
  return found === null ? null : parseSummary(found, { path });
}

/** Reads the text of a run.json. Throws `CompressoError("input")` if it is damaged, or of another version. */
export function parseSummary(found: string, { path }: { readonly path: string }): RunSummary {
  return parsed(SUMMARY, jsonOf(found, { at: path, rule: "it is JSON" }), {
    at: path,
    rule: "it is a run's summary as this version of Compresso writes it",
  });
}

/**
 * Reads records of a run, one a line. The last line of an unfinished run may be half written, and is then left out.
 *
 * @throws CompressoError("input") that names the line
 */
export function parseRecords(
  lines: string,
  { path, isFinished }: { readonly path: string; readonly isFinished: boolean },
): StepRecord[] {
  const whole = lines.split("\n"), tail = whole.pop() ?? "";
  // Every whole line ends with a line feed.
  if (isFinished && tail !== "") whole.push(tail);
  return whole.map((line, index) => {
    const at = `line ${index + 1} of ${path}`;
    const value = jsonOf(line, { at, rule: "each line is a step's record as JSON" });
    return parsed(RECORD, value, { at, rule: "it is a step's record as this version of Compresso writes it" });
  });
}

/** The alarms in a checkpoint; none if they cannot be read. */
export function alarmsOf(value: unknown): readonly Alarm[] {
  return z.array(ALARM).safeParse(value).data ?? [];
}

function jsonOf(found: string, { at, rule }: { readonly at: string; readonly rule: string }): unknown {
  try {
    return JSON.parse(found);
  } catch (error) {
    refuse("input", `cannot read ${at}`, {
      rule,
      value: found === "" ? "an empty line" : error instanceof Error ? error.message : String(error),
      fix: "put the file back as the run wrote it, or start the run again",
    });
  }
}

function parsed<T>(
  schema: z.ZodType<T>,
  value: unknown,
  { at, rule }: { readonly at: string; readonly rule: string },
): T {
  const { data, error } = schema.safeParse(value);
  if (data !== undefined) return data;
  const [issue] = error?.issues ?? [];
  refuse("input", `cannot use ${at}`, {
    rule,
    value: issue ? `${issue.path.join(".") || "the whole"}: ${issue.message}` : "it is not",
    fix: "read it with the version that wrote it",
  });
}

function isWithinDepth(value: unknown, most: number): boolean {
  if (typeof value !== "object" || value === null) return true;
  return most > 0 && Object.values(value).every((part) => isWithinDepth(part, most - 1));
}
