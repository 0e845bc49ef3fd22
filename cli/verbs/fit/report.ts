// What `fit` shows: the choices as a table with bars, the chosen one first; predicted and measured values.
import type { CompressoError } from "../../../lib/core/errors.ts";
import { choiceText } from "../../../lib/fit/choice.ts";
import { TooSmallError } from "../../../lib/formats/gguf/fit_types.ts";
import type { FitRow, MeasuredUse } from "../../../lib/fit/make.ts";
import type { FitPlan } from "../../../lib/fit/plan.ts";
import type { WrittenFit } from "../../../lib/fit/write.ts";
import { spellFlag } from "../../options/spelling.ts";
import { formatBytes, formatCount, print } from "../../terminal/output.ts";
import { hanging } from "../../terminal/wrap.ts";

/** What a row of the table and a written file are shown by. */
type Shown = MeasuredUse & Pick<FitRow, "bytes">;

/** A column of the table. */
interface Column {
  readonly head: string;
  readonly width: number;
  /** Null where it was not asked for. */
  readonly of: (row: Shown) => string | null;
}

const COLUMNS: readonly Column[] = [
  { head: "file", width: 9, of: ({ bytes }) => formatBytes(bytes) },
  { head: "KL", width: 8, of: ({ fidelity }) => fidelity.kl.toFixed(4) },
  { head: "top-1", width: 8, of: ({ fidelity }) => `${(100 * fidelity.top1).toFixed(1)} %` },
  { head: "lost", width: 7, of: ({ lost }) => lost.toFixed(4) },
  { head: "memory", width: 9, of: ({ memory }) => memory === null ? null : formatBytes(memory) },
  { head: "tokens/s", width: 9, of: ({ tokensPerSecond: rate }) => rate === null ? null : rate.toPrecision(3) },
];
/** Columns of the terminal; characters of a choice and of the longest bar. */
const SCREEN = 80, CHOICE = 36, BAR = 8;

/** Prints the choices, the chosen one first, and the command that makes it. */
export function showPlan(
  { rows, impossible, cutRows, workshop }: FitPlan,
  { command }: { readonly command: string },
): void {
  const [best] = rows, { windows = 0, window = 0, tokens = 0 } = best?.fidelity ?? {};
  print(`budget    ${budgetText(workshop)}`);
  const size = formatCount(new TextEncoder().encode(workshop.texts.text).length);
  const where = `${windows} windows of ${window} tokens after row ${formatCount(cutRows)}`;
  print(`measured  on ${where} (${size} bytes, ${tokens} compared)`);
  print();
  for (const line of tableOf(rows)) print(line);
  if (impossible.length > 0) print();
  for (const { choice, error } of impossible) {
    const line = `  ${choiceText(choice).padEnd(CHOICE)}not possible: ${whyNot(error)}`;
    print(hanging(line, { columns: SCREEN, indent: CHOICE + 2 }));
  }
  print();
  print("lost: bits per byte that it costs, by KL and by more tokens for the same text");
  print(`command   ${command}`);
}

/** The rows in columns, with bars of what is lost where there is room for them. */
function tableOf(rows: readonly FitRow[]): string[] {
  const [first] = rows, used = first ? COLUMNS.filter(({ of }) => of(first) !== null) : [];
  const widthOf = (columns: readonly Column[]): number => columns.reduce((sum, { width }) => sum + width, 2 + CHOICE);
  const columns = widthOf(used) > SCREEN ? used.filter(({ head }) => head !== "KL") : used;
  const bar = Math.min(BAR, SCREEN - widthOf(columns) - 1), most = Math.max(...rows.map(({ lost }) => lost));
  return [
    `  ${"choice".padEnd(CHOICE)}${columns.map(({ head, width }) => head.padStart(width)).join("")}`,
    ...rows.map((row, at) => {
      const cells = columns.map(({ of, width }) => (of(row) ?? "").padStart(width)).join("");
      const eighths = most > 0 ? Math.max(0, Math.round(8 * bar * row.lost / most)) : 0;
      const drawn = "█".repeat(eighths >> 3) + (eighths % 8 > 0 ? String.fromCodePoint(0x2590 - eighths % 8) : "");
      return `${at === 0 ? ">" : " "} ${choiceText(row.choice).padEnd(CHOICE)}${cells} ${drawn}`.trimEnd();
    }),
  ];
}

/** The budget in words. */
function budgetText({ shape: { bytes }, budget: { memory, context, tokensPerSecond } }: FitPlan["workshop"]): string {
  return [
    ...bytes === null ? [] : [`a file of ${formatBytes(bytes)} (${formatCount(bytes)} bytes)`],
    ...memory === undefined ? [] : [`${formatBytes(memory)} of memory for ${formatCount(context)} tokens`],
    ...tokensPerSecond === undefined ? [] : [`${tokensPerSecond} tokens a second`],
  ].join(", ");
}

/** Why a choice cannot be made, in a few words. */
function whyNot(error: CompressoError): string {
  if (error instanceof TooSmallError) return `at least ${formatBytes(error.smallest)}`;
  const { what, rule, value } = error.partsAs(spellFlag);
  return rule === undefined ? what : `${rule}, not ${value ?? "this"}`;
}

/** Prints predicted and measured values of the written file, which `steps` may have trained since. */
export function showWritten(row: FitRow, written: WrittenFit, { steps }: { readonly steps: number }): void {
  const [before, after] = steps > 0 ? ["untrained", `${steps} steps`] : ["predicted", "measured"];
  print();
  print(`${"".padEnd(10)}${before.padStart(14)}${after.padStart(14)}`);
  const line = (name: string, of: Column["of"]): void => {
    const [before, after] = [of(row), of(written)];
    if (before !== null) print(`${name.padEnd(10)}${before.padStart(14)}${(after ?? "").padStart(14)}`);
  };
  line("bytes", ({ bytes }) => formatCount(bytes));
  for (const { head, of } of COLUMNS.slice(1)) line(head, of);
  print(`file      ${written.gguf}`);
}

/** What `--json` has of a row. */
function rowValues({ choice, parameters, ...shown }: FitRow): object {
  const { cut, ...others } = choice, width = cut?.lever === "width" ? cut.share : null;
  const depth = cut?.lever === "depth" ? cut.share : null;
  return { levers: choiceText(choice), width, depth, ...others, parameters, ...shownValues(shown) };
}

function shownValues({ bytes, fidelity, lost, memory, tokensPerSecond }: Shown): object {
  const { kl, klError, kl99, top1, bitsPerByte, dropped, dense } = fidelity;
  return { bytes, kl, klError, kl99, top1, bitsPerByte, dropped, lost, memory, tokensPerSecond, against: dense };
}

/** What `--json` prints of a plan. The first row is chosen. */
export function planValues(
  { rows, impossible, cutRows, workshop: { shape, budget } }: FitPlan,
  { command }: { readonly command: string },
): object {
  const { windows, window, tokens } = rows[0]?.fidelity ?? {};
  return {
    budget: { fileSize: shape.bytes, ...budget },
    measuredOn: { windows, window, tokens, afterRow: cutRows },
    rows: rows.map(rowValues),
    impossible: impossible.map(({ choice, error }) => ({ levers: choiceText(choice), reason: error.message })),
    command,
  };
}

/** What `--json` has of the written file. */
export function writtenValues({ gguf, ...shown }: WrittenFit): object {
  return { gguf, ...shownValues(shown) };
}
