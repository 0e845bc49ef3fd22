// Types of a pass and of what its records refer to.
import type { Device } from "../gpu/device.ts";
import type { Plan } from "../gpu/plan.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Projection } from "../spec/decoder.ts";
import type { Activations } from "./activations.ts";
import type { Lora } from "./lora.ts";
import type { MaskKind, MaskSlots } from "./mask_slots.ts";
import type { BufferView, Operand } from "./products/linear.ts";
import type { Matrix } from "./products/matrix.ts";
import type { Weights } from "./weights.ts";

/** Buffers of a pass; record plans over them with {@link Pass.plan}. */
export interface Pass extends Disposable {
  readonly device: Device;
  readonly weights: Weights;
  readonly act: Activations;
  readonly masks: MaskSlots;
  readonly lora: Lora | null;
  readonly state: DeviceBuffer;
  readonly trees: TreeBuffers | null;
  /** Starts a plan and its context. */
  plan(options?: { readonly dropout?: boolean; readonly maskGrads?: ReadonlySet<MaskKind> }): DecoderContext;
}

/** Everything that the records of a pass refer to. */
export interface DecoderContext {
  readonly plan: Plan;
  readonly weights: Weights;
  readonly act: Activations;
  readonly masks: MaskSlots;
  readonly lora: Lora | null;
  /** cos and sin of each position, see `ropeTable`. */
  readonly rope: DeviceBuffer;
  /** Numbers of the step; needed by dropout and cross-entropy. */
  readonly state: DeviceBuffer;
  /** Where the rows are token trees: forward only. */
  readonly trees?: TreeBuffers | undefined;
  /** Whether elements are dropped before LoRA's A, at the rate of `state`. */
  readonly dropout: boolean;
  /** Kinds of masks whose gradients are computed. */
  readonly maskGrads: ReadonlySet<MaskKind>;
  /** Records the layer's o from its q, k and v before RoPE, in place of `recordSelfAttention`: for caches. */
  readonly attend?: (context: DecoderContext, index: number) => void;
  /** Called in forward when a layer's input of o or down was recorded, before it is overwritten: for statistics. */
  readonly observe?: (context: DecoderContext, index: number, input: ObservedInput) => void;
  /** Called in backward at every projection, before its gradients are passed on: for statistics of dL/dW = dyᵀ·x. */
  readonly observeWeights?: (context: DecoderContext, product: ObservedProduct) => void;
}

/** The masked input of o_proj [rows, heads·headStride] or of down_proj [rows, ffn]. */
export interface ObservedInput {
  readonly of: "o" | "down";
  readonly buffer: DeviceBuffer;
  readonly width: number;
}

/** A product y = x·Wᵀ of a layer and the gradient of its output. */
export interface ObservedProduct {
  readonly layer: number;
  readonly projection: Projection;
  readonly matrix: Matrix;
  /** [rows, W.stride] */
  readonly x: BufferView;
  /** dL/dy [rows, W.rows padded] */
  readonly dy: Operand;
}

/** What of a tree the kernels of the layers read; see `attentionKernel` and `ropeKernel`. */
export interface TreeBuffers extends Disposable {
  /** By the layers' windows; undefined for layers that see all. */
  readonly spans: ReadonlyMap<number | undefined, DeviceBuffer>;
  readonly positions: DeviceBuffer;
}
