// Runs a model layer by layer, with half a layer at a time on the GPU. The residual stream is kept in main memory.
import type { Device } from "../gpu/device.ts";
import { createInputStatistics, type InputMoments } from "../nn/column_stats.ts";
import type { ObservedInput, Pass } from "../nn/context.ts";
import { recordLayer } from "../nn/decoder.ts";
import { createExpertStatistics, type ExpertSums } from "../nn/expert_use.ts";
import { strideOf } from "../nn/padding.ts";
import { createPass } from "../nn/pass.ts";
import { IDLE_STATE, writeStepState } from "../nn/train/step_state.ts";
import type { BaseDtype } from "../nn/weights.ts";
import { loadWeights, type Weights } from "../nn/weights.ts";
import { type Adapters, writeAdapters } from "../model/input.ts";
import { type AdaptedSource, layerParts } from "../model/parts.ts";
import { EMBEDDING, PROJECT_IN } from "../spec/decoder.ts";

/** Sequences that run together, and the rows of their tokens: row `sequence · seq + token`. */
export interface Group {
  readonly batch: number;
  readonly seq: number;
  /** Tokens by sequence. The rest of a sequence is padding, which no token attends to. */
  readonly pieces: readonly (readonly number[])[];
  /** Rows that contain a token. */
  readonly rows: readonly number[];
}

/** Device and groups of a run. */
export interface RunInput {
  readonly device: Device;
  readonly groups: readonly Group[];
  readonly signal: AbortSignal | undefined;
  /** Called with statistics of the inputs of a layer's projections, and the number of rows that contain tokens. */
  readonly onInputs?: ((moments: readonly InputMoments[], count: number) => void) | undefined;
  /** Sums over the use of the layer's experts, to which that of these groups is added. */
  readonly use?: ExpertSums | undefined;
  /** Storage of the weights on the GPU. Default "f32". */
  readonly baseDtype?: BaseDtype | undefined;
}

const INPUTS: readonly ObservedInput["of"][] = ["attention", "o", "ffn", "down"];

function flagsOf(rows: readonly number[], count: number): Uint32Array<ArrayBuffer> {
  const flags = new Uint32Array(count);
  for (const row of rows) flags[row] = 1;
  return flags;
}

/** The masked embedding of the tokens of each group [rows, hidden]. */
export async function embedded(
  { source, adapters }: AdaptedSource,
  { groups, signal }: RunInput,
): Promise<Float32Array<ArrayBuffer>[]> {
  const { hidden, scales: { embedding: scale = 1 } = {} } = source.spec, z = adapters.masks?.hidden;
  const projection = source.spec.embeddingWidth === undefined ? null : await source.read(PROJECT_IN);
  const known = new Map<number, Float32Array>();
  for (const token of new Set(groups.flatMap(({ pieces }) => pieces.flat()))) {
    signal?.throwIfAborted();
    const stored = await source.read(EMBEDDING, { start: token, count: 1 });
    const row = projection ? projected(stored, { projection, hidden }) : stored;
    known.set(token, row.map((value, dim) => value * scale * (z?.[dim] ?? 1)));
  }
  return groups.map(({ batch, seq, pieces }) => {
    const states = new Float32Array(batch * seq * hidden);
    pieces.forEach((piece, sequence) =>
      piece.forEach((token, at) => states.set(known.get(token) ?? [], (sequence * seq + at) * hidden))
    );
    return states;
  });
}

/** W·row of a matrix [hidden, row.length]. */
function projected(
  row: Float32Array,
  { projection: w, hidden }: { readonly projection: Float32Array; readonly hidden: number },
): Float32Array<ArrayBuffer> {
  return Float32Array.from(
    { length: hidden },
    (_, dim) => row.reduce((sum, value, i) => sum + value * (w[dim * row.length + i] ?? NaN), 0),
  );
}

/** The residual stream of each group after a layer [rows, hidden]. */
export async function layerOutputs(
  side: AdaptedSource,
  index: number,
  { inputs, ...run }: RunInput & { readonly inputs: readonly States[] },
): Promise<readonly States[]> {
  let states = inputs;
  await eachPart(side, index, run, async (part) => {
    states = await part.outputs({ ...run, inputs: states });
  });
  return states;
}

/** The residual stream of a group [rows, hidden]. */
export type States = Float32Array<ArrayBuffer>;

/** States that run through a part of a layer, in groups of one shape. */
export interface PartInput extends Pick<RunInput, "groups" | "onInputs" | "use"> {
  readonly inputs: readonly States[];
  /** The experts that tokens may choose. Default: all. */
  readonly experts?: readonly number[] | null | undefined;
}

/** A part of a layer whose weights are on the GPU. */
export interface LoadedPart {
  readonly hasExperts: boolean;
  /** The residual stream of each group after it. */
  outputs(input: PartInput): Promise<States[]>;
}

/** Loads the parts of a layer in turn, and calls `work` with each. Its weights are freed before the next are loaded. */
export async function eachPart(
  side: AdaptedSource,
  index: number,
  { device, baseDtype = "f32", signal }: Pick<RunInput, "device" | "baseDtype" | "signal">,
  work: (part: LoadedPart) => Promise<void>,
): Promise<void> {
  for (const { source, adapters } of layerParts(side, index)) {
    using weights = await loadWeights(device, source, { baseDtype, signal });
    const hasExperts = weights.spec.layers[0]?.experts !== undefined;
    await work({
      hasExperts,
      outputs: async ({ experts, ...input }) => {
        const own = hasExperts && experts ? { ...adapters, experts: [experts] } : adapters;
        return await partOutputs(weights, own, { device, signal, ...input });
      },
    });
  }
}

/** The output of a one-layer model. */
async function partOutputs(
  weights: Weights,
  adapters: Adapters,
  { device, groups, signal, inputs, onInputs, use }: RunInput & { readonly inputs: readonly States[] },
): Promise<States[]> {
  const { spec } = weights, [shape] = groups;
  using pass = createPass(device, weights, {
    batch: shape?.batch ?? 1,
    seq: shape?.seq ?? 1,
    lora: adapters.lora ?? null,
  });
  writeAdapters(device, pass, { ...adapters, spec });
  writeStepState(device, pass.state, IDLE_STATE);
  const context = pass.plan();
  using plan = context.plan;
  using statistics = onInputs ? createInputStatistics(device, spec, { rows: pass.act.rows, of: INPUTS }) : null;
  const sums = use && spec.layers[0]?.experts ? use : null;
  using ofExperts = sums ? createExpertStatistics(device, spec, { rows: pass.act.rows }) : null;
  recordLayer({
    ...context,
    ...statistics ? { observe: statistics.observe } : {},
    ...ofExperts ? { observeExperts: ofExperts.observe } : {},
  }, 0);
  const output = pass.act.x[1];
  const outputs: States[] = [];
  for (const [index, input] of inputs.entries()) {
    signal?.throwIfAborted();
    const flags = flagsOf(groups[index]?.rows ?? [], pass.act.rows);
    statistics?.choose(flags);
    ofExperts?.choose(flags);
    writeInput(pass, input);
    await plan.run();
    if (sums) await ofExperts?.add(0, sums);
    const stride = strideOf(spec.hidden);
    const stored = output ? await device.readFloats(output, pass.act.rows * stride) : new Float32Array(0);
    outputs.push(columns(stored, { stride, width: spec.hidden }));
  }
  if (statistics) onInputs?.(await statistics.read(), statistics.count);
  return outputs;
}

/** Writes the input of the first layer of the pass, [rows, hidden]. */
export function writeInput({ device, act, weights }: Pass, states: Float32Array): void {
  const { hidden } = weights.spec, stride = strideOf(hidden), [x] = act.x;
  const stored = new Float32Array(act.rows * stride);
  for (let row = 0; row < act.rows; row++) {
    stored.set(states.subarray(row * hidden, (row + 1) * hidden), row * stride);
  }
  if (x) device.write(x, stored);
}

/** The first `width` columns. */
export function columns(
  stored: Float32Array,
  { stride, width }: { readonly stride: number; readonly width: number },
): Float32Array<ArrayBuffer> {
  const rows = stored.length / stride, values = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) values.set(stored.subarray(row * stride, row * stride + width), row * width);
  return values;
}

/**
 * Groups of a shape that does not depend on the sequences, so that a plan can assume it. The last group may have fewer
 * pieces.
 */
export function grouped(
  tokens: readonly (readonly number[])[],
  { window, rows }: { readonly window: number; readonly rows: number },
): Group[] {
  const pieces = tokens.flatMap((sequence) =>
    Array.from(
      { length: Math.ceil(sequence.length / window) },
      (_, piece) => sequence.slice(piece * window, (piece + 1) * window),
    )
  );
  const batch = Math.max(1, Math.floor(rows / window));
  return Array.from({ length: Math.ceil(pieces.length / batch) }, (_, index) => {
    const own = pieces.slice(index * batch, (index + 1) * batch);
    return {
      batch,
      seq: window,
      pieces: own,
      rows: own.flatMap((piece, sequence) => piece.map((_, at) => sequence * window + at)),
    };
  });
}
