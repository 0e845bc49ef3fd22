// Benchmark cases of elementwise and row-wise kernels, AdamW and masks: their sizes, and the least bytes that each must
// move.
import { adamw } from "../../kernels/mod.ts";
import type { DeviceBuffer } from "../../lib/gpu/types.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { u32 } from "../../lib/gpu/plan.ts";
import { headRowsFor } from "../../lib/nn/head.ts";
import { type NormWeights, recordNorm, recordNormBackward } from "../../lib/nn/norm.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { createMaskSlots, type MaskSlots, slotLayout } from "../../lib/nn/mask_slots.ts";
import {
  partialFloats,
  recordDropout,
  recordGated,
  recordGatedBackward,
  recordResidual,
  recordScale,
  recordScaleBackward,
} from "../../lib/nn/ops.ts";
import { CROSS_ENTROPY, recordObjective } from "../../lib/nn/train/objective.ts";
import { createStepState, IDLE_STATE, writeStepState } from "../../lib/nn/train/step_state.ts";
import { MaskLearner } from "../../lib/masks/learner.ts";
import { unitTable } from "../../lib/units/table.ts";
import { activation, type KernelCase, type KernelGroup, noise, type Recorder, type Scale } from "./cases.ts";
import { SMOLLM2, specOf } from "./random_model.ts";

/** Lends buffers of the case's size. */
interface Lender {
  readonly device: Device;
  readonly stack: DisposableStack;
  activation(width: number): DeviceBuffer;
  floats(count: number): DeviceBuffer;
  state(): DeviceBuffer;
}

/** All of them at SmolLM2's widths. */
export function elementwiseGroups(scale: Scale): KernelGroup[] {
  const rows = { full: 1024, quick: 256, tiny: 8 }[scale];
  const { hidden, ffn } = SMOLLM2;
  return [
    {
      name: "elementwise",
      cases: [...norms(rows, hidden), ...masked(rows, hidden), ...activations(rows, ffn)],
      peerCases: [],
    },
    {
      name: "head, optimizer and masks",
      cases: [crossEntropy(scale), optimizer(scale), ...masks(scale)],
      peerCases: [],
    },
  ];
}

function norms(rows: number, width: number): KernelCase[] {
  const shape = { rows, spec: { hidden: width, normEps: 1e-5 } };
  const weights = (lend: Lender): NormWeights => ({ weight: lend.floats(strideOf(width)), bias: null });
  return [
    bytesCase(`RMSNorm forward ${rows}×${width}`, { rows, bytes: 8 * rows * width }, (lend) => {
      const io = {
          x: lend.activation(width),
          y: lend.activation(width),
          r: lend.floats(rows),
        },
        norm = weights(lend);
      return (plan) => recordNorm(plan, norm, io, shape);
    }),
    bytesCase(`RMSNorm backward ${rows}×${width}`, { rows, bytes: 16 * rows * width }, (lend) => {
      const io = {
          dy: lend.activation(width),
          x: lend.activation(width),
          r: lend.floats(rows),
          dx: lend.activation(width),
        },
        norm = weights(lend);
      return (plan) => recordNormBackward(plan, norm, io, { ...shape, accumulate: true });
    }),
  ];
}

function masked(rows: number, width: number): KernelCase[] {
  const extent = { rows, width };
  return [
    bytesCase(`residual + mask ${rows}×${width}`, { rows, bytes: 12 * rows * width }, (lend) => {
      const [x, y, out] = [lend.activation(width), lend.activation(width), lend.activation(width)];
      const z = lend.floats(strideOf(width));
      return (plan) => recordResidual(plan, { x, y, z, out }, extent);
    }),
    bytesCase(`mask forward ${rows}×${width}`, { rows, bytes: 8 * rows * width }, (lend) => {
      const io = { x: lend.activation(width), z: lend.floats(strideOf(width)), y: lend.activation(width) };
      return (plan) => recordScale(plan, io, { ...extent, groupWidth: 1 });
    }),
    bytesCase(`mask backward ${rows}×${width}`, { rows, bytes: 12 * rows * width }, (lend) => {
      const io = {
        dy: lend.activation(width),
        z: lend.floats(strideOf(width)),
        v: lend.activation(width),
        partial: lend.floats(partialFloats(extent)),
        grads: { dz: lend.floats(strideOf(width)), squares: lend.floats(strideOf(width)) },
      };
      return (plan) => recordScaleBackward(plan, io, { ...extent, groupWidth: 1, accumulate: true });
    }),
    bytesCase(`dropout ${rows}×${width}`, { rows, bytes: 8 * rows * width }, (lend) => {
      const io = { x: lend.activation(width), state: lend.state(), y: lend.activation(width) };
      return (plan) => recordDropout(plan, io, { ...extent, stream: 1, accumulate: false });
    }),
  ];
}

function activations(rows: number, width: number): KernelCase[] {
  const extent = { rows, width };
  return [
    bytesCase(`SwiGLU forward ${rows}×${width}`, { rows, bytes: 12 * rows * width }, (lend) => {
      const [gate, up, a] = [lend.activation(width), lend.activation(width), lend.activation(width)];
      const z = lend.floats(strideOf(width));
      return (plan) => recordGated(plan, { gate, up, z, a }, extent);
    }),
    bytesCase(`SwiGLU backward ${rows}×${width}`, { rows, bytes: 20 * rows * width }, (lend) => {
      const io = {
        da: lend.activation(width),
        z: lend.floats(strideOf(width)),
        gate: lend.activation(width),
        up: lend.activation(width),
        partial: lend.floats(partialFloats(extent)),
        grads: { dz: lend.floats(strideOf(width)), squares: lend.floats(strideOf(width)) },
      };
      return (plan) => recordGatedBackward(plan, io, extent);
    }),
  ];
}

function crossEntropy(scale: Scale): KernelCase {
  const vocab = scale === "tiny" ? 100 : SMOLLM2.vocab, rows = scale === "tiny" ? 8 : headRowsFor(vocab, 1024);
  return bytesCase(`cross-entropy and gradient ${rows}×${vocab}`, { rows, bytes: 8 * rows * vocab }, (lend) => {
    const targets = lend.stack.use(
      lend.device.uploadBuffer("targets", Int32Array.from({ length: rows }, (_, row) => (row * 37) % vocab)),
    );
    const io = { targets, state: lend.state(), logits: lend.activation(vocab), loss: lend.floats(rows) };
    return (plan) => recordObjective(plan, CROSS_ENTROPY, io, { rows, vocab, firstRow: 0, gradient: true });
  });
}

function optimizer(scale: Scale): KernelCase {
  // LoRA of rank 8 on q and v: A [8, in] and B [out, 8].
  const { hidden, heads, kvHeads, headDim, layers } = SMOLLM2;
  const count = scale === "tiny" ? 1000 : 8 * layers * (2 * hidden + (heads + kvHeads) * headDim);
  return bytesCase(`AdamW ${count} parameters`, { rows: 1, bytes: 28 * count }, (lend) => {
    const metrics = lend.floats(8), state = lend.state();
    const [g, w, m, v] = [lend.floats(count), lend.floats(count), lend.floats(count), lend.floats(count)];
    const width = Math.min(count, 65535 * 64);
    return (plan) =>
      plan.dispatch(compileKernel(lend.device, adamw), [g, state, metrics, w, m, v, {
        params: [u32(count), u32(width)],
      }], {
        groups: [Math.ceil(width / 64), Math.ceil(count / width)],
        cost: 20 * count,
      });
  });
}

function masks(scale: Scale): KernelCase[] {
  const spec = specOf(scale === "tiny" ? { ...SMOLLM2, hidden: 64, layers: 1, ffn: 64 } : SMOLLM2);
  const table = unitTable(spec, ["heads", "ffn", "hidden"]), slots = slotLayout(spec).count;
  const prepared = (lend: Lender): { learner: MaskLearner; io: { state: DeviceBuffer; slots: MaskSlots } } => ({
    learner: lend.stack.use(new MaskLearner(lend.device, table)),
    io: { state: lend.state(), slots: lend.stack.use(createMaskSlots(lend.device, spec)) },
  });
  return [
    // log α read, four floats of a draw written, a value and an index read and z written for each slot.
    bytesCase(`masks sampled, ${table.count} units`, { rows: 1, bytes: 20 * table.count + 12 * slots }, (lend) => {
      const { learner, io } = prepared(lend);
      return (plan) => learner.recordSample(plan, io);
    }),
    // Three passes over log α, of which two write; moments read and written; draws and gradients read.
    bytesCase(`masks updated, ${table.count} units`, { rows: 1, bytes: 52 * table.count + 4 * slots }, (lend) => {
      const { learner, io } = prepared(lend);
      return (plan) => learner.recordUpdate(plan, io);
    }),
  ];
}

function bytesCase(
  name: string,
  { rows, bytes }: { readonly rows: number; readonly bytes: number },
  record: (lend: Lender) => Recorder,
): KernelCase {
  return {
    name,
    variant: "",
    unit: "bytes",
    work: bytes,
    setup(device, stack): Promise<Recorder> {
      return Promise.resolve(record({
        device,
        stack,
        activation: (width) => activation(device, stack, { rows, width }),
        floats: (count) => stack.use(device.uploadBuffer("floats", noise(count))),
        state: () => {
          const state = stack.use(createStepState(device));
          writeStepState(device, state, { ...IDLE_STATE, target: 0.1, maskRate: 0.01, loraRate: 1e-4, tracking: 1 });
          return state;
        },
      }));
    },
  };
}
