// Benchmark cases of the attention kernels, with the heads of SmolLM2: their shapes and operation counts.
import {
  AttentionScratch,
  type AttentionShape,
  recordAttention,
  recordAttentionBackward,
} from "../../lib/nn/attention.ts";
import type { DeviceBuffer } from "../../lib/gpu/types.ts";
import { headStride } from "../../lib/nn/padding.ts";
import { activation, type KernelCase, type KernelGroup, type Recorder, type Scale } from "./cases.ts";
import { SMOLLM2 } from "./random_model.ts";

const LENGTHS: Readonly<Record<Scale, readonly number[]>> = { full: [256, 512, 1024, 2048], quick: [256], tiny: [16] };

/** Forward and backward of one layer's causal attention, batch 1. */
export function attentionGroups(scale: Scale): KernelGroup[] {
  const { heads, kvHeads, headDim } = SMOLLM2;
  const cases = LENGTHS[scale].flatMap((seq) =>
    (["forward", "backward"] as const).map((pass) => attention({ batch: 1, seq, heads, kvHeads, headDim }, pass))
  );
  return [{ name: "attention", cases, peerCases: [] }];
}

function attention(shape: AttentionShape, pass: "forward" | "backward"): KernelCase {
  const { batch, seq, heads, kvHeads, headDim } = shape, rows = batch * seq;
  return {
    name: `attention ${pass} ${heads}/${kvHeads} heads of ${headDim}, ${seq} tokens`,
    variant: "",
    unit: "flops",
    // q·kᵀ and p·v over the causal half; the backward has five products (two of which our kernels do twice).
    work: (pass === "forward" ? 2 : 5) * batch * seq * (seq + 1) * heads * headDim,
    setup(device, stack): Promise<Recorder> {
      const values = (count: number): DeviceBuffer =>
        activation(device, stack, { rows, width: count * headStride(headDim) });
      const statistic = (): DeviceBuffer => stack.use(device.createBuffer("statistic", heads * rows * 4));
      const buffers = {
        q: values(heads),
        k: values(kvHeads),
        v: values(kvHeads),
        o: values(heads),
        dO: values(heads),
        dq: values(heads),
        dk: values(kvHeads),
        dv: values(kvHeads),
        lse: statistic(),
        delta: statistic(),
        scratch: stack.use(new AttentionScratch(device)),
      };
      return Promise.resolve((plan) => {
        if (pass === "forward") recordAttention(plan, shape, buffers);
        else recordAttentionBackward(plan, shape, buffers);
      });
    },
  };
}
