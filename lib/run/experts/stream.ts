// Cuts experts layer by layer: half a layer's weights at a time are on the GPU, the states of all tokens in main memory.
import type { Device } from "../../gpu/device.ts";
import type { AdaptedSource } from "../../model/parts.ts";
import { noSums } from "../../nn/expert_use.ts";
import type { KeptExperts } from "../../nn/experts.ts";
import type { BaseDtype } from "../../nn/weights.ts";
import { eachPart, embedded, type Group, type LoadedPart, type States } from "../../slice/by_layers.ts";
import { type ExpertUse, type LayerUse, meansOf } from "../../slice/expert_use.ts";
import { keepExperts } from "../../slice/experts.ts";
import { SlicedComparison, type VerifyResult } from "../../slice/verify.ts";
import type { WeightSource } from "../../spec/source.ts";
import type { PartTimer } from "../parts_of_time.ts";

/** How a model is cut layer by layer. */
export interface Streaming {
  readonly device: Device;
  readonly baseDtype: BaseDtype;
  readonly signal: AbortSignal | undefined;
  /** Tokens on which the experts are scored; null if their scores need none. */
  readonly scored: readonly Group[] | null;
  /** Sets of sequences of one length, on which the whole and the cut model are measured. */
  readonly measured: readonly (readonly Group[])[];
  /** Tokens on which the model with experts left out is compared with the model without them. */
  readonly compared: readonly Group[];
  /** Chooses the experts that a layer keeps. `use` is how the scored tokens use them; null without such tokens. */
  readonly choose: (layer: number, use: LayerUse | null) => Promise<readonly number[]>;
  readonly timer: PartTimer;
  /** Called with the share of the layers that is done, from 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

/** A model cut layer by layer. */
export interface Streamed {
  readonly kept: KeptExperts;
  /** How the scored tokens use the experts; null without such tokens. */
  readonly use: ExpertUse | null;
  readonly maskedVsSliced: VerifyResult;
  /** The residual stream after the last layer of each group of each measured set, of the whole and of the cut model. */
  readonly before: readonly (readonly States[])[];
  readonly after: readonly (readonly States[])[];
}

/**
 * Scores, chooses and compares the experts of each layer in turn. Each matrix of the whole model is read once for that,
 * and each of the cut one once.
 *
 * @throws CompressoError("numeric") if what experts add is not finite.
 * @throws CompressoError("mismatch") if the model with experts left out and the model without them differ.
 */
export async function streamCut(source: WeightSource, how: Streaming): Promise<Streamed> {
  const { device, baseDtype, signal, measured, compared, choose, timer } = how, { spec } = source;
  const load = { device, baseDtype, signal }, whole: AdaptedSource = { source, adapters: {} };
  const begin = (groups: readonly Group[], of = source): Promise<States[]> =>
    embedded({ source: of, adapters: {} }, { device, groups, signal });
  // A layer keeps all its experts until its turn comes.
  const kept = spec.layers.map(({ experts }): readonly number[] | null => experts ? allOf(experts.count) : null);
  const layers: (LayerUse | null)[] = spec.layers.map(() => null);
  let scored: readonly States[] | null = how.scored && await begin(how.scored);
  let before: readonly (readonly States[])[] = await inTurn(measured, (groups) => begin(groups)), after = before;
  let masked: readonly States[] = await begin(compared);
  let sliced: readonly States[] = await begin(compared, keepExperts(source, kept));
  const comparison = new SlicedComparison(whole, { groups: compared, width: spec.hidden });
  comparison.compare("the embedding", masked, sliced);
  const last = spec.layers.findLastIndex(({ experts }) => experts);
  for (const [index, { experts }] of spec.layers.entries()) {
    const sums = experts && scored ? noSums(experts.count) : undefined;
    await eachPart(whole, index, load, async (part) => {
      if (scored && how.scored) scored = await part.outputs({ groups: how.scored, inputs: scored, use: sums });
      if (part.hasExperts) {
        const use = sums ? meansOf(index, sums) : null;
        layers[index] = use;
        kept[index] = await choose(index, use);
      }
      before = await timer.during("quality", () => measuredBy(part, measured, before));
      const open = { groups: compared, inputs: masked, experts: kept[index] };
      masked = await timer.during("check", () => part.outputs(open));
    });
    await eachPart({ source: keepExperts(source, kept), adapters: {} }, index, load, async (part) => {
      after = await timer.during("quality", () => measuredBy(part, measured, after));
      sliced = await timer.during("check", () => part.outputs({ groups: compared, inputs: sliced }));
    });
    comparison.compare(`the output of layer ${index}`, masked, sliced);
    // What the last experts give is scored by no later layer.
    if (index >= last) scored = null;
    how.onProgress?.((index + 1) / spec.layers.length);
  }
  const ends = { device, signal, expected: masked, actual: sliced };
  const maskedVsSliced = await timer.during("check", () => comparison.result(keepExperts(source, kept), ends));
  const tokens = how.scored?.reduce((sum, { rows }) => sum + rows.length, 0) ?? 0;
  return { kept, use: how.scored ? { tokens, layers } : null, maskedVsSliced, before, after };
}

function allOf(count: number): number[] {
  return Array.from({ length: count }, (_, expert) => expert);
}

async function measuredBy(
  part: LoadedPart,
  sets: Streaming["measured"],
  states: readonly (readonly States[])[],
): Promise<States[][]> {
  return await inTurn(sets, (groups, at) => part.outputs({ groups, inputs: states[at] ?? [] }));
}

/** Results of work on each item, one after the other. */
async function inTurn<T, R>(items: readonly T[], work: (item: T, at: number) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (const [at, item] of items.entries()) results.push(await work(item, at));
  return results;
}
