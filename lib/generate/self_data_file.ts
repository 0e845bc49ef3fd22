// Self-written data on disk: a part that grows and can be continued, then the whole file.
import { checkAlike } from "../ranks/alike.ts";
import { type CompressoError, option, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { gathered, type Ranks } from "../ranks/ranks.ts";
import { makeFolder } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { openAlone, type OwnFile } from "../files/lock.ts";
import { folderOf } from "../files/path.ts";
import type { Model } from "../model/model.ts";
import {
  SELF_DATA_NAMES,
  type SelfDataOptions,
  type SelfText,
  SilenceError,
  textFields,
  writeTexts,
} from "./self_data.ts";

/** Options of {@link writeTextFile}. */
export interface SelfDataFileOptions extends Omit<SelfDataOptions, "skip"> {
  /**
   * The file, JSON lines of `{"text": …}`, with `"ended": false` for a text that was cut off. Until the file is
   * complete, its texts are in `PATH.part`.
   */
  readonly path: string;
  /** Continues `PATH.part` if it exists. Default false: it is replaced. */
  readonly resume?: boolean | undefined;
  /** Facts that must be the same to resume, such as a hash of the weights. */
  readonly identity?: Readonly<Record<string, string | number>> | undefined;
  /** Called, and awaited, once it is known how many texts exist already. */
  readonly onStart?: ((there: number) => void | Promise<void>) | undefined;
  /** Called, and awaited, after each text. */
  readonly onText?: ((text: SelfText) => void | Promise<void>) | undefined;
}

const NAMES: NamesOf<SelfDataFileOptions> = {
  ...SELF_DATA_NAMES,
  path: "text",
  resume: "switch",
  identity: true,
  onStart: true,
  onText: true,
};

/** What was written. */
export interface SelfDataResult {
  /** The file. */
  readonly path: string;
  /** Texts in the file. */
  readonly count: number;
  /** Texts that were there before. */
  readonly resumed: number;
  /** Tokens that were generated now, first tokens included. */
  readonly tokens: number;
}

/** Version of the file's format. */
export const TEXT_FORMAT = 2;

/** Path of the growing part. */
export function partPath(path: string): string {
  return `${path}.part`;
}

/**
 * Writes {@link writeTexts} to a file. Texts are on disk before the next ones begin; a stopped or crashed run leaves
 * `PATH.part`, from which `resume` makes the same file as a run that was not stopped. `PATH` itself appears whole or not
 * at all. `count` may be raised on resuming, but not below what is written. Of several ranks the first writes.
 *
 * @throws CompressoError("mismatch") for resuming with other settings.
 * @throws CompressoError("usage") for fewer texts than are there.
 * @throws CompressoError("input") if the disk refuses the file; and what {@link writeTexts} throws.
 */
export async function writeTextFile(model: Model, options: SelfDataFileOptions): Promise<SelfDataResult> {
  checkNames(options, NAMES, { whose: "writeTextFile" });
  const { path, count, resume = false, identity = {}, onStart, onText, onProgress, signal, ranks } = options;
  const { tokens, temperature = 1, seed = 1, cacheBytes } = options;
  const settings = { tokens, temperature, seed };
  const header = JSON.stringify({ settings: { ...settings, ...identity, format: TEXT_FORMAT } });
  const part = partPath(path), how = { count, ...settings, cacheBytes, ranks, signal, onProgress };
  // The options are checked before the part of an earlier run is touched.
  writeTexts(model, { count, ...settings, cacheBytes });
  if (ranks) {
    await checkAlike(ranks, { path, count, resume, header });
    if (ranks.rank > 0) return await follow(model, { ...how, ranks, path });
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
    for await (const text of writeTexts(model, { ...how, skip: there })) {
      await append(file, `${JSON.stringify(textFields(text))}\n`);
      written++;
      generated += text.tokens;
      await onText?.(text);
    }
  } catch (error) {
    throw error instanceof SilenceError ? silenceAfter(written, error) : error;
  }
  // The lock is still held here: a process that waits for it then finds another file, or none.
  await publish(await file.readAll(), { part, path, count });
  return { path, count, resumed: there, tokens: generated };
}

/** The part of a rank that is not the first, which writes the file. */
async function follow(
  model: Model,
  { path, ranks, ...how }: SelfDataOptions & { readonly path: string; readonly ranks: Ranks },
): Promise<SelfDataResult> {
  const [there = 0] = await gathered(ranks, 0);
  let tokens = 0;
  for await (const text of writeTexts(model, { ...how, ranks, skip: there })) tokens += text.tokens;
  return { path, count: how.count, resumed: there, tokens };
}

/** Number of texts in a part, whose unfinished last line is cut off; 0 if it is empty. */
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

/**
 * The error of a text that the model does not begin. The series ends there: the same settings would fail again, and
 * other settings cannot resume it.
 */
function silenceAfter(written: number, error: CompressoError): CompressoError {
  const restart = `start over with another ${option("generate.seed")} (and ${option("replace")})`;
  const fix = written === 0
    ? restart
    : `lower count to ${written}, which are written (${option("generate.count", written)}, with ${
      option("resume")
    }), or ${restart}`;
  return error.with({ fix });
}

const NEWLINE = 10;

async function append(file: OwnFile, line: string): Promise<void> {
  file.append(new TextEncoder().encode(line));
  await file.sync();
}

/** Moves the first `count` texts to their path and removes the part. */
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
