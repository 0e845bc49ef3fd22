// Gradients by channel of o_proj's inputs, which masks of heads sum up. Owns the buffer that gathers them; refuses what is made of them.
import type { DecoderContext } from "../nn/decoder.ts";
import { strideOf } from "../nn/layout.ts";
import { slotSlice } from "../nn/masks.ts";
import { recordPartialSums } from "../nn/ops.ts";
import type { Pass } from "../nn/pass.ts";
import { headWidths, unpadHeads } from "../nn/weights.ts";

/** Where gradients by channel are gathered; dispose it to free its buffer. */
export interface ChannelProbe extends Disposable {
  /** For the context of a plan with gradients. */
  readonly observe: NonNullable<DecoderContext["observeChannels"]>;
  /** What the last run of that plan gave: see `ChannelGradients`. */
  read(): Promise<Float32Array[]>;
}

/** Allocates the sums of every layer of a pass. */
export function createChannelProbe({ device, weights: { spec }, act: { rows } }: Pass): ChannelProbe {
  let count = 0;
  const parts = spec.layers.map((layer) => {
    const first = count, width = headWidths(spec, layer).q;
    count += strideOf(width);
    return { first, width, logical: layer.heads * spec.headDim };
  });
  // The sums of squares go with them.
  const sums = device.createBuffer("channel gradients", 2 * 4 * Math.max(count, strideOf(1)));
  return {
    observe: ({ plan, act }, index, width): void => {
      const first = parts[index]?.first ?? 0;
      const into = { dz: slotSlice(sums, first, width), squares: slotSlice(sums, count + first, width) };
      recordPartialSums(plan, act.partial, into, { rows, width, groupWidth: 1, accumulate: false });
    },
    async read(): Promise<Float32Array[]> {
      const values = await device.readFloats(sums, Math.max(count, 1));
      return parts.map(({ first, width, logical }) =>
        logical === 0 ? new Float32Array(0) : unpadHeads(spec, values.subarray(first, first + width), {
          shape: [1, width],
          logical: [1, logical],
        })
      );
    },
    [Symbol.dispose]: () => sums[Symbol.dispose](),
  };
}
