// records.jsonl, line by line. Owns which lines belong to a run that went back, was resumed or is exported; refuses what records say.
import { CompressoError } from "../core/errors.ts";
import { unwritable } from "../files/atomic.ts";
import { textIfThere } from "../files/text_file.ts";
import type { RecordView } from "../schedule/definition.ts";
import type { StepRecord } from "./contract.ts";

/**
 * The lines of a file of records up to a step; none where there is no file. Unlike a checkpoint they are not forced to the disk: after a power
 * cut some may be missing or broken, and of a folder that was copied all.
 */
export async function recordsUpTo(path: string, step: number): Promise<string> {
  if (step === 0) return "";
  return linesUpTo(await textIfThere(path, { mayBeCut: true }) ?? "", step);
}

function linesUpTo(text: string, step: number): string {
  return text.split("\n").filter((line) => stepOf(line) <= step).map((line) => line + "\n").join("");
}

/** The records of a file; none where there is no file, and without broken lines. */
export async function recordsIn(path: string): Promise<StepRecord[]> {
  const text = await recordsUpTo(path, Infinity);
  return text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

/** records.jsonl of a run at work, open to be added to. */
export class RecordFile implements Disposable {
  readonly #path: string;
  readonly #file: Deno.FsFile;
  readonly #encoder = new TextEncoder();
  #last: number;

  private constructor(path: string, file: Deno.FsFile, last: number) {
    this.#path = path;
    this.#file = file;
    this.#last = last;
  }

  /** Opens a file that is there, whose last record is that of the step `last`. Throws `CompressoError("input")` where it cannot be written. */
  static async open(path: string, { last }: { readonly last: number }): Promise<RecordFile> {
    try {
      return new RecordFile(path, await Deno.open(path, { append: true }), last);
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  /**
   * Adds a record. A run that went back does steps anew: the file keeps one line of each, the one that led to the result. Throws
   * `CompressoError("input")` where the disk refuses it.
   */
  async add(record: StepRecord): Promise<void> {
    try {
      if (record.step <= this.#last) {
        // Not by the file: what is open for appending alone cannot be shortened everywhere.
        const { length } = this.#encoder.encode(await recordsUpTo(this.#path, record.step - 1));
        await Deno.truncate(this.#path, length);
      }
      const line = this.#encoder.encode(`${JSON.stringify(record)}\n`);
      for (let at = 0; at < line.length;) at += await this.#file.write(line.subarray(at));
    } catch (error) {
      throw unwritable(this.#path, error);
    }
    this.#last = record.step;
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/**
 * The text of a file with these records; null where it has them already, as `pruneToFolder` writes them while the run goes on. Those of a resumed run
 * follow what stands there, as far as its last record is among `before`, the last ones of the run before it was resumed: some may be lost. Throws
 * `CompressoError("input")` where another run's stand there and not `replace`.
 */
export async function recordsFor(
  path: string,
  records: readonly StepRecord[],
  { replace, before = [] }: { readonly replace: boolean; readonly before?: readonly RecordView[] },
): Promise<string | null> {
  const lines = records.map((record) => `${JSON.stringify(record)}\n`), last = lines.at(-1), [first] = records;
  const there = await textIfThere(path, { mayBeCut: true }) ?? "";
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
