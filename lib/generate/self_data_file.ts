// Self-written texts on disk.
import { type CompressoError, option } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { Model } from "../model/model.ts";
import {
  SELF_DATA_NAMES,
  type SelfDataOptions,
  type SelfText,
  SilenceError,
  textFields,
  writeTexts,
} from "./self_data.ts";
import { type SelfDataResult, writeSeries } from "./series_file.ts";

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

/** Version of the file's format. */
export const TEXT_FORMAT = 2;

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
  const { path, count, resume, identity = {}, onStart, onText, onProgress, signal, ranks } = options;
  const { tokens, temperature = 1, seed = 1, cacheBytes } = options;
  const settings = { tokens, temperature, seed }, how = { count, ...settings, cacheBytes, ranks, signal, onProgress };
  // The options are checked before the part of an earlier run is touched.
  writeTexts(model, { count, ...settings, cacheBytes });
  return await writeSeries({
    path,
    count,
    resume,
    settings: { ...settings, ...identity, format: TEXT_FORMAT },
    ranks,
    onStart,
  }, {
    rowsAfter: (skip) => writeTexts(model, { ...how, skip }),
    fieldsOf: textFields,
    onRow: onText,
    errorAfter: (written, error) => error instanceof SilenceError ? silenceAfter(written, error) : error,
  });
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
