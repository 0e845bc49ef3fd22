// What a program may do during a run: look at masks and LoRA, change them, and follow stages and files.
import type { LoraWeights } from "../spec/lora.ts";
import type { MaskValues } from "../nn/mask_slots.ts";
import type { UnitTable } from "../units/units.ts";
import type { Stage, StepRecord } from "./contract.ts";
import { CompressoError } from "../core/errors.ts";

/** A run as a hook sees it. What it reads waits for the GPU; what it writes holds from the next step on, and is part of checkpoints. */
export interface RunHandle {
  /** Stage of the present step. */
  readonly stage: Stage;
  /** Steps of the whole run that are done. */
  readonly step: number;
  /** The prunable units, in the order of log α. */
  readonly table: UnitTable;
  /** log α of every unit; under "gradual" the running mean of squared gradients, under a one-shot method the places in its ranking once it has one. */
  logAlpha(): Promise<Float32Array<ArrayBuffer>>;
  /**
   * Sets log α of every unit. Outside the pruning stage that moves nothing: before it, since the stage begins with a start of its own, under a one-shot
   * method with scores; after it, since masks stay. What is set after it the result has as `logAlpha`. Throws `CompressoError("input")` for another
   * length, or a value that is not finite.
   */
  setLogAlpha(values: Float32Array<ArrayBuffer>): void;
  /** Mask values z of the last step, sampled in the pruning stage and hard after it, or what was set since. */
  masks(): Promise<Required<MaskValues>>;
  /**
   * Sets z of the kinds that are given; the others stay. The next step runs at the masks as they are then, of all kinds. In the pruning stage that takes
   * the place of a sample of learned masks, of all units where a kind that has units is given: log α gets no gradient through them, it follows the
   * schedule and the saliency that the units have there, and monitors go by log α. The step after samples again, and "gradual" chooses anew at the next
   * third step, unless masks are set again. What is set after the stage's last step the hard masks replace (`afterStage` comes behind them), and the z
   * of what is no unit of the run is 1 again from then on.
   * Throws `CompressoError("input")` for a kind of another length, or a value that is not finite.
   */
  setMasks(masks: MaskValues): void;
  /** LoRA matrices by name, `lora.<layer>.<projection>.<A|B>`, row by row: A [rank, in], B [out, rank]. */
  lora(): Promise<LoraWeights>;
  /** Sets all LoRA matrices; Adam's moments stay. Throws `CompressoError("input")` where one is missing or of another length; other names are passed over. */
  setLora(weights: ReadonlyMap<string, Float32Array>): void;
}

/**
 * Functions that a run calls. A step waits for them; what they throw ends the run. Where a run goes back after an alarm (see `MonitorOptions`),
 * they are called anew for what is done anew.
 */
export interface RunHooks {
  /** Before the batch of a step is taken. A run that is stopped within the step keeps what was written, and does not call it again on resuming. */
  readonly beforeStep?: (run: RunHandle) => void | Promise<void>;
  /**
   * With it every step's numbers are read from the GPU at once. After a step whose numbers are not finite the handle is of the newest state that was
   * kept, and so is its `step`; the run goes back or stops then, and what is written is lost.
   */
  readonly afterStep?: (record: StepRecord, run: RunHandle) => void | Promise<void>;
  /**
   * Before the first step of a stage, and of one without steps too; of pruning, when log α has its start. A run that is stopped within that step does not
   * call it again.
   */
  readonly beforeStage?: (stage: Stage, run: RunHandle) => void | Promise<void>;
  /** After the last step of a stage, and of one without steps too; where it is that of pruning, after the masks became hard. */
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

/** What hooks may do at a step. `trainer` throws once the session is disposed: a program may have kept the handle. */
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

/** Refuses a handle that a program has kept beyond the training. Throws `CompressoError("usage")`. */
export function refuseHandle(): never {
  throw new CompressoError("usage", {
    what: "cannot use the handle of a hook",
    rule: "the run is training",
    value: "its trainer was freed, as by slice()",
    fix: "use it within the hook",
  });
}

/** log α that a hook gives. A long list would break the device, a short one leave units as they are. */
function checkLogAlpha(values: Float32Array<ArrayBuffer>, { count }: UnitTable): Float32Array<ArrayBuffer> {
  const isList = values instanceof Float32Array;
  const broken = isList ? values.findIndex((value) => !Number.isFinite(value)) : -1;
  if (isList && values.length === count && broken < 0) return values;
  throw new CompressoError("input", {
    what: "cannot use log α",
    rule: `it is a Float32Array of ${count} finite values, one for each unit`,
    value: !isList ? typeof values : broken < 0 ? `${values.length} values` : `value ${broken} is ${values[broken]}`,
    fix: "change what logAlpha() of the handle gives",
  });
}
