// The buffers that a forward and backward pass works in. Owns their sizes and reuse: one layer's scratch serves all layers; refuses to record.
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { AttentionScratch } from "./attention.ts";
import { paddedRows, strideOf } from "./layout.ts";
import { OperandPool } from "./linear.ts";
import { partialFloats } from "./ops.ts";
import { type DecoderSpec, type Projection, PROJECTIONS } from "./spec.ts";
import { headWidths } from "./weights.ts";

/** Tokens of one pass: `batch` sequences of `seq` tokens. */
export interface PassShape {
  readonly batch: number;
  readonly seq: number;
}

/** What a pass needs beside the plain forward. */
export interface ActivationOptions extends PassShape {
  /** Keeps the input of every layer and allocates the gradients' buffers. */
  readonly backward: boolean;
  /** Rank of LoRA, 0 for none. */
  readonly rank: number;
  /** Tokens of a chunk of the output head. */
  readonly headRows: number;
}

/** Names of the per-layer buffers of the forward pass. */
type Forward = "h1" | "h2" | "q" | "k" | "v" | "o" | "om" | "y1" | "x1" | "gate" | "up" | "a" | "y2";
/** Names of the buffers of the backward pass. */
type Backward = "dx" | "dh" | "dq" | "dk" | "dv" | "dom" | "da";

/** Buffers of one pass over `rows` = batch · seq tokens. All are [paddedRows, stride] f32 unless said otherwise. */
export interface Activations extends Disposable {
  readonly shape: ActivationOptions;
  readonly rows: number;
  /** Token ids [rows] u32. */
  readonly tokens: DeviceBuffer;
  /** Next-token targets [rows] i32, −1 where there is none. */
  readonly targets: DeviceBuffer;
  /** Loss of each token [rows]. */
  readonly loss: DeviceBuffer;
  /** Input of layer l and, last, the output of all layers. Without backward two buffers take turns. */
  readonly x: readonly DeviceBuffer[];
  readonly forward: Readonly<Record<Forward, DeviceBuffer>>;
  readonly backward: Readonly<Record<Backward, DeviceBuffer>> | null;
  /** 1 / rms of each row [rows], of the attention norm, the FFN norm and the final norm. */
  readonly rms: readonly [DeviceBuffer, DeviceBuffer, DeviceBuffer];
  /** Log-sum-exp of attention [heads, rows] and its backward's row sums. */
  readonly lse: DeviceBuffer;
  readonly delta: DeviceBuffer;
  /** Output of the final norm, and its gradient. */
  readonly final: DeviceBuffer;
  readonly dfinal: DeviceBuffer | null;
  /** One chunk of rows of the output head: its input, logits [headRows, strideOf(vocab)], and the gradient of its input. */
  readonly chunk: DeviceBuffer;
  readonly logits: DeviceBuffer;
  readonly dchunk: DeviceBuffer | null;
  /** Partial sums of mask gradients. */
  readonly partial: DeviceBuffer;
  /** LoRA: A·x of each projection [rows, rank], the gradient of one, and a dropped-out input. */
  readonly inner: Readonly<Record<Projection, DeviceBuffer>> | null;
  readonly dinner: DeviceBuffer | null;
  readonly dropped: DeviceBuffer | null;
  readonly operands: OperandPool;
  readonly attention: AttentionScratch;
}

/** Layers' widest parts, as widths in memory. */
export function widest(spec: DecoderSpec): { readonly q: number; readonly kv: number; readonly ffn: number } {
  return {
    q: Math.max(0, ...spec.layers.map((layer) => headWidths(spec, layer).q)),
    kv: Math.max(0, ...spec.layers.map((layer) => headWidths(spec, layer).kv)),
    ffn: Math.max(0, ...spec.layers.map((layer) => layer.ffn)),
  };
}

/** Allocates the buffers of a pass. */
export function createActivations(device: Device, spec: DecoderSpec, shape: ActivationOptions): Activations {
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  try {
    const rows = shape.batch * shape.seq;
    const wide = widest(spec);
    const floats = (label: string, count: number): DeviceBuffer => own(device.createBuffer(label, count * 4));
    const act = (label: string, width: number): DeviceBuffer => floats(label, paddedRows(rows) * strideOf(width));
    const { hidden } = spec;
    const inputs = shape.backward ? spec.layers.length + 1 : Math.min(2, spec.layers.length + 1);
    const kept = Array.from({ length: inputs }, (_, index) => act(`x${index}`, hidden));
    const x = Array.from({ length: spec.layers.length + 1 }, (_, index) => kept[index % inputs] ?? act("x", hidden));
    const heads = Math.max(1, ...spec.layers.map((layer) => layer.heads));
    const inner = (): Record<Projection, DeviceBuffer> => {
      const buffers: Partial<Record<Projection, DeviceBuffer>> = {};
      for (const name of PROJECTIONS) buffers[name] = floats(`lora ${name}`, paddedRows(rows) * shape.rank);
      return buffers as Record<Projection, DeviceBuffer>;
    };
    return {
      shape,
      rows,
      tokens: floats("tokens", rows),
      targets: floats("targets", rows),
      loss: floats("loss", rows),
      x,
      forward: {
        h1: act("h1", hidden),
        h2: act("h2", hidden),
        q: act("q", wide.q),
        k: act("k", wide.kv),
        v: act("v", wide.kv),
        o: act("o", wide.q),
        om: act("om", wide.q),
        y1: act("y1", hidden),
        x1: act("x1", hidden),
        gate: act("gate", wide.ffn),
        up: act("up", wide.ffn),
        a: act("a", wide.ffn),
        y2: act("y2", hidden),
      },
      backward: shape.backward
        ? {
          dx: act("dx", hidden),
          dh: act("dh", hidden),
          dq: act("dq", wide.q),
          dk: act("dk", wide.kv),
          dv: act("dv", wide.kv),
          dom: act("dom", wide.q),
          da: act("da", wide.ffn),
        }
        : null,
      rms: [floats("rms1", rows), floats("rms2", rows), floats("rms final", rows)],
      lse: floats("lse", heads * rows),
      delta: floats("delta", heads * rows),
      final: act("final", hidden),
      dfinal: shape.backward ? act("dfinal", hidden) : null,
      chunk: floats("head input", paddedRows(shape.headRows) * strideOf(hidden)),
      dchunk: shape.backward ? floats("head gradient", paddedRows(shape.headRows) * strideOf(hidden)) : null,
      logits: floats("logits", paddedRows(shape.headRows) * strideOf(spec.vocab)),
      partial: floats(
        "partial",
        partialFloats({ rows, width: Math.max(hidden, wide.q, wide.ffn) }),
      ),
      inner: shape.rank > 0 ? inner() : null,
      dinner: shape.rank > 0 ? floats("lora dinner", paddedRows(rows) * shape.rank) : null,
      dropped: shape.rank > 0 ? act("dropped", Math.max(hidden, wide.q, wide.ffn)) : null,
      operands: own(new OperandPool(device)),
      attention: own(new AttentionScratch(device)),
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}
