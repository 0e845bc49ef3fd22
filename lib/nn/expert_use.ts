// How often the tokens of a pass choose each expert, and what it adds to them.
import { expertNorms, expertUse } from "../../kernels/mod.ts";
import { existing } from "../core/guards.ts";
import type { Device } from "../gpu/device.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { type Plan, u32 } from "../gpu/plan.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { DecoderContext } from "./context.ts";
import type { ExpertActivations } from "./experts.ts";
import { strideOf } from "./padding.ts";

/** Sums over the tokens that chose an expert, for each expert of a layer. Weights are shares of a token's sum of weights. */
export interface ExpertSums {
  /** Number of the tokens. */
  readonly tokens: Float64Array<ArrayBuffer>;
  /** Σ w, with the router weight w of the expert. */
  readonly weight: Float64Array<ArrayBuffer>;
  /** Σ w · ‖y‖₂, with the expert's output y. */
  readonly output: Float64Array<ArrayBuffer>;
}

/** Statistics under way. Dispose them to free their buffers. */
export interface ExpertStatistics extends Disposable {
  /** Records the statistics of a pass; for `DecoderContext.observeExperts`. */
  readonly observe: NonNullable<DecoderContext["observeExperts"]>;
  /** Chooses the rows that count in the next run: flags [rows], 0 or 1. */
  choose(flags: Uint32Array<ArrayBuffer>): void;
  /** Adds the sums of the last run to those of a layer. */
  add(layer: number, to: ExpertSums): Promise<void>;
}

/** Sums of nothing. */
export function noSums(count: number): ExpertSums {
  return { tokens: new Float64Array(count), weight: new Float64Array(count), output: new Float64Array(count) };
}

/** Buffers for the statistics of passes of `rows` tokens. */
export function createExpertStatistics(
  device: Device,
  spec: Pick<DecoderSpec, "layers" | "router" | "hidden">,
  { rows }: { readonly rows: number },
): ExpertStatistics {
  const owned: DeviceBuffer[] = [], { topK } = existing(spec.router, "router");
  const floats = (label: string, count: number): DeviceBuffer => {
    const buffer = device.createBuffer(`experts: ${label}`, 4 * count);
    owned.push(buffer);
    return buffer;
  };
  const keep = floats("rows that count", rows), parts = floats("parts", 2 * rows * topK);
  const used = new Map<number, DeviceBuffer>();
  return {
    observe({ plan, act }, index): void {
      const count = spec.layers[index]?.experts?.count ?? 0, use = floats("use", 3 * count);
      used.set(index, use);
      plan.section("statistics");
      recordUse(plan, { ...existing(act.experts, "buffers of experts"), keep, parts, use }, {
        pairs: rows * topK,
        count,
        topK,
        hidden: spec.hidden,
      });
    },
    choose(flags): void {
      device.write(keep, flags);
    },
    async add(layer, { tokens, weight, output }): Promise<void> {
      const values = await device.readFloats(existing(used.get(layer), "statistics"), 3 * tokens.length);
      for (let expert = 0; expert < tokens.length; expert++) {
        const [count = NaN, share = NaN, norm = NaN] = values.subarray(3 * expert, 3 * expert + 3);
        tokens[expert] = (tokens[expert] ?? NaN) + count;
        weight[expert] = (weight[expert] ?? NaN) + share;
        output[expert] = (output[expert] ?? NaN) + norm;
      }
    },
    [Symbol.dispose](): void {
      for (const buffer of owned) buffer[Symbol.dispose]();
    },
  };
}

/** use (=) of the experts that a layer has just added; see `expert_norms.wgsl` and `expert_use.wgsl`. */
export function recordUse(
  plan: Plan,
  { weights, choice, slotOf, out, keep, parts, use }:
    & Pick<ExpertActivations, "weights" | "choice" | "slotOf" | "out">
    & {
      readonly keep: DeviceBuffer;
      readonly parts: DeviceBuffer;
      readonly use: DeviceBuffer;
    },
  { pairs, count, topK, hidden }: {
    readonly pairs: number;
    readonly count: number;
    readonly topK: number;
    readonly hidden: number;
  },
): void {
  const norms = [strideOf(hidden) / 4, topK].map(u32), sums = [pairs, count].map(u32);
  plan.dispatch(compileKernel(plan.device, expertNorms), [weights, slotOf, out, keep, parts, { params: norms }], {
    groups: [pairs],
    cost: 2 * pairs * hidden,
  });
  plan.dispatch(compileKernel(plan.device, expertUse), [choice, parts, use, { params: sums }], {
    groups: [Math.ceil(count / 64)],
    cost: 2 * pairs * count,
  });
}
