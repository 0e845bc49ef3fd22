// Types of a pass, and of the context that its record functions share.
import type { KeyRanges } from "../../kernels/mod.ts";
import type { Device } from "../gpu/device.ts";
import type { Plan } from "../gpu/plan.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { ConvMatrix, Projection } from "../spec/decoder.ts";
import type { Activations } from "./activations.ts";
import type { Lora } from "./lora.ts";
import type { MaskKind, MaskSlots } from "./mask_slots.ts";
import type { BufferView, Operand } from "./products/operand.ts";
import type { Matrix } from "./products/matrix.ts";
import type { RopeTables } from "./rope.ts";
import type { DenseReference, Objective } from "./train/objective.ts";
import type { Weights } from "./weights.ts";

/** Buffers of a pass. Record plans over them with {@link Pass.plan}. */
export interface Pass extends Disposable {
  readonly device: Device;
  readonly weights: Weights;
  readonly act: Activations;
  readonly masks: MaskSlots;
  readonly lora: Lora | null;
  readonly state: DeviceBuffer;
  /** Null if each sequence of the pass is one text. */
  readonly ranges: RangeBuffers | null;
  /** Null if the objective does not compare with the dense model. */
  readonly dense: DenseReference | null;
  /** Starts a plan and returns its context. */
  plan(options?: { readonly dropout?: boolean; readonly maskGrads?: ReadonlySet<MaskKind> }): DecoderContext;
}

/** Everything that the record functions of a pass use. */
export interface DecoderContext {
  readonly plan: Plan;
  readonly weights: Weights;
  readonly act: Activations;
  readonly masks: MaskSlots;
  readonly lora: Lora | null;
  /** cos and sin of each position. */
  readonly rope: RopeTables;
  /** One u32 that is added to the positions of all rows. Used with KV caches. */
  readonly position?: DeviceBuffer | undefined;
  /** The position of each row [rows] u32. Used where each row is the next token of a separate sequence. */
  readonly positions?: DeviceBuffer | undefined;
  /** State of the training step; dropout and loss read it. */
  readonly state: DeviceBuffer;
  /** What is minimised. Default: cross-entropy. */
  readonly objective?: Objective | undefined;
  /** The dense model, where the objective compares with it. */
  readonly dense?: DenseReference | null | undefined;
  /** Set if the rows are token trees (forward only), or sequences are packed of rows that do not see each other. */
  readonly ranges?: RangeBuffers | undefined;
  /** Whether dropout is applied before LoRA's A, at the rate in `state`. */
  readonly dropout: boolean;
  /** Kinds of masks whose gradients are computed. */
  readonly maskGrads: ReadonlySet<MaskKind>;
  /** Records o of a layer from its q, k and v before RoPE, instead of `recordSelfAttention`. Used with KV caches. */
  readonly attend?: (context: DecoderContext, index: number) => void;
  /** Records the convolution of a layer from its bcx, instead of `recordShortConv`. Used with caches. */
  readonly convolve?: (context: DecoderContext, index: number) => void;
  /** Records y = W·x of each row, instead of `recordLinear`. Used where the rows are a few tokens of separate sequences. */
  readonly multiply?:
    | ((matrix: Matrix, x: { readonly buffer: DeviceBuffer; readonly width: number }, y: DeviceBuffer) => void)
    | undefined;
  /**
   * Called in forward after an input of a layer's projections is recorded and before it is overwritten; for statistics.
   */
  readonly observe?: (context: DecoderContext, index: number, input: ObservedInput) => void;
  /** Called in forward after attention or a whole layer has written the residual stream; for statistics. */
  readonly observeStates?: (context: DecoderContext, index: number, states: ObservedStates) => void;
  /** Called in forward after the experts of a layer are recorded and before their buffers are overwritten; for statistics. */
  readonly observeExperts?: (context: DecoderContext, index: number) => void;
  /** Called in backward for every projection, before its gradients are propagated; for statistics of dL/dW = dyᵀ·x. */
  readonly observeWeights?: (context: DecoderContext, product: ObservedProduct) => void;
}

/**
 * An input of projections: of q, k and v, or of a convolution (`attention`), and of gate and up (`ffn`) [rows, hidden], the masked ones of o_proj [rows, heads·headStride], or of a convolution's out_proj [rows, hidden], and
 * of down_proj [rows, ffn].
 */
export interface ObservedInput {
  readonly of: "attention" | "o" | "ffn" | "down";
  readonly buffer: DeviceBuffer;
  readonly width: number;
}

/** The residual stream before and after the attention of a layer, or the whole layer; [rows, hidden] each. */
export interface ObservedStates {
  readonly of: "attention" | "layer";
  readonly before: DeviceBuffer;
  readonly after: DeviceBuffer;
}

/** A product y = x·Wᵀ of a layer and the gradient of its output. */
export interface ObservedProduct {
  readonly layer: number;
  readonly projection: Projection | ConvMatrix;
  readonly matrix: Matrix;
  /** [rows, W.stride] */
  readonly x: BufferView;
  /** dL/dy [rows, W.rows padded] */
  readonly dy: Operand;
}

/** What the layer kernels read where a sequence is not one text; see `attentionKernel` and `ropeKernel`. */
export interface RangeBuffers extends Disposable {
  readonly of: Exclude<KeyRanges, "window">;
  /** Key ranges by attention window; the key undefined is for layers without a window. */
  readonly spans: ReadonlyMap<number | undefined, DeviceBuffer>;
  readonly positions: DeviceBuffer;
  /** The row of the token before each row [rows] u32, for convolutions over trees; null for others. A root has itself. */
  readonly parents: DeviceBuffer | null;
}
