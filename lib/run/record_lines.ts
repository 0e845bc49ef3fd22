// The text of records.jsonl: which lines belong to a run that went back, was resumed or is exported.
import { CompressoError } from "../core/errors.ts";
import type { FileSystem } from "../files/system.ts";
import type { RecordView } from "../schedule/definition.ts";
import type { StepRecord } from "./contract.ts";

/** The lines up to a step; broken ones are left out. */
export function linesUpTo(text: string, step: number): string {
  return text.split("\n").filter((line) => stepOf(line) <= step).map((line) => line + "\n").join("");
}

/**
 * The text of a file with these records; null where it has them already, as `pruneToFolder` writes them during the run. Those of a resumed run
 * follow what stands there, as far as its last record is among `before`, the last ones of the run before it was resumed: some may be lost. Throws
 * `CompressoError("input")` where another run's stand there and not `replace`.
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
  // A run that went back may have done steps anew that it had before.
  const earlier = isOwn ? linesUpTo(known, (first?.step ?? Infinity) - 1) : "";
  if (last === undefined && (there === earlier || there === "")) return null;
  if (there !== "" && !isOwn && !replace) {
    throw new CompressoError("input", {
      what: `cannot write ${path}`,
      rule: "the records that stand there are this run's",
      value: "they are of another run",
      fix: "choose another folder, or allow replacing them",
    });
  }
  return earlier + lines.join("");
}

/** Whether lines end with one of the records. */
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
