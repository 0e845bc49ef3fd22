// records.jsonl of a run on the disk: read, and added to as records come.
import { unwritable } from "../files/atomic.ts";
import { textIfThere } from "../files/text_file.ts";
import type { StepRecord } from "./contract.ts";
import { linesUpTo } from "./record_lines.ts";

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

/** The records of a file; none where there is no file, and without broken lines. */
export async function recordsIn(path: string): Promise<StepRecord[]> {
  const text = await recordsUpTo(path, Infinity);
  return text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

/**
 * The lines of a file of records up to a step; none where there is no file. Unlike a checkpoint they are not forced to the disk: after a power
 * cut some may be missing or broken, and of a folder that was copied all.
 */
export async function recordsUpTo(path: string, step: number): Promise<string> {
  if (step === 0) return "";
  return linesUpTo(await textIfThere(path, { mayBeCut: true }) ?? "", step);
}
