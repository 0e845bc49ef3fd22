// Lines of records.jsonl and calibration.jsonl, and how records merge when a run rolls back, is resumed or is exported.
import { refuse } from "../core/errors.ts";
import type { Row } from "../data/row.ts";
import type { FileSystem } from "../files/system.ts";
import type { RecordView } from "../schedule/definition.ts";
import type { StepRecord } from "./contract.ts";

/** The line of a calibration text; empty for another row. */
export function textLine(row: Row): string {
  return row.kind === "text" ? JSON.stringify({ text: row.text, ...row.extra }) + "\n" : "";
}

/** The lines up to a step, without broken lines. */
export function linesUpTo(text: string, step: number): string {
  return text.split("\n").filter((line) => stepOf(line) <= step).map((line) => line + "\n").join("");
}

/**
 * The text of a file with these records; null if the file has them already, as `pruneToFolder` writes them during the
 * run. Records of a resumed run are appended to the file, if its last record is among `before`, the last records before
 * the run was resumed; some may be lost.
 *
 * @throws CompressoError("input") if the file holds records of another run, unless `replace` is set.
 */
export async function recordsFor(
  path: string,
  records: readonly StepRecord[],
  { replace, before = [], files }: {
    readonly replace: boolean;
    readonly before?: readonly RecordView[];
    readonly files: FileSystem;
  },
): Promise<string | null> {
  const lines = records.map((record) => `${JSON.stringify(record)}\n`), last = lines.at(-1), [first] = records;
  const there = await files.text(path) ?? "";
  if (last !== undefined && there.endsWith(last)) return null;
  const known = linesUpTo(there, before.at(-1)?.step ?? 0);
  const isOwn = endsWithOne(known, before);
  // After a rollback, a step may be in the file twice.
  const earlier = isOwn ? linesUpTo(known, (first?.step ?? Infinity) - 1) : "";
  if (last === undefined && (there === earlier || there === "")) return null;
  if (there !== "" && !isOwn && !replace) {
    refuse("input", `cannot write ${path}`, {
      rule: "the file holds records of this run",
      value: "records of another run",
      fix: "choose another folder, or allow replacing them",
    });
  }
  return earlier + lines.join("");
}

/** Whether the last line is one of the records. */
function endsWithOne(lines: string, records: readonly RecordView[]): boolean {
  const line = lines.trimEnd().split("\n").at(-1) ?? "", own = records.find(({ step }) => step === stepOf(line));
  if (!own) return false;
  const record: Readonly<Record<string, unknown>> = JSON.parse(line);
  return record.loss === own.loss && record.gradNorm === own.gradNorm;
}

/** The step of a record's line; NaN for a broken one. */
function stepOf(line: string): number {
  try {
    const record: { readonly step?: unknown } | null = JSON.parse(line);
    return typeof record?.step === "number" ? record.step : NaN;
  } catch {
    return NaN;
  }
}
