// Where a run goes: what a sink gives a run to begin with, and takes of it. Types only.
import type { Row } from "../../data/rows.ts";
import type { SessionExportOptions } from "../../slice/export_options.ts";
import type { StepRecord } from "../contract.ts";
import type { CheckpointOptions } from "../options/options.ts";
import type { RunSummary } from "../result.ts";
import type { RunPlatform, SliceOptions } from "../session.ts";

/** A run whose steps are done, if it has any: it can be sliced and written. */
export interface DoneRun {
  /** Slices the model, compares it with the masked one, and measures both. */
  slice(options?: SliceOptions): Promise<unknown>;
  /** Writes the files. */
  export(dir: string, options?: SessionExportOptions): Promise<RunSummary>;
}

/** What a run has done when its sink begins. */
export interface Beginning {
  /** Steps that a resumed run had done; null for a run that trains nothing. */
  readonly doneBefore: number | null;
  /** Calibration texts that the model has just written; empty if it wrote none. */
  readonly texts: readonly Row[];
}

/**
 * Where a run goes: a folder, files in memory, or nowhere on a rank that follows. A sink is made once it is known that
 * the run may go there. Disposing it releases the place.
 *
 * `runInto` calls `begin` when all checks have passed, `add` for each step, and `end` after the last one.
 */
export interface RunSink<Result> extends Disposable {
  /**
   * The system that the run works on.
   *
   * @internal
   */
  readonly platform: RunPlatform;
  /** Where the run saves itself; null for nowhere. */
  readonly checkpoint: Omit<CheckpointOptions, "identity"> | null;
  /** Whether calibration texts of the model are there. */
  readonly hasTexts: boolean;
  /**
   * The calibration texts that the model wrote for the run that is resumed; null if it has to write them.
   *
   * @throws CompressoError("usage") if the texts would replace others.
   */
  texts(): Promise<readonly Row[] | null>;
  /** Makes the place ready for the records. */
  begin(beginning: Beginning): Promise<void>;
  /** Takes the record of a step. */
  add(record: StepRecord): Promise<void>;
  /** Takes the run after its last step. */
  end(run: DoneRun): Promise<Result>;
}
