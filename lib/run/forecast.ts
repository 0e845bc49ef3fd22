// Predicts the time of a run before its first step, from a short measurement of the device.
import type { Device } from "../gpu/device.ts";
import { loadModelFrom, type Model } from "../model/model.ts";
import type { BaseDtype } from "../nn/weights.ts";
import { comparesWithDense } from "../nn/train/objective.ts";
import { FORMATS } from "../slice/export_options.ts";
import { comparedCount } from "../slice/verify.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { WeightSource } from "../spec/source.ts";
import { CALIBRATION_SEQUENCES, calibrationDefault, calibrationTexts } from "./calibration.ts";
import { MOST_WINDOWS, WINDOW } from "./evaluation.ts";
import { ofLayers, zeros } from "./memory/plan.ts";
import { methodOf } from "./methods/all.ts";
import { scoresOnRows } from "./methods/method.ts";
import { stagesOf } from "./methods/stages.ts";
import type { ResolvedOptions } from "./options/options.ts";
import { trainsNothing } from "./options/resolve.ts";
import type { PartSeconds } from "./parts_of_time.ts";
import type { FolderOptions } from "./prune_to_folder.ts";
import { measuredSequences, STEP_COST } from "./quality.ts";
import { resolvedFor, type RunIntoOptions } from "./run_into.ts";

/** Seconds that a model of some shape takes on a device. */
export interface DeviceSpeed {
  /** To load its weights. */
  readonly load: number;
  /** For a forward pass over the sequences of a step. */
  readonly forward: number;
}

/** The options that time depends on. */
export type ForecastOptions = Pick<
  ResolvedOptions,
  | "batch"
  | "seq"
  | "accumulate"
  | "focus"
  | "objective"
  | "method"
  | "rounds"
  | "check"
  | "steps"
  | "prefinetune"
  | "postfinetune"
>;

/** What a run writes and measures besides its steps. */
export interface ForecastParts {
  /** Number of files: a folder, a GGUF or both. */
  readonly formats: number;
  /** Whether the model writes its calibration texts. */
  readonly writesTexts: boolean;
  /** Whether a text is measured. */
  readonly hasText: boolean;
  /** Processes that share the steps; default 1. */
  readonly ranks?: number | undefined;
}

/**
 * Measures how fast a device runs a model of this shape, in the time of some layers: with one layer and its share of the
 * vocabulary, and with two, whose difference is the time of a further one. The weights are 0.
 *
 * @throws CompressoError("gpu") where the layers do not fit.
 */
export async function measureSpeed(
  device: Device,
  spec: DecoderSpec,
  how: {
    readonly batch: number;
    readonly seq: number;
    readonly baseDtype?: BaseDtype | undefined;
    /** Types of the tensors in their file, which a base of the file's blocks follows. */
    readonly storedDtype?: WeightSource["storedDtype"] | undefined;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<DeviceSpeed> {
  const count = spec.layers.length, { storedDtype } = how;
  const part = async (layers: number): Promise<DeviceSpeed> => {
    const places = Array.from({ length: layers }, (_, at) => count - layers + at);
    const [shape, types] = ofLayers(spec, { storedDtype, places });
    return await timed(zeros({ ...shape, vocab: Math.ceil(spec.vocab * layers / count) }, types), { device, ...how });
  };
  if (count <= 2) return await part(count);
  const one = await part(1), two = await part(2);
  const whole = (of: keyof DeviceSpeed): number => one[of] + (count - 1) * Math.max(0, two[of] - one[of]);
  return { load: whole("load"), forward: whole("forward") };
}

async function timed(
  source: WeightSource,
  { device, batch, seq, baseDtype = "f16", signal }: Parameters<typeof measureSpeed>[2] & { readonly device: Device },
): Promise<DeviceSpeed> {
  const start = performance.now();
  using model = await loadModelFrom(source, { device, baseDtype, signal });
  const load = performance.now() - start, tokens = new Uint32Array(batch * seq), labels = new Int32Array(batch * seq);
  const pass = async (): Promise<number> => {
    const from = performance.now();
    await model.tokenLosses(tokens, labels, { batch, signal });
    return performance.now() - from;
  };
  await pass(); // compiles kernels
  return { load: load / 1000, forward: await pass() / 1000 };
}

/**
 * Predicts the seconds of a run's parts, by the options of `prune` or `pruneToFolder`, from a short measurement of the
 * device: of some layers of the model's shape, which need GPU memory in addition to the model. What the user's tasks,
 * hooks and schedules take is not counted. Null for a run that trains nothing. Given to the run as `export.forecast`,
 * the result stands in its run.json next to the seconds that were measured.
 *
 * @throws CompressoError("usage") for options out of range
 * @throws CompressoError("gpu") if the layers do not fit
 * @example
 * ```ts
 * import { demoData, loadModel, openDevice, readRows } from "compresso";
 * import { forecast } from "compresso/run";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { rows } = await readRows(demoData("train"));
 * const parts = await forecast(model, { rows, sparsity: 0.3, steps: 200 });
 * if (!parts || parts.steps <= 0) throw new Error("no time for the steps");
 * ```
 */
export async function forecast(
  model: Model,
  options: RunIntoOptions & Partial<FolderOptions>,
): Promise<PartSeconds | null> {
  const { out: _out, checkpointEvery: _every, resume: _resume, mayDiffer: _may, onReady: _ready, ...into } = options;
  const { identity: _identity, onStart: _start, onRecord: _record, onPhase: _phase, onCalibration: _texts, ...run } =
    into;
  const { evaluate, ranks, signal, calibration, export: { formats = FORMATS } = {} } = run;
  const resolved = resolvedFor(model.source, run);
  if (trainsNothing(resolved)) return null;
  const { batch, seq } = resolved, { device, spec, source, baseDtype } = model;
  const storedDtype = (name: string): string => source.storedDtype(name);
  const usual = calibrationDefault(resolved, { resume: false, areThere: false });
  return forecastRun(await measureSpeed(device, spec, { batch, seq, baseDtype, storedDtype, signal }), resolved, {
    formats: formats.length,
    writesTexts: (calibration ?? usual) === "own",
    hasText: evaluate?.text !== undefined,
    ranks: ranks?.size,
  });
}

/** Time of writing a token over that of reading it in a step's batch; on the demo and llvmpipe. */
const WRITE_COST = 2;

/** Predicted seconds of a run's parts. What a user's tasks, hooks and schedules take is not known, and not counted. */
export function forecastRun(
  { load, forward }: DeviceSpeed,
  options: ForecastOptions,
  { formats, writesTexts, hasText, ranks = 1 }: ForecastParts,
): PartSeconds {
  const { batch, seq, accumulate, focus, objective, method, rounds, check } = options, sequence = forward / batch;
  const how = methodOf(method), more = comparesWithDense(objective) ? 1 : 0;
  const steps = stagesOf(options).reduce((sum, { stage, steps }) => {
    const passes = STEP_COST + more + (stage === "postfinetune" && focus < 1 ? 1 : 0);
    return sum + steps * Math.ceil(accumulate / ranks) * passes;
  }, 0);
  const batches = Math.ceil(CALIBRATION_SEQUENCES / batch);
  const scored = !scoresOnRows(how) ? 0 : how.kind === "learned" ? 2 * batches : rounds * batches;
  const texts = hasText ? MOST_WINDOWS * WINDOW / seq : 0;
  return {
    reading: load,
    preparing: writesTexts ? calibrationTexts(options) * WRITE_COST * sequence : 0,
    steps: forward * (steps + scored * STEP_COST),
    check: 2 * (load + sequence * comparedCount(seq, check) / seq),
    quality: 2 * (measuredSequences(options) + texts) * sequence,
    writing: formats * load,
  };
}
