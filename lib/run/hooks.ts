// The hooks of a run, and the handle with which they read and change masks and LoRA.
import type { LoraWeights } from "../spec/lora.ts";
import type { MaskValues } from "../nn/mask_slots.ts";
import type { UnitTable } from "../units/table.ts";
import type { Stage, StepRecord } from "./contract.ts";
import { refuse } from "../core/errors.ts";

/**
 * A run as a hook sees it. Reading waits for the GPU. What is written applies from the next step and is part of
 * checkpoints.
 */
export interface RunHandle {
  /** Stage of the current step. */
  readonly stage: Stage;
  /** Completed steps of the whole run. */
  readonly step: number;
  /** The prunable units, in the order of log α. */
  readonly table: UnitTable;
  /**
   * log α of every unit. Under "gradual" it is the running mean of squared gradients, under a one-shot method the ranks
   * of the units once they are scored.
   */
  logAlpha(): Promise<Float32Array<ArrayBuffer>>;
  /**
   * Sets log α of every unit. It has an effect in the pruning stage only: the stage begins with its own initial values
   * (a one-shot method with scores), and masks are fixed after it. A value set after the stage appears as `logAlpha` in
   * the result.
   *
   * @throws CompressoError("input") for another length, or a value that is not finite.
   */
  setLogAlpha(values: Float32Array<ArrayBuffer>): void;
  /** Mask values z of the last step, or those set since. They are sampled in the pruning stage and hard after it. */
  masks(): Promise<Required<MaskValues>>;
  /**
   * Sets z of the kinds that are given; the others stay. The next step runs with the resulting masks of all kinds.
   *
   * In the pruning stage:
   *
   * - If a kind that has units is given, no unit of learned masks is sampled in the next step. log α then gets no
   *   gradient through the masks. It follows the schedule and the saliency at these masks. Monitors see log α.
   * - The step after that samples again. "gradual" chooses again at the next third step, unless masks are set again.
   * - The hard masks at the end of the stage replace what was set after its last step, before `afterStage`
   *   runs. Masks of kinds that the run does not prune are then 1 again.
   *
   * @throws CompressoError("input") for a kind of another length, or a value that is not finite.
   */
  setMasks(masks: MaskValues): void;
  /** LoRA matrices by name, `lora.<layer>.<projection>.<A|B>`, row-major: A [rank, in], B [out, rank]. */
  lora(): Promise<LoraWeights>;
  /**
   * Sets all LoRA matrices; Adam's moments stay. Other names are ignored.
   *
   * @throws CompressoError("input") if a matrix is missing or of another length.
   */
  setLora(weights: ReadonlyMap<string, Float32Array>): void;
}

/**
 * Functions that a run calls. A step waits for them, and an error that they throw ends the run. After a rollback (see
 * `MonitorOptions`) they are called again for the repeated steps.
 */
export interface RunHooks {
  /**
   * Before a step takes its batch. A run that is stopped within the step keeps what the hook wrote, and does not call
   * it again on resuming.
   */
  readonly beforeStep?: (run: RunHandle) => void | Promise<void>;
  /**
   * After a step. With this hook every step's numbers are read from the GPU at once. After a step whose numbers are not
   * finite, the handle and its `step` are those of the newest kept state. The run then rolls back or stops, and what is
   * written is lost.
   */
  readonly afterStep?: (record: StepRecord, run: RunHandle) => void | Promise<void>;
  /**
   * Before the first step of a stage, also of a stage without steps; of pruning, after log α is initialized. A run that
   * is stopped within the first step does not call it again.
   */
  readonly beforeStage?: (stage: Stage, run: RunHandle) => void | Promise<void>;
  /** After the last step of a stage, also of a stage without steps; of pruning, after the masks became hard. */
  readonly afterStage?: (stage: Stage, run: RunHandle) => void | Promise<void>;
  /** Before the files are written, with their folder. */
  readonly beforeExport?: (dir: string) => void | Promise<void>;
  /** After all files are written. */
  readonly afterExport?: (dir: string) => void | Promise<void>;
}

/** What a handle reads and writes. */
type Trained = Pick<RunHandle, "logAlpha" | "setLogAlpha" | "masks" | "setMasks" | "setLora"> & {
  loraWeights(): Promise<LoraWeights>;
};

/** The handle of a step. `trainer` throws once the session is disposed, since a program may have kept the handle. */
export function handleOf(at: Pick<RunHandle, "stage" | "step" | "table">, trainer: () => Trained): RunHandle {
  return {
    ...at,
    logAlpha: () => trainer().logAlpha(),
    setLogAlpha: (values) => trainer().setLogAlpha(checkLogAlpha(values, at.table)),
    masks: () => trainer().masks(),
    setMasks: (masks) => trainer().setMasks(masks),
    lora: () => trainer().loraWeights(),
    setLora: (weights) => trainer().setLora(weights),
  };
}

/** Refuses a handle that is used after training. Throws `CompressoError("usage")`. */
export function refuseHandle(): never {
  refuse("usage", "cannot use the handle of a hook", {
    rule: "the run is training",
    value: "its trainer was freed, as by slice()",
    fix: "use it within the hook",
  });
}

/**
 * Checks log α given by a hook. A list that is too long would fail on the device; a shorter one would leave units
 * unchanged.
 */
function checkLogAlpha(values: Float32Array<ArrayBuffer>, { count }: UnitTable): Float32Array<ArrayBuffer> {
  const isList = values instanceof Float32Array;
  const broken = isList ? values.findIndex((value) => !Number.isFinite(value)) : -1;
  if (isList && values.length === count && broken < 0) return values;
  refuse("input", "cannot use log α", {
    rule: `it is a Float32Array of ${count} finite values, one for each unit`,
    value: !isList ? typeof values : broken < 0 ? `${values.length} values` : `value ${broken} is ${values[broken]}`,
    fix: "change what logAlpha() of the handle gives",
  });
}
