// What a sweep came to: size and quality of the model at each sparsity, and the knee of the curve.
import { outputBiasSpec } from "../masks/baselines_bias.ts";
import { compensates } from "../run/methods/all.ts";
import { CompressoError } from "../core/errors.ts";
import type { TaskScore } from "../eval/metrics.ts";
import type { GgufWriteType } from "../formats/gguf/mixes.ts";
import type { Model } from "../model/model.ts";
import type { GgufDtype } from "../slice/export_options.ts";
import { ggufDtypeFor } from "../slice/export_options.ts";
import { shapeWritten } from "../slice/layouts.ts";
import type { LossChange, QualityChange } from "../run/quality.ts";
import type { RunSummary } from "../run/result.ts";
import { GGUF_NAME } from "../run/size_goal.ts";
import { type DecoderSpec, parameterCount } from "../spec/decoder.ts";
import { fileBytes } from "../units/file_size.ts";

/** Size of a model. */
export interface SweepSize {
  /** Parameters of the whole model. */
  readonly parameters: number;
  /** Bytes of its GGUF, written or not; null if no GGUF can hold it. */
  readonly bytes: number | null;
}

/** The model at one sparsity. */
export interface SweepPoint extends SweepSize {
  /** Sparsity asked for. */
  readonly sparsity: number;
  /** Sparsity reached. */
  readonly hard: number;
  /** Quality on held-out rows, before pruning and at this sparsity; null if none are held out. */
  readonly heldout: LossChange | null;
  /** The same on a text; null if none was given. */
  readonly text: LossChange | null;
  /** The same on tasks, by name. */
  readonly tasks: QualityChange["tasks"];
  /** Folder of its run. */
  readonly folder: string;
}

/** What a sweep came to. */
export interface SweepResult {
  /** How units were chosen. */
  readonly method: string;
  /** The model before pruning. */
  readonly dense: SweepSize;
  /** Type of the GGUFs that bytes are of. */
  readonly ggufDtype: GgufWriteType;
  /** By sparsity. */
  readonly points: readonly SweepPoint[];
  /** The point past which pruning costs more than average, see the guide on sweeps; null if there is none. */
  readonly knee: SweepPoint | null;
}

/** The measures of one sparsity from the summary of its run. */
export function sweepPoint(
  model: Model,
  { sparsity, parameters, layers, hidden, heldoutLoss, evaluation, options }: RunSummary,
  { folder, ggufDtype }: { readonly folder: string; readonly ggufDtype?: GgufDtype | undefined },
): SweepPoint {
  const base = compensates(options.method) ? outputBiasSpec(model.spec) : model.spec;
  return {
    sparsity: sparsity.target,
    hard: sparsity.hard,
    parameters: parameters.after,
    bytes: bytesOf(model, shapeWritten({ ...base, layers, hidden }, options.layout), ggufDtype),
    heldout: heldoutLoss,
    text: evaluation.text,
    tasks: evaluation.tasks,
    folder,
  };
}

/** The result of a sweep from its points. */
export function sweepResult(
  model: Model,
  points: readonly SweepPoint[],
  { method, ggufDtype }: { readonly method: string; readonly ggufDtype?: GgufDtype | undefined },
): SweepResult {
  const index = kneeOf(points.map((point) => ({ cut: point.hard, ...lossOf(point) })));
  return {
    method,
    dense: { parameters: parameterCount(model.spec), bytes: bytesOf(model, model.spec, ggufDtype) },
    ggufDtype: ggufDtypeFor(model.source, { ggufDtype: ggufDtype ?? "auto" }),
    points,
    knee: index === null ? null : points[index] ?? null,
  };
}

/** Quality by which points are compared: loss of the text where there is one, else of held-out rows. */
export function lossOf({ text, heldout }: Pick<SweepPoint, "text" | "heldout">): { before: number; after: number } {
  const { before, after } = text ?? heldout ?? { before: NaN, after: NaN };
  return { before, after };
}

/** Accuracy before and at a point. */
export function accuracyOf({ tasks }: Pick<SweepPoint, "tasks">, task: string): readonly [TaskScore, TaskScore] | null {
  const found = tasks[task];
  return found ? [found.before, found.after] : null;
}

/** How far below the straight line a knee lies at least. */
const LEAST_BEND = 0.05;

/**
 * Index of the knee of a curve of loss over sparsity: past it, pruning costs more than average. Both axes are scaled to
 * go from 0, the model before pruning, to 1, the last point. The knee is the point farthest below the straight line from
 * 0 to 1, as in Satopää et al., "Finding a 'Kneedle' in a Haystack" (2011). Returns null if the loss does not rise, if
 * there are fewer than two points, and if no point lies 0.05 below the line.
 */
export function kneeOf(
  points: readonly { readonly cut: number; readonly before: number; readonly after: number }[],
): number | null {
  const last = points.at(-1), rise = last ? last.after - last.before : NaN;
  if (!last || !(rise > 0) || points.length < 2) return null;
  let knee: number | null = null, most = LEAST_BEND;
  for (const [index, { cut, before, after }] of points.slice(0, -1).entries()) {
    const bend = cut / last.cut - (after - before) / rise;
    if (bend <= most) continue;
    knee = index;
    most = bend;
  }
  return knee;
}

/** Bytes of the GGUF of a shape. */
function bytesOf(model: Model, spec: DecoderSpec, ggufDtype: GgufDtype = "auto"): number | null {
  const { tokenizer, source } = model, dtype = ggufDtypeFor(source, { ggufDtype });
  try {
    return fileBytes(spec, { format: "gguf", dtype }, { tokenizer, name: GGUF_NAME, provenance: source.provenance });
  } catch (error) {
    if (error instanceof CompressoError) return null;
    throw error;
  }
}

/** Whether a loss was measured, on held-out rows or a text. Without one there is no knee and no chart. */
export function hasLosses({ points }: Pick<SweepResult, "points">): boolean {
  return points.some(({ heldout, text }) => (heldout ?? text) !== null);
}
