// The part that runs without steps have in common: what a result says where nothing was trained, and the way to files.
import type { EncodeReport } from "../data/encode_report.ts";
import type { WeightSource } from "../spec/source.ts";
import { exportRun, type RunToWrite } from "./export_run.ts";
import type { FinishedRun } from "./finish.ts";
import type { ResolvedOptions } from "./options/options.ts";
import { PartTimer } from "./parts_of_time.ts";
import type { PruneOutcome } from "./result.ts";
import type { DoneRun } from "./sink/sink.ts";

/** A run without steps. */
export interface UntrainedRun extends Pick<RunToWrite, "model" | "dense" | "kept" | "scores" | "files"> {
  readonly options: ResolvedOptions;
  readonly hooks: RunToWrite["hooks"] | undefined;
  readonly sequences: RunToWrite["sequences"];
  readonly signal: AbortSignal;
  /** Cuts and measures; asked once. */
  readonly finish: (timer: PartTimer) => Promise<FinishedRun>;
}

/** The run as a sink takes it. Its time starts here. */
export function untrainedRun({ hooks = {}, finish, ...run }: UntrainedRun): DoneRun {
  const startedAt = performance.now(), timer = new PartTimer();
  let finished: FinishedRun | null = null;
  const once = async (): Promise<FinishedRun> => finished ??= await finish(timer);
  return {
    slice: once,
    export: async (dir, options = {}) =>
      await exportRun(dir, options, {
        ...run,
        hooks,
        records: [],
        before: { step: 0, recent: [] },
        startedAt,
        timer,
        finish: once,
      }),
  };
}

/** What a run without steps has learned: no masks, LoRA of no weights, and no alarms. */
export function untrainedOutcome(
  source: WeightSource,
  { lora, data, sparsity, peakBytes, plannedBytes = peakBytes }: {
    readonly lora: ResolvedOptions["lora"];
    readonly data: EncodeReport;
    readonly sparsity: PruneOutcome["sparsity"];
    readonly peakBytes: number;
    /** Default: the peak itself. */
    readonly plannedBytes?: number;
  },
): PruneOutcome {
  return {
    source,
    masks: {},
    lora: { ...lora, weights: new Map() },
    sparsity,
    undecided: null,
    validation: null,
    data,
    seconds: { finetune: 0, prune: 0, postfinetune: 0 },
    tokensPerSecond: 0,
    peakGpuBytes: peakBytes,
    plannedGpuBytes: plannedBytes,
    alarms: [],
    changes: [],
  };
}
