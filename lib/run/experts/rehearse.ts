// Runs a cut of experts on a device that only counts, for its memory plan.
import type { Device } from "../../gpu/device.ts";
import type { BaseDtype } from "../../nn/weights.ts";
import { eachPart, grouped } from "../../slice/by_layers.ts";
import { verifyShape } from "../../slice/verify.ts";
import type { WeightSource } from "../../spec/source.ts";
import { WINDOW } from "../evaluation.ts";
import type { MethodChoice } from "../methods/all.ts";
import { nameOfMethod } from "../methods/all.ts";
import { scoresExperts, scoresUse } from "../methods/experts.ts";
import type { ResolvedMemory } from "../options/options.ts";
import { PartTimer } from "../parts_of_time.ts";
import type { MeasuredRow } from "../quality.ts";
import { groupOf, measureAtHead } from "./at_head.ts";
import { PASS_ROWS, scoredGroups } from "./measure.ts";
import { streamCut } from "./stream.ts";

/** Options of a run that the memory of its cut depends on. */
export interface CutToRehearse extends Pick<ResolvedMemory, "batch" | "seq" | "check" | "method"> {
  readonly baseDtype: BaseDtype;
}

/**
 * Walks through the layers of a model whose weights are 0, as a cut with rows and a text does. Layers of the same shape
 * need be there once. Returns the most bytes of weights that are on the GPU at once.
 */
export async function rehearseLayers(device: Device, source: WeightSource, run: CutToRehearse): Promise<number> {
  const { spec } = source, { baseDtype, seq } = run, load = { device, baseDtype, signal: undefined };
  let weights = 0;
  for (const index of spec.layers.keys()) {
    await eachPart({ source, adapters: {} }, index, load, () => {
      weights = Math.max(weights, device.bytes);
      return Promise.resolve();
    });
  }
  await streamCut(source, {
    ...load,
    // As many sequences as a pass has at most.
    scored: readsRows(run.method)
      ? scoredGroups(Array.from({ length: Math.ceil(PASS_ROWS / seq) }, () => [0]), { spec, seq })
      : null,
    measured: rowsOf(run, source).map((row) => [groupOf(row)]),
    compared: grouped([[0]], verifyShape(run)),
    choose: (layer) => Promise.resolve([...Array(spec.layers[layer]?.experts?.count ?? 0).keys()]),
    timer: new PartTimer(),
  });
  return weights;
}

/** Measures a sequence of the rows and a window of a text at the output head of a model whose weights are 0. */
export async function rehearseHead(device: Device, source: WeightSource, run: CutToRehearse): Promise<void> {
  const { baseDtype } = run, sets = rowsOf(run, source);
  const states = sets.map(({ seq }) => [new Float32Array(seq * source.spec.hidden)]);
  await measureAtHead(
    source,
    sets.map((row, at) => ({ rows: [row], before: states[at] ?? [], after: states[at] ?? [] })),
    { device, baseDtype, signal: undefined },
  );
}

function rowsOf({ seq }: CutToRehearse, { spec }: WeightSource): MeasuredRow[] {
  return [seq, Math.min(WINDOW, spec.maxPosition)].map((length) => ({
    tokens: [0, 0],
    labels: [-100, 0],
    seq: length,
  }));
}

/** Whether the experts are scored on rows by a method; by the default they are. */
function readsRows(method: MethodChoice): boolean {
  const name = nameOfMethod(method);
  return !scoresExperts(name) || scoresUse(name);
}
