// The sink that writes a run into a folder of any file system: checkpoints and records during the steps, then the files.
import type { Row } from "../../data/row.ts";
import { readRowsFrom } from "../../data/rows.ts";
import { isStorageFull } from "../../files/directory.ts";
import { type FileSystem, isThere, type StagedFile, writeFile } from "../../files/system.ts";
import type { Model } from "../../model/model.ts";
import type { SessionExportOptions } from "../../slice/export_options.ts";
import { checkFiles } from "../check_files.ts";
import type { StepRecord } from "../contract.ts";
import {
  CALIBRATION_FILE,
  CHECKPOINT_FILE,
  RECORDS_FILE,
  refuseFound,
  refuseResuming,
  RUN_FILES,
  textsThere,
} from "../folder.ts";
import { checkResuming } from "../identity.ts";
import { fittingShape } from "../options/fitting.ts";
import type { CheckpointOptions } from "../options/options.ts";
import { linesUpTo, textLine } from "../record_lines.ts";
import type { RunSummary } from "../result.ts";
import type { RunIntoOptions } from "../run_into.ts";
import type { RunSink } from "./sink.ts";

/** Seconds between two checkpoints: what a closed tab loses at most. */
const SAVE_SECONDS = 30;

/** What is written when the storage is full: the state of the run, or its result. */
export type Unsaved = "checkpoint" | "files";

/** Where a run in a file system is kept. */
export interface PlaceOptions {
  /** Where the files are written. Nothing locks it: only one run may write to a folder. */
  readonly files: FileSystem;
  /** Output folder: model/, model.gguf, records.jsonl, run.json and, until the run is done, checkpoint.safetensors. */
  readonly out: string;
  /** Steps between two checkpoints, an integer; default Infinity. */
  readonly checkpointEvery?: number | undefined;
  /** Seconds between two checkpoints; the first one comes after the first step. Default 30. */
  readonly checkpointSeconds?: number | undefined;
  /** Whether to resume from the folder's checkpoint. "auto" resumes if there is one. Default false. */
  readonly resume?: boolean | "auto" | undefined;
  /** Names of options that may differ from those of the checkpoint; see {@link CheckpointOptions.mayDiffer}. */
  readonly mayDiffer?: CheckpointOptions["mayDiffer"] | undefined;
  /** Where the model is written if `files` has no room for it, such as memory. Default: the run ends with an error. */
  readonly spare?: FileSystem | undefined;
  /** Called when a checkpoint is in its place. */
  readonly onSaved?: (() => void) | undefined;
  /**
   * Called each time there is no room in `files`: for a checkpoint, without which the run goes on, or for the model, which
   * is then written to `spare`. Default: a run without room for its checkpoint ends with an error.
   */
  readonly onFull?: ((what: Unsaved) => void) | undefined;
}

/** Options of {@link filesSink}. */
export type FilesSinkOptions =
  & PlaceOptions
  & Pick<RunIntoOptions, "export" | "identity" | "onPhase" | "size" | "layout" | "units">;

/**
 * Opens a folder of a file system for a run. Nothing is written before the run begins.
 *
 * @throws CompressoError("usage") for `resume` without a checkpoint, and for a folder with an earlier run, unless the run
 *   is resumed or `export.replace` is set.
 */
export async function filesSink(
  model: Pick<Model, "source" | "tokenizer">,
  options: FilesSinkOptions,
): Promise<RunSink<RunSummary>> {
  const startedAt = performance.now(), { files, out, identity, size, onPhase, mayDiffer = [] } = options;
  const path = `${out}/${CHECKPOINT_FILE}`, textsPath = `${out}/${CALIBRATION_FILE}`;
  const resume = options.resume === "auto" ? await isThere(files, path) : options.resume ?? false;
  const own = { startedAt, ...resume ? { replace: true } : {}, ...options.export }, { source } = model;
  const shape = fittingShape(source.spec, options, { source, formats: own.formats });
  checkFiles(own, { size, shape: { ...shape, layout: own.layout ?? shape.layout }, model });
  checkResuming({ mayDiffer, resume, identity });
  if (resume && !await isThere(files, path)) refuseResuming(out);
  if (!resume && !own.replace) await refuseEarlier(files, out);
  const hasTexts = await isThere(files, textsPath), place = new Place(options);
  return {
    platform: { files: place.files, openScript: null, loadTasks: null },
    checkpoint: {
      path,
      every: options.checkpointEvery ?? Infinity,
      seconds: options.checkpointSeconds ?? SAVE_SECONDS,
      resume,
      mayDiffer,
    },
    hasTexts,
    async texts(): Promise<readonly Row[] | null> {
      const isUsers = hasTexts && !resume && !own.replace && !await isThere(files, `${out}/${RECORDS_FILE}`);
      if (isUsers) throw textsThere(textsPath);
      return resume && hasTexts ? (await readRowsFrom(await files.open(textsPath))).rows : null;
    },
    begin: async ({ doneBefore, texts }) => await place.begin({ doneBefore, texts, resume }),
    add: async (record) => await place.add(record),
    async end(run): Promise<RunSummary> {
      onPhase?.("slice", 0);
      await run.slice({ onProgress: (share) => onPhase?.("slice", share) });
      onPhase?.("export", 0);
      const onProgress = (share: number): void => {
        options.export?.onProgress?.(share);
        onPhase?.("export", share);
      };
      return await place.end((how) => run.export(out, { ...own, ...how, onProgress }));
    },
    [Symbol.dispose]: () => {},
  };
}

async function refuseEarlier(files: FileSystem, out: string): Promise<void> {
  const found: string[] = [];
  for (const name of RUN_FILES) if (await isThere(files, `${out}/${name}`)) found.push(name);
  refuseFound(out, found);
}

/** The folder of a run: it holds the records until a checkpoint is saved, and bears that there is no room. */
class Place {
  readonly #options: PlaceOptions;
  #lines: string[] = [];
  #last = 0;
  /** Whether the model is written to the spare file system. */
  #isSpare = false;

  constructor(options: PlaceOptions) {
    this.#options = options;
  }

  /** The file system of the run. */
  get files(): FileSystem {
    const now = (): FileSystem => this.#isSpare ? this.#options.spare ?? this.#options.files : this.#options.files;
    return {
      info: (path) => now().info(path),
      names: (folder) => now().names(folder),
      open: (path) => now().open(path),
      text: (path) => now().text(path),
      makeFolder: (path) => now().makeFolder(path),
      stageFile: (path) => path === this.#path(CHECKPOINT_FILE) ? this.#stageCheckpoint(path) : now().stageFile(path),
      stageFolder: (path, fill, options) => now().stageFolder(path, fill, options),
      remove: (path) => now().remove(path),
    };
  }

  async begin(
    { doneBefore, texts, resume }: {
      readonly doneBefore: number | null;
      readonly texts: readonly Row[];
      readonly resume: boolean;
    },
  ): Promise<void> {
    const { files, out } = this.#options;
    await this.#bearing(async () => {
      await files.makeFolder(out);
      await this.#removeLeftovers();
      // If this run stops before its first checkpoint, the old checkpoint must not be taken for its own.
      if (!resume) await files.remove(this.#path(CHECKPOINT_FILE));
      const text = doneBefore === null ? "" : linesUpTo(await files.text(this.#path(RECORDS_FILE)) ?? "", doneBefore);
      this.#lines = text === "" ? [] : [text];
      this.#last = doneBefore ?? 0;
      if (texts.length > 0) await writeFile(files, this.#path(CALIBRATION_FILE), texts.map(textLine).join(""));
    });
  }

  add(record: StepRecord): void {
    // After a rollback there is one line a step.
    if (record.step <= this.#last) this.#lines = [linesUpTo(this.#lines.join(""), record.step - 1)];
    this.#lines.push(`${JSON.stringify(record)}\n`);
    this.#last = record.step;
  }

  /** Exports by `write`: into the spare file system if there is no room. */
  async end(write: (how: Pick<SessionExportOptions, "replace">) => Promise<RunSummary>): Promise<RunSummary> {
    const { files, spare, onFull } = this.#options, records = this.#path(RECORDS_FILE);
    try {
      if (this.#last > 0) await writeFile(files, records, this.#lines.join(""));
      const summary = await write({});
      await files.remove(this.#path(CHECKPOINT_FILE)).catch(() => false);
      return summary;
    } catch (error) {
      if (!spare || !isStorageFull(error)) throw error;
      onFull?.("files");
      this.#isSpare = true;
      if (this.#last > 0) await writeFile(spare, records, this.#lines.join(""));
      return await write({ replace: true });
    }
  }

  /** The checkpoint, after the records that belong to it. */
  async #stageCheckpoint(path: string): Promise<StagedFile> {
    const { files, onSaved } = this.#options;
    const inner = await this.#bearing(async () => {
      await writeFile(files, this.#path(RECORDS_FILE), this.#lines.join(""));
      return await files.stageFile(path);
    });
    let isDropped = inner === null;
    const unless = async (work: () => Promise<boolean>): Promise<void> => {
      if (!isDropped) isDropped = await this.#bearing(work) === null;
    };
    return {
      path,
      get written(): number {
        return inner?.written ?? 0;
      },
      write: (bytes) => unless(async () => (await inner?.write(bytes), true)),
      sync: () => unless(async () => (await inner?.sync(), true)),
      async commit(): Promise<void> {
        await unless(async () => (await inner?.commit(), true));
        if (!isDropped) onSaved?.();
      },
      [Symbol.dispose]: () => inner?.[Symbol.dispose](),
    };
  }

  /** What the work gives; null if there is no room for it, and the caller of the run wants to be told. */
  async #bearing<T>(work: () => Promise<T>): Promise<T | null> {
    const { onFull } = this.#options;
    try {
      return await work();
    } catch (error) {
      if (!onFull || !isStorageFull(error)) throw error;
      onFull("checkpoint");
      return null;
    }
  }

  /** Removes what a run that was ended from outside has left under temporary names. */
  async #removeLeftovers(): Promise<void> {
    const { files, out } = this.#options, own = [...RUN_FILES, RECORDS_FILE, CALIBRATION_FILE];
    for (const name of await files.names(out)) {
      if (own.some((one) => name.startsWith(`${one}.tmp`))) await files.remove(`${out}/${name}`);
    }
  }

  #path(name: string): string {
    return `${this.#options.out}/${name}`;
  }
}
