// Rows that a model writes, on disk: a part that grows and can be continued, then the whole file.
import { checkAlike } from "../ranks/alike.ts";
import { option, refuse } from "../core/errors.ts";
import { gathered, type Ranks } from "../ranks/ranks.ts";
import { makeFolder } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { openAlone, type OwnFile } from "../files/lock.ts";
import { folderOf } from "../files/path.ts";

/** Where the rows of a series go. */
export interface SeriesFile {
  /** The file, JSON lines. Until it is complete, its rows are in `PATH.part`. */
  readonly path: string;
  /** Rows in all. */
  readonly count: number;
  /** Continues `PATH.part` if it exists. Default false: it is replaced. */
  readonly resume?: boolean | undefined;
  /** What must be the same to resume. */
  readonly settings: Readonly<Record<string, string | number | null>>;
  /** Processes that share the work; the first one writes. */
  readonly ranks?: Ranks | undefined;
  /** Called, and awaited, once it is known how many rows exist already. */
  readonly onStart?: ((there: number) => void | Promise<void>) | undefined;
}

/** The rows of a series. */
export interface Series<T extends { readonly tokens: number }> {
  /** The rows after the first `skip`, one after the other. */
  readonly rowsAfter: (skip: number) => AsyncIterable<T>;
  /** The fields of a row in the file. */
  readonly fieldsOf: (row: T) => object;
  /** Called, and awaited, after each row that is on the disk. */
  readonly onRow?: ((row: T) => void | Promise<void>) | undefined;
  /** The error of a series that stops after so many rows. Default: as it is. */
  readonly errorAfter?: ((written: number, error: unknown) => unknown) | undefined;
}

/** What was written. */
export interface SelfDataResult {
  /** The file. */
  readonly path: string;
  /** Rows in the file. */
  readonly count: number;
  /** Rows that were there before. */
  readonly resumed: number;
  /** Tokens that were generated now. */
  readonly tokens: number;
}

/** Path of the growing part. */
export function partPath(path: string): string {
  return `${path}.part`;
}

/**
 * Writes a series to a file. Rows are on disk before the next ones begin; a stopped or crashed run leaves `PATH.part`,
 * from which `resume` makes the same file as a run that was not stopped. `PATH` itself appears whole or not at all.
 * `count` may be raised on resuming, but not below what is written. Of several ranks the first writes.
 *
 * @throws CompressoError("mismatch") for resuming with other settings.
 * @throws CompressoError("usage") for fewer rows than are there.
 * @throws CompressoError("input") if the disk refuses the file; and what the series throws.
 */
export async function writeSeries<T extends { readonly tokens: number }>(
  { path, count, resume = false, settings, ranks, onStart }: SeriesFile,
  { rowsAfter, fieldsOf, onRow, errorAfter }: Series<T>,
): Promise<SelfDataResult> {
  const header = JSON.stringify({ settings }), part = partPath(path);
  if (ranks) {
    await checkAlike(ranks, { path, count, resume, header });
    if (ranks.rank > 0) return await follow({ path, count, ranks, rowsAfter });
  }
  await makeFolder(folderOf(path));
  using file = await openAlone(part, { what: `cannot write ${path}`, one: "program" });
  const there = resume ? await standing(file, { part, header }) : 0;
  if (there > count) {
    refuse("usage", `cannot write ${path}`, {
      rule: "texts that are written already are kept",
      value: `${there} of them are, and ${count} are wanted`,
      fix: `give ${option("generate.count", there)} or more, or start over`,
    });
  }
  if (there === 0) {
    await file.cutAt(0);
    await append(file, `${header}\n`);
  }
  if (ranks) await gathered(ranks, there);
  await onStart?.(there);
  let generated = 0, written = there;
  try {
    for await (const row of rowsAfter(there)) {
      await append(file, `${JSON.stringify(fieldsOf(row))}\n`);
      written++;
      generated += row.tokens;
      await onRow?.(row);
    }
  } catch (error) {
    throw errorAfter ? errorAfter(written, error) : error;
  }
  // The lock is still held here: a process that waits for it then finds another file, or none.
  await publish(await file.readAll(), { part, path, count });
  return { path, count, resumed: there, tokens: generated };
}

/** The part of a rank that is not the first, which writes the file. */
async function follow(
  { path, count, ranks, rowsAfter }: Pick<SeriesFile, "path" | "count"> & {
    readonly ranks: Ranks;
    readonly rowsAfter: Series<{ readonly tokens: number }>["rowsAfter"];
  },
): Promise<SelfDataResult> {
  const [there = 0] = await gathered(ranks, 0);
  let tokens = 0;
  for await (const row of rowsAfter(there)) tokens += row.tokens;
  return { path, count, resumed: there, tokens };
}

/** Number of rows in a part, whose unfinished last line is cut off; 0 if it is empty. */
async function standing(
  file: OwnFile,
  { part, header }: { readonly part: string; readonly header: string },
): Promise<number> {
  const bytes = await file.readAll();
  const end = bytes.lastIndexOf(NEWLINE) + 1;
  if (end === 0) return 0;
  const first = new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(NEWLINE)));
  if (first !== header) {
    refuse("mismatch", `cannot resume ${part}`, {
      rule: "it was begun with the same model and settings",
      value: `${first} then, ${header} now`,
      fix: "use the settings of the first run, or start over",
    });
  }
  await file.cutAt(end);
  let lines = 0;
  for (const byte of bytes.subarray(0, end)) if (byte === NEWLINE) lines++;
  return lines - 1;
}

const NEWLINE = 10;

async function append(file: OwnFile, line: string): Promise<void> {
  file.append(new TextEncoder().encode(line));
  await file.sync();
}

/** Moves the first `count` rows to their path and removes the part. */
async function publish(
  bytes: Uint8Array<ArrayBuffer>,
  { part, path, count }: { readonly part: string; readonly path: string; readonly count: number },
): Promise<void> {
  const start = bytes.indexOf(NEWLINE) + 1;
  let end = start;
  for (let line = 0; line < count; line++) end = bytes.indexOf(NEWLINE, end) + 1;
  using file = await disk.stageFile(path);
  await file.write(bytes.subarray(start, end));
  await file.commit();
  await disk.remove(part);
}
