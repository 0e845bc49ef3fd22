// What `fit` shows: the choices as a table with bars, the chosen one first, and what was predicted beside what was measured.
import type { CompressoError } from "../../../lib/core/errors.ts";
import { choiceText } from "../../../lib/fit/choice.ts";
import { TooSmallError } from "../../../lib/formats/gguf/fit_types.ts";
import type { FitRow } from "../../../lib/fit/make.ts";
import type { FitPlan } from "../../../lib/fit/plan.ts";
import type { WrittenFit } from "../../../lib/fit/write.ts";
import { spellFlag } from "../../options/spelling.ts";
import { formatBytes, formatCount, print } from "../../terminal/output.ts";
import { hanging } from "../../terminal/wrap.ts";

/** Characters of the longest bar. */
const BAR = 7;

/** Prints the choices, the chosen one first, and the command that makes it. */
export function showPlan(
  { rows, impossible, cutRows, workshop: { shape, texts } }: FitPlan,
  { command }: { readonly command: string },
): void {
  const [best] = rows, { windows = 0, window = 0, tokens = 0 } = best?.fidelity ?? {};
  print(`budget    ${formatBytes(shape.bytes)}, ${formatCount(shape.bytes)} bytes`);
  const size = formatCount(new TextEncoder().encode(texts.text).length);
  print(
    `measured  on ${windows} windows of ${window} tokens after row ${
      formatCount(cutRows)
    } (${size} bytes, ${tokens} compared)`,
  );
  print();
  print(`  ${"choice".padEnd(36)}${"file".padStart(9)}${"KL".padStart(8)}${"top-1".padStart(9)}${"lost".padStart(8)}`);
  const most = Math.max(...rows.map(({ lost }) => lost));
  for (const [at, row] of rows.entries()) print(`${at === 0 ? ">" : " "} ${rowText(row, most)}`.trimEnd());
  if (impossible.length > 0) print();
  for (const { choice, error } of impossible) {
    print(hanging(`  ${choiceText(choice).padEnd(36)}not possible: ${whyNot(error)}`, { columns: 80, indent: 38 }));
  }
  print();
  print("lost: bits per byte that it costs, by KL and by more tokens for the same text");
  print(`command   ${command}`);
}

/** Why a choice cannot be made, in a few words. */
function whyNot(error: CompressoError): string {
  if (error instanceof TooSmallError) return `at least ${formatBytes(error.smallest)}`;
  const { what, rule, value } = error.partsAs(spellFlag);
  return rule === undefined ? what : `${rule}, not ${value ?? "this"}`;
}

function rowText({ choice, bytes, fidelity: { kl, top1 }, lost }: FitRow, most: number): string {
  const cells = [
    formatBytes(bytes).padStart(9),
    kl.toFixed(4).padStart(8),
    `${(100 * top1).toFixed(1)} %`.padStart(9),
    lost.toFixed(4).padStart(8),
  ];
  const eighths = most > 0 ? Math.round(8 * BAR * lost / most) : 0;
  const bar = "█".repeat(eighths >> 3) + (eighths % 8 > 0 ? String.fromCodePoint(0x2590 - eighths % 8) : "");
  return `${choiceText(choice).padEnd(36)}${cells.join("")} ${bar}`;
}

/** Prints what was predicted of the written file beside what was measured. */
export function showWritten(row: FitRow, written: WrittenFit): void {
  print();
  print(`${"".padEnd(10)}${"predicted".padStart(14)}${"measured".padStart(14)}`);
  const line = (name: string, of: (one: Pick<FitRow, "bytes" | "fidelity" | "lost">) => string): void =>
    print(`${name.padEnd(10)}${of(row).padStart(14)}${of(written).padStart(14)}`);
  line("bytes", ({ bytes }) => formatCount(bytes));
  line("KL", ({ fidelity }) => fidelity.kl.toFixed(4));
  line("top-1", ({ fidelity }) => `${(100 * fidelity.top1).toFixed(1)} %`);
  line("lost", ({ lost }) => lost.toFixed(4));
  print(`file      ${written.gguf}`);
}

/** What `--json` has of a row. */
function rowValues({ choice, bytes, parameters, fidelity, lost }: FitRow): object {
  const { kl, klError, kl99, top1, bitsPerByte, dropped } = fidelity;
  return {
    levers: choiceText(choice),
    ...choice,
    bytes,
    parameters,
    kl,
    klError,
    kl99,
    top1,
    bitsPerByte,
    dropped,
    lost,
  };
}

/** What `--json` prints of a plan. The first row is chosen. */
export function planValues(
  { rows, impossible, cutRows, workshop: { shape } }: FitPlan,
  { command }: { readonly command: string },
): object {
  const { windows, window, tokens, dense } = rows[0]?.fidelity ?? {};
  return {
    fileSize: shape.bytes,
    measuredOn: { windows, window, tokens, afterRow: cutRows, dense },
    rows: rows.map(rowValues),
    impossible: impossible.map(({ choice, error }) => ({ levers: choiceText(choice), reason: error.message })),
    command,
  };
}

/** What `--json` has of the written file. */
export function writtenValues({ gguf, bytes, fidelity, lost }: WrittenFit): object {
  const { kl, klError, kl99, top1, bitsPerByte } = fidelity;
  return { gguf, bytes, kl, klError, kl99, top1, bitsPerByte, lost };
}
