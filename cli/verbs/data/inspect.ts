// `compresso data inspect FILE`: what the rows of a file are and, with a model, how they are used in training.
import { CompressoError, refuse } from "../../../lib/core/errors.ts";
import { type DataReport, type LeftOut, type Row } from "../../../lib/data/rows.ts";
import { dataPath, readRows } from "../../../lib/local/rows.ts";
import { placeOf } from "../../../lib/data/row.ts";
import { haveEnds } from "../../../lib/data/prompts/encode.ts";
import type { FormatOptions } from "../../../lib/data/prompts/format.ts";
import { openModelFiles } from "../../../lib/local/open_model.ts";
import type { Tokenizer } from "../../../lib/text/tokenizer.ts";
import { noTokenizer } from "../../../lib/text/no_tokenizer.ts";
import { checkContext, encodeRow, encodeRows } from "../../../lib/data/encode_rows.ts";
import { type EncodeReport, placesOf, withBroken } from "../../../lib/data/encode_report.ts";
import { heldOutOf } from "../../../lib/run/data.ts";
import { fetchInputs } from "../../hub.ts";
import { promptShare, unseen } from "../prune/data_line.ts";
import { formatBytes, formatCount, formatShare, print, printJson, rowsNamed } from "../../terminal/output.ts";
import { type PromptSetting, promptText } from "../../options/prompt.ts";

/** Options of the verb, as parsed. */
interface InspectSettings {
  readonly model?: string | undefined;
  readonly seq?: number | undefined;
  readonly textField?: string | undefined;
  readonly limit?: number | undefined;
  readonly prompt?: PromptSetting | undefined;
  readonly packing: boolean;
  readonly json?: true | undefined;
}

/** Smallest, middle, 95th percentile and largest of some lengths. */
interface Lengths {
  readonly least: number;
  readonly median: number;
  readonly p95: number;
  readonly most: number;
}

interface Facts {
  readonly file: string;
  readonly bytes: number;
  readonly kind: Row["kind"];
  readonly read: DataReport;
  /** With a model: rows that its chat template refuses, or that hold tokens which it does not have. */
  readonly refused: readonly LeftOut[];
  readonly characters: Lengths;
  /** With a model: tokens of whole rows, prompt included. */
  readonly tokens: Lengths | null;
  /** With a model: whether rows end with a token that says so. */
  readonly hasEnds: boolean | null;
  /** With a model: how the rows are used. `refused` counts the rows in `refused` above that training would read. */
  readonly training: (EncodeReport & { readonly seq: number; readonly refused: number }) | null;
}

/** Runs the verb. */
export async function inspectData(file: string, settings: InspectSettings): Promise<void> {
  const { textField, limit, seq = 256, model } = settings;
  checkTraining(settings);
  await fetchInputs({ data: [file], model: [model] });
  const prompt = await promptText(settings.prompt ?? true);
  const options = model === undefined ? null : { ...await encodingOf(model, { seq }), prompt };
  const { kind, rows, report } = await readRows(file, {
    textField,
    limit,
    skipBroken: true,
    fewerFix: "take fewer with --limit",
  });
  const { counts, refused } = options ? countTokens(rows, options) : { counts: [], refused: [] };
  const heldOut = heldOutOf(rows.length), trained = rows.slice(0, rows.length - heldOut);
  const others = new Set(rows.slice(trained.length).map(({ number }) => number));
  const apart = refused.filter(({ row }) => others.has(row));
  const { training, failure } = options && counts.length > 0
    ? trainingOf(() => {
      const { report: encoded } = encodeRows(trained, {
        ...options,
        seq,
        reading: report,
        packing: settings.packing,
        skipBroken: true,
      });
      return { seq, refused: refused.length - apart.length, ...withBroken(encoded, apart), heldOut };
    })
    : { training: null, failure: null };
  const facts: Facts = {
    file,
    bytes: (await Deno.stat(await dataPath(file))).size,
    kind,
    read: report,
    characters: lengths(rows.map(charactersOf)),
    refused,
    tokens: counts.length > 0 ? lengths(counts) : null,
    hasEnds: options && counts.length > 0 ? haveEnds(kind, { ...options, isPacked: settings.packing }) : null,
    training,
  };
  if (settings.json) printJson(facts);
  else show(facts);
  if (failure) throw failure;
}

/** How training uses the rows, or why it cannot: the rest of the facts helps to choose another length. */
function trainingOf(
  encode: () => NonNullable<Facts["training"]>,
): { readonly training: Facts["training"]; readonly failure: CompressoError | null } {
  try {
    return { training: encode(), failure: null };
  } catch (error) {
    if (error instanceof CompressoError) return { training: null, failure: error };
    throw error;
  }
}

/** Refuses options of training without a model. */
function checkTraining({ model, seq, prompt, packing }: InspectSettings): void {
  const given = Object.entries({
    "--seq": seq !== undefined,
    "--prompt": prompt !== undefined,
    "--no-packing": !packing,
  });
  const [option] = given.find(([, isGiven]) => isGiven) ?? [];
  if (model !== undefined || option === undefined) return;
  refuse("usage", `cannot use ${option === "--prompt" && prompt === false ? "--no-prompt" : option} here`, {
    rule: "the use of rows in training is shown with --model only",
    value: "no --model",
    fix: "add --model MODEL",
  });
}

/** No row is cut to this many tokens. */
const WHOLE = 2 ** 31;

/** The number of tokens of each whole row, and the refused rows, which have no tokens. */
function countTokens(
  rows: readonly Row[],
  options: FormatOptions & { readonly vocab: number },
): { readonly counts: readonly number[]; readonly refused: readonly LeftOut[] } {
  const refused: LeftOut[] = [], counts: number[] = [];
  for (const [index, row] of rows.entries()) {
    const place = placeOf(row, index);
    try {
      counts.push(encodeRow(row, place, { ...options, seq: WHOLE }).tokens.length);
    } catch (error) {
      if (!(error instanceof CompressoError)) throw error;
      refused.push({ ...place, reason: error.parts.value ?? error.parts.what });
    }
  }
  return { counts, refused };
}

async function encodingOf(
  model: string,
  { seq }: { readonly seq: number },
): Promise<{ readonly tokenizer: Tokenizer; readonly vocab: number }> {
  const { tokenizer, source: { spec } } = await openModelFiles(model);
  checkContext(seq, spec);
  if (tokenizer) return { tokenizer, vocab: spec.vocab };
  throw noTokenizer(`cannot count tokens for ${model}`);
}

function charactersOf(row: Row): number {
  switch (row.kind) {
    case "text":
      return row.text.length;
    case "instruct":
      return row.instruction.length + row.input.length + row.output.length;
    case "chat":
      return row.messages.reduce((sum, { content }) => sum + content.length, 0);
  }
}

function lengths(values: readonly number[]): Lengths {
  const sorted = Float64Array.from(values).sort();
  // The nearest-rank percentile.
  const at = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
  return { least: at(0), median: at(0.5), p95: at(0.95), most: at(1) };
}

const NOUNS: Readonly<Record<Row["kind"], string>> = {
  instruct: "instructions",
  chat: "conversations",
  text: "texts",
};

function show({ file, bytes, kind, read, refused, characters, tokens, hasEnds, training }: Facts): void {
  const compressed = read.compression === "none" ? "" : ` in ${read.compression}`;
  print(`file        ${file} (${read.format}${compressed}, ${formatBytes(bytes)})`);
  const more = read.limited ? ", as many as --limit allows" : "";
  print(`rows        ${formatCount(read.rows)} ${NOUNS[kind]}${more}`);
  if (read.skipped.length > 0) print(`empty       ${leftOut(read.skipped)}`);
  if (read.broken.length > 0) print(`broken      ${leftOut(read.broken)}`);
  if (refused.length > 0) print(`refused     ${leftOut(refused)}`);
  print(`characters  ${lengthsLine(characters)}`);
  if (!tokens) return;
  print(`tokens      ${lengthsLine(tokens)}`);
  if (!hasEnds) print("end         none: the tokenizer adds no end token to rows");
  for (const line of training ? trainingLines(training, kind) : []) print(line);
}

function trainingLines(
  training: EncodeReport & { readonly seq: number; readonly refused: number },
  kind: Row["kind"],
): string[] {
  const {
    seq,
    refused,
    examples,
    truncated,
    divided,
    skipped,
    padding,
    packed,
    leftOver,
    promptTokens,
    rows,
    heldOut,
  } = training;
  const all = training.tokens + padding;
  const parts = [
    `${formatCount(examples)} ${examples === 1 ? "example" : "examples"}${packed ? ", rows packed" : ""}`,
    ...rowsNamed("rows cut", { count: truncated, first: placesOf(training, "truncated") }),
    ...(divided > 0 ? [`${formatCount(divided)} split between sequences, as packing does`] : []),
    ...rowsNamed("left out", { count: skipped, first: placesOf(training, "skipped") }),
    ...(leftOver > 0 ? [`${formatCount(leftOver)} tokens left out`] : []),
    `${formatShare(padding / all)} padding`,
    `${formatCount(training.labelTokens)} tokens learned`,
  ];
  // Tokens that packing leaves out have prompts too; a row that is cut keeps its prompt whole.
  const share = promptShare({ ...training, rows: rows - refused });
  return [
    ...(heldOut > 0
      ? [
        `held out    the last ${heldOut} rows: prune does not train on them, and measures the model on them before and after`,
      ]
      : []),
    `at seq ${String(seq).padEnd(5)}${parts.join("; ")}`,
    promptTokens > 0
      ? `prompt      ${promptTokens} tokens a row, ${share}${unseen(training)}`
      : `prompt      ${kind === "text" ? "texts get none" : "none"}`,
  ];
}

function lengthsLine({ least, median, p95, most }: Lengths): string {
  return `${formatCount(least)} to ${formatCount(most)}, median ${formatCount(median)}, 95th percentile ${
    formatCount(p95)
  }`;
}

/** The first few with their reasons. */
function leftOut(rows: readonly LeftOut[]): string {
  const first = rows.slice(0, 3).map(({ row, line, reason }) =>
    `${row}${line === undefined ? "" : `, line ${line}`}: ${reason}`
  );
  return `${formatCount(rows.length)} (row ${first.join("; ")}${rows.length > 3 ? "; …" : ""})`;
}
