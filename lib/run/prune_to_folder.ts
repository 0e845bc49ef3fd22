// Prunes a model into a folder of this machine.
import { Model } from "../model/model.ts";
import type { OpenedModel } from "../model/opened.ts";
import type { SessionExportOptions } from "../slice/export_options.ts";
import { checkOptions, FOLDER_PATHS, PRUNE_PATHS } from "./options/check.ts";
import type { CheckpointOptions, RunOptions, Target } from "./options/options.ts";
import { checkIdle, trainsNothing } from "./options/resolve.ts";
import type { RunSummary } from "./result.ts";
import { cutExpertsInto, runInto, type RunIntoOptions } from "./run_into.ts";
import type { RunOfMany } from "./shared_work.ts";
import { folderSink } from "./sink/folder.ts";
import { followerSink } from "./sink/follower.ts";

/**
 * Options of {@link pruneToFolder}: the options of `prune` without `checkpoint` and `ranks`, and {@link FolderOptions}.
 */
export type PruneToFolderOptions = Omit<RunIntoOptions, keyof Ranked | keyof Target> & Target & FolderOptions;

/** A process that is one of several. */
export type Ranked = Required<Pick<RunOptions, "ranks">>;

/** Options of the folder that a run is written to. */
export interface FolderOptions {
  /**
   * Output folder: model/, model.gguf, records.jsonl, run.json and, until the run is done, checkpoint.safetensors; also
   * calibration.jsonl if the model writes calibration texts.
   */
  readonly out: string;
  /**
   * Steps between two checkpoints, an integer; default 57. 0 disables periodic checkpoints, but see {@link
   * CheckpointOptions} for when a run saves itself anyway.
   */
  readonly checkpointEvery?: number | undefined;
  /** Whether to resume from the folder's checkpoint. "auto" resumes if there is one: a restarted program continues. */
  readonly resume?: boolean | "auto" | undefined;
  /**
   * Names of options of a resumed run that may differ from those of its checkpoint, such as "schedule" or "rates"; see
   * {@link CheckpointOptions.mayDiffer}.
   */
  readonly mayDiffer?: CheckpointOptions["mayDiffer"] | undefined;
  /**
   * Dtypes and names of the files. A resumed run replaces the files of its folder, unless `replace` is false. Files
   * that this run does not write, such as the adapter of an earlier run, stay.
   */
  readonly export?: SessionExportOptions | undefined;
  /** Called when all checks have passed, before anything is written. */
  readonly onReady?: (() => Promise<void>) | undefined;
}

/**
 * Prunes a model into a folder: runs all stages, slices, compares the sliced model with the masked one, and writes the
 * files. With the unit "vocab" the vocabulary is cut first. With that unit alone, the steps train LoRA on the cut
 * vocabulary; without steps nothing is trained. A run locks its folder until it ends. `export.replace` discards an
 * earlier run's checkpoint, and its calibration texts if the model writes new ones. A run that is refused leaves the
 * folder unchanged.
 *
 * With `ranks`, each process calls this with the same options. The first rank writes the folder; the others return
 * null.
 *
 * @throws CompressoError("usage") for options that do not exist or are out of range, for `resume` without a checkpoint,
 * and for a folder that another run has locked. Unless the run is resumed or `export.replace` is set, also for a folder
 * with an earlier run, or with a file at the path of the calibration texts.
 * @throws CompressoError("mismatch") for a checkpoint of another model, or of other rows or options.
 * @throws what iterating a {@link PruneSession} and what `exportModel` throw.
 * @example
 * ```ts
 * import { demoData, loadModel, openDevice, pruneToFolder, readRows } from "compresso";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { rows } = await readRows(demoData("train"), { limit: 40 });
 * const out = `${await Deno.makeTempDir()}/run`;
 * const options = { rows, sparsity: 0.2, steps: 2, batch: 1, seq: 64, prompt: null, calibration: "none" } as const;
 * const { parameters } = await pruneToFolder(model, { ...options, out });
 * if (parameters.after >= parameters.before) throw new Error("not smaller");
 * ```
 */
export async function pruneToFolder(
  model: Model,
  options: PruneToFolderOptions & Ranked,
): Promise<RunSummary | null>;
/** Prunes a model into a folder in one process. */
export async function pruneToFolder(model: Model, options: PruneToFolderOptions): Promise<RunSummary>;
/**
 * Cuts experts of a model that need not be loaded: half a layer's weights at a time are on the GPU. The model is what
 * `openModelFiles` gives, with a device.
 */
export async function pruneToFolder(
  model: Pick<Model, "device" | "source" | "tokenizer" | "baseDtype">,
  options: PruneToFolderOptions & { readonly units: readonly ["experts"]; readonly steps: 0 },
): Promise<RunSummary>;
export async function pruneToFolder(
  model: Model | OpenedModel,
  options: PruneToFolderOptions & Partial<Ranked>,
): Promise<RunSummary | null> {
  return await runIntoFolder(model, options);
}

/** Does what {@link pruneToFolder} does, for a caller that knows more of the run. */
export async function runIntoFolder(
  model: Model | OpenedModel,
  options: PruneToFolderOptions & Partial<Ranked>,
  ofMany: RunOfMany = {},
): Promise<RunSummary | null> {
  checkOptions(options, FOLDER_PATHS, { whose: "pruneToFolder" });
  const ofFolder = FOLDER_PATHS.filter((path) => !PRUNE_PATHS.includes(path));
  if (trainsNothing(options)) checkIdle(options, { isAlone: true, paths: ofFolder });
  const { out: _out, checkpointEvery: _every, resume: _resume, mayDiffer: _may, onReady: _ready, ...run } = options;
  const isFirst = (options.ranks?.rank ?? 0) === 0;
  using sink = isFirst ? await folderSink(model, options) : await followerSink(options);
  return model instanceof Model
    ? await runInto<RunSummary | null>(sink, model, run, ofMany)
    : await cutExpertsInto<RunSummary | null>(sink, model, run, ofMany);
}
