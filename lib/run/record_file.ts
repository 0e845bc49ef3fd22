// Reads and appends to records.jsonl of a run on disk.
import { unwritable } from "../files/atomic.ts";
import { textIfThere } from "../files/text_file.ts";
import type { StepRecord } from "./contract.ts";
import { linesUpTo } from "./record_lines.ts";
import { parseRecords } from "./run_json.ts";

/** records.jsonl of a run in progress, open for appending. */
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

  /** Opens an existing file; its last record is of step `last`. Throws `CompressoError("input")` if it is read-only. */
  static async open(path: string, { last }: { readonly last: number }): Promise<RecordFile> {
    try {
      return new RecordFile(path, await Deno.open(path, { append: true }), last);
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  /**
   * Appends a record. After a rollback the file keeps one line per step, that of the repeated step. Throws
   * `CompressoError("input")` where writing fails.
   */
  async add(record: StepRecord): Promise<void> {
    try {
      if (record.step <= this.#last) {
        // By its path: a file that is open for appending cannot be truncated on every system.
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
  return parseRecords(await recordsUpTo(path, Infinity), { path, isFinished: true });
}

/**
 * The lines of a file of records up to a step; empty if the file does not exist. Unlike a checkpoint they are not
 * flushed to disk: after a power failure some may be missing or broken, and a copied folder may lack all.
 */
export async function recordsUpTo(path: string, step: number): Promise<string> {
  if (step === 0) return "";
  return linesUpTo(await textIfThere(path, { mayBeCut: true }) ?? "", step);
}
