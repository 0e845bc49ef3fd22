// Results of a finished run: what it learned, the sliced model, and the contents of run.json.
import type { GgufWriteType } from "../formats/gguf/mixes.ts";
import type { WeightSource } from "../spec/source.ts";
import type { LoraConfig, LoraWeights } from "../spec/lora.ts";
import { type MaskValues, unpackMasks } from "../nn/mask_slots.ts";
import { hardSparsity } from "../units/selection.ts";
import { keptUnits, type UnitTable } from "../units/table.ts";
import type { EncodeReport } from "../data/encode_report.ts";
import type { Alarm } from "./monitors/alarm.ts";
import type { ResolvedOptions } from "./options/options.ts";
import type { RunChange, RunPosition, Stage } from "./contract.ts";
import type { OriginFile } from "../slice/export_options.ts";
import type { DecoderSpec, LayerSpec } from "../spec/decoder.ts";
import type { ExportResult } from "../slice/export.ts";
import type { FileBytes, MaskSummary, ModelBefore } from "./mask_summary.ts";
import type { PartSeconds } from "./parts_of_time.ts";
import type { LossChange, QualityChange } from "./quality.ts";
import { type ValidationSummary, validationSummary } from "./validation.ts";
import { type UndecidedUnits, undecidedUnits } from "./undecided.ts";
import type { ExpertsSummary } from "./experts/summary.ts";
import type { VocabularySummary } from "./vocabulary.ts";
import type { SizeResult } from "./size_goal.ts";
import type { VerifyResult } from "../slice/verify.ts";
import { refuse } from "../core/errors.ts";
import type { Model } from "../model/model.ts";
import { brokenAt } from "./monitors/find_cause.ts";
import type { Allocated, RunSetup } from "./allocate.ts";
import type { Trainer } from "./trainer.ts";

/**
 * What a finished run has learned. `slice()` and `export()` of the session use these same arrays: copy them before
 * changing them.
 */
export interface PruneResult {
  /** Weights to slice: the model's own, or with FLAP's compensation in their biases. */
  readonly source: WeightSource;
  /** Hard masks z: 0 for cut units; for kept ones 1, unless `keptMasks` or a hook set another value. */
  readonly masks: MaskValues;
  /** LoRA as trained. */
  readonly lora: LoraConfig & { readonly weights: LoraWeights };
  /** Sparsity in [0, 1]: the target, the expected one at the end of the pruning stage, and that of the hard masks. */
  readonly sparsity: { readonly target: number; readonly expected: number; readonly hard: number };
  /**
   * One number per unit, at the end of the pruning stage: log α of learned masks; for "gradual" the running mean of
   * squared gradients; for a one-shot method the rank. Values that a hook set after that stage replace it.
   */
  readonly logAlpha: Float32Array<ArrayBuffer>;
  /** The units. */
  readonly table: UnitTable;
  /** Units that the masks leave undecided; null if masks are not learned, or a script schedules them. */
  readonly undecided: UndecidedUnits | null;
  /** Held-out losses during the run; null if they were not measured. */
  readonly validation: ValidationSummary | null;
  /** How the rows were encoded. */
  readonly data: EncodeReport;
  /**
   * Up to 32 sequences for comparisons. They are not trained on, unless there are too few rows, or the held-out rows
   * are too long.
   */
  readonly heldout: readonly (readonly number[])[];
  /** Their labels, −100 where nothing is predicted; empty if they were trained on. */
  readonly heldoutLabels: readonly (readonly number[])[];
  /** Seconds of the steps, by stage, without the scoring before them and the choice of units after them. */
  readonly seconds: Readonly<Record<Stage, number>>;
  /** Tokens per second over all stages, without padding. */
  readonly tokensPerSecond: number;
  /** Largest GPU memory in use, bytes. */
  readonly peakGpuBytes: number;
  /** Planned peak of GPU memory, bytes; see `planMemory`. */
  readonly plannedGpuBytes: number;
  /** Alarms in order. Those of undone steps are left out, unless they caused a rollback. */
  readonly alarms: readonly Alarm[];
  /** Options that changed when the run was resumed, as `mayDiffer` allows. */
  readonly changes: readonly RunChange[];
}

/** The parts of a result that files and run.json contain. */
export type PruneOutcome = Omit<PruneResult, "table" | "logAlpha" | "heldout" | "heldoutLabels">;

/** A pruned model, physically smaller, not yet written. */
export interface SlicedModel {
  /** Weights of the smaller model. */
  readonly source: WeightSource;
  /** Shape of the smaller model. */
  readonly spec: DecoderSpec;
  /** Parameters of the whole model, before and after. */
  readonly parameters: { readonly before: number; readonly after: number };
  /** The requested and the reached size; null if a sparsity was requested. */
  readonly size: SizeResult | null;
  /** Masked and sliced model compared on held-out tokens, both in f32. */
  readonly maskedVsSliced: VerifyResult;
}

/** Contents of run.json. */
export interface RunSummary {
  /** Wanted, expected and reached sparsity. */
  readonly sparsity: PruneResult["sparsity"];
  /** Units that the masks leave undecided; see {@link PruneResult.undecided}. */
  readonly undecided: UndecidedUnits | null;
  /** Held-out losses during the run; null if they were not measured, and in files of older versions. */
  readonly validation: ValidationSummary | null;
  /** Parameters of the whole model, before and after. */
  readonly parameters: SlicedModel["parameters"];
  /** Parameters of the model in `files`, as {@link ExportResult.parameters} says: with the layout "padded" its zeros too. */
  readonly writtenParameters: number;
  /** Type of the GGUF's matrices; null if there is no GGUF. */
  readonly ggufDtype: GgufWriteType | null;
  /**
   * Number of matrices of the GGUF stored as f16 instead of a block type, because their rows are not a multiple of 32
   * values.
   */
  readonly fellBack: number;
  /** The requested and the reached size; null if a sparsity was requested. */
  readonly size: SlicedModel["size"];
  /**
   * Heads, KV heads and FFN columns of each layer. The files leave out layers that are cut whole and renumber the
   * others.
   */
  readonly layers: readonly LayerSpec[];
  /** Hidden size. */
  readonly hidden: number;
  /** Masked and sliced model compared: largest difference of their logits, and the range of the logits. */
  readonly maskedVsSliced: { readonly maxAbs: number; readonly range: number };
  /** Loss on held-out rows before and after, in nats; null if no rows are held out. */
  readonly heldoutLoss: LossChange | null;
  /** Loss on the text and scores of the tasks that the run was asked to measure, before and after. */
  readonly evaluation: Pick<QualityChange, "text" | "tasks">;
  /** What became of the vocabulary; null if it was not cut. */
  readonly vocabulary: VocabularySummary | null;
  /** What became of the experts; null if they were not cut. */
  readonly experts: ExpertsSummary | null;
  /** Seconds by stage. */
  readonly seconds: PruneResult["seconds"];
  /** Seconds of each part of the run, and what was predicted before its first step; null in files of older versions. */
  readonly parts: { readonly seconds: PartSeconds; readonly predicted: PartSeconds | null } | null;
  /**
   * Seconds from the start of the command or session to the writing of run.json: loading, calibration, compiling,
   * slicing and files included. For a resumed run, since it was resumed.
   */
  readonly wallSeconds: number;
  /** Steps done before the run was last resumed; 0 if it never was. */
  readonly resumedAfter: number;
  /** Tokens per second over all stages. */
  readonly tokensPerSecond: number;
  /** Largest GPU memory of the run, the comparison of masked and sliced model included, bytes. */
  readonly peakGpuBytes: number;
  /** Largest GPU memory that was planned before the first step, bytes. */
  readonly plannedGpuBytes: number;
  /** Alarms in order; see {@link PruneResult.alarms}. */
  readonly alarms: readonly Alarm[];
  /**
   * Warnings of the run: nothing was measured ("none"), or a loss or bits per byte rose to `ratio` times its value
   * before. The ratio is null for "none", and for a number that is not finite.
   */
  readonly warnings: readonly {
    readonly measure: "none" | "heldoutLoss" | "textLoss" | "heldoutBits" | "textBits";
    readonly ratio: number | null;
    readonly message: string;
  }[];
  /** Options that changed when the run was resumed; `options` and `inputs` are those at its end. */
  readonly changes: readonly RunChange[];
  /** Adapter that ran it. */
  readonly adapter: string;
  /** Versions of this toolkit and of Deno that ran it. */
  readonly versions: { readonly compresso: string; readonly deno: string };
  /** Rows used, cut and left out. */
  readonly data: PruneResult["data"];
  /** Options with all defaults filled in. */
  readonly options: Omit<ResolvedOptions, "rows" | "method"> & { readonly method: string };
  /** Digests and names of the inputs, as {@link SessionExportOptions.inputs} says. */
  readonly inputs: Readonly<Record<string, string>>;
  /** Names and sizes of the input files; empty if the program did not name them. */
  readonly origin: readonly OriginFile[];
  /** The model before pruning. */
  readonly before: ModelBefore;
  /** What was cut. */
  readonly masks: MaskSummary;
  /** Sizes of what was written. */
  readonly fileBytes: readonly FileBytes[];
  /** Files and the programs that load them. */
  readonly files: ExportResult["loadableBy"];
  /** Formats that cannot hold the model. */
  readonly skipped: readonly { readonly format: string; readonly reason: string }[];
}

/**
 * Refuses LoRA that is not finite at the end of a run: a hook may have written it after the last step that the monitor
 * `nan` sees. Throws `CompressoError("numeric")`.
 */
export async function checkTrained(trainer: Trainer): Promise<void> {
  for (const [name, values] of await trainer.loraWeights()) {
    const element = brokenAt(values);
    if (element < 0) continue;
    refuse("numeric", "cannot finish the run", {
      rule: "LoRA is finite once all steps are done",
      value: `${name}[${element}] is ${values[element]}`,
      fix: "check what hooks give to setLora",
    });
  }
}

/** Reads what a finished run has learned; `model` is the caller's. */
export async function readResult(
  { trainer, selector, plannedBytes }: Allocated,
  { table, options, original, report, heldout, heldoutLabels }: RunSetup,
  { model, position }: { readonly model: Model; readonly position: RunPosition },
): Promise<PruneResult> {
  await selector.settle();
  const { logAlpha, slots } = await trainer.save(), weights = await trainer.loraWeights();
  const { seconds, tokens, expected, target, alarms, changes = [] } = position;
  const total = Object.values(seconds).reduce((sum, value) => sum + value, 0);
  return {
    source: selector.source ?? model.source,
    masks: unpackMasks(table.spec, table.layout, slots),
    lora: { ...options.lora, weights },
    sparsity: {
      target: target ?? options.sparsity,
      expected: expected ?? NaN,
      hard: hardSparsity(table, keptUnits(table, slots)),
    },
    logAlpha,
    table,
    undecided: undecidedUnits(table, logAlpha, { ...options, schedule: original.schedule }),
    validation: validationSummary(position, options),
    data: report,
    heldout,
    heldoutLabels,
    seconds: {
      finetune: seconds["finetune"] ?? 0,
      prune: seconds["prune"] ?? 0,
      postfinetune: seconds["postfinetune"] ?? 0,
    },
    tokensPerSecond: total > 0 ? tokens / total : 0,
    peakGpuBytes: model.device.peakBytes,
    plannedGpuBytes: plannedBytes,
    alarms,
    changes,
  };
}

/** Refuses the result of a run that is not finished. */
export function refuseResult({ step }: RunPosition, { steps }: { readonly steps: number }): never {
  refuse("usage", "cannot give the result of the run", {
    rule: "the run is at its end",
    value: `step ${step} of ${steps}`,
    fix: step < steps
      ? "take its records to the last one first"
      : "let the loop over its records come to its end, instead of leaving it at the last one",
  });
}
