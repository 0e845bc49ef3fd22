// records.jsonl, line by line. Owns which lines belong to a run that went back, was resumed or is exported; refuses what records say.
import { CompressoError } from "../errors.ts";
import { textIfThere } from "../io/text_file.ts";
import type { StepRecord } from "./records.ts";

/**
 * The lines of a file of records up to a step; none where there is no file. Unlike a checkpoint they are not forced to the disk: after a power
 * cut some may be missing or broken, and of a folder that was copied all.
 */
export async function recordsUpTo(path: string, step: number): Promise<string> {
  if (step === 0) return "";
  const text = await textIfThere(path) ?? "";
  return text.split("\n").filter((line) => stepOf(line) <= step).map((line) => line + "\n").join("");
}

/**
 * The text of a file with these records; null where it has them already, as `compress` writes them while the run goes on. Those of a resumed
 * run follow what stands there. Throws `CompressoError("input")` where another run's stand there and not `replace`.
 */
export async function recordsFor(
  path: string,
  records: readonly StepRecord[],
  { replace }: { readonly replace: boolean },
): Promise<string | null> {
  const lines = records.map((record) => `${JSON.stringify(record)}\n`), last = lines.at(-1), [first] = records;
  const there = await textIfThere(path);
  if (last === undefined || !first || there?.endsWith(last)) return null;
  if (there !== null && !replace) {
    throw new CompressoError("input", {
      what: `cannot write ${path}`,
      rule: "the records that stand there are this run's",
      value: "they are of another run",
      mend: "choose another folder, or allow replacing them",
    });
  }
  return await recordsUpTo(path, first.step - 1) + lines.join("");
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
