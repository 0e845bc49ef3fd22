// How much attention and whole layers change the residual stream of each token, on the GPU until it is read.
import { stateChangeKernel } from "../../kernels/mod.ts";
import type { Device } from "../gpu/device.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { u32 } from "../gpu/plan.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { DecoderContext, ObservedStates } from "./context.ts";
import { strideOf } from "./padding.ts";

/** Sums of a row; see `state_change.wgsl`. */
const SUMS = 3;

/** How much the attention of a layer, or the whole layer, changes the residual stream. */
export interface StateChange {
  readonly layer: number;
  readonly of: ObservedStates["of"];
  /** 1 − cosine of the stream before and after it [rows]. */
  readonly distances: Float64Array;
}

/** Measures of a pass. Dispose them to free their buffer. */
export interface StateChanges extends Disposable {
  /** Records the measures of a pass; for `DecoderContext.observeStates`. */
  readonly observe: NonNullable<DecoderContext["observeStates"]>;
  /** What the last run gave, in the order of recording. */
  read(): Promise<StateChange[]>;
}

/** A buffer for the measures of passes of `rows` rows. */
export function createStateChanges(
  device: Device,
  { layers, hidden }: Pick<DecoderSpec, "layers" | "hidden">,
  { rows }: { readonly rows: number },
): StateChanges {
  // Each layer has at most two.
  const changes = device.createBuffer("calibration changes", 4 * SUMS * rows * Math.max(1, 2 * layers.length));
  const found: Pick<StateChange, "layer" | "of">[] = [];
  return {
    observe({ plan }, layer, { of, before, after }): void {
      plan.section("statistics");
      const params = [strideOf(hidden) / 4, rows * found.length].map(u32);
      plan.dispatch(
        compileKernel(device, stateChangeKernel(device.facts.isCpu ? 8 : 64)),
        [before, after, changes, { params }],
        { groups: [rows], cost: 8 * rows * hidden },
      );
      found.push({ layer, of });
    },
    async read(): Promise<StateChange[]> {
      const values = await device.readFloats(changes, SUMS * rows * found.length);
      return found.map((own, index) => {
        const first = SUMS * rows * index, sums = values.subarray(first, first + SUMS * rows);
        const distances = Float64Array.from({ length: rows }, (_, row) => distanceOf(sums.subarray(SUMS * row)));
        return { ...own, distances };
      });
    },
    [Symbol.dispose]: () => changes[Symbol.dispose](),
  };
}

/** 1 − cosine of two rows from their sums. That of a row of zeros is 0 if both are, and else 1. */
export function distanceOf([squares = NaN, growth = NaN, size = NaN]: Iterable<number>): number {
  const before = Math.sqrt(size), after = Math.sqrt(Math.max(0, size + growth));
  if (squares === 0) return 0;
  if (before === 0 || after === 0) return 1;
  return (squares - (growth / (before + after)) ** 2) / (2 * before * after);
}
