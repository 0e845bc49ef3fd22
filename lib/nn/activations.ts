// Buffers of a forward and backward pass. All layers share one set of scratch buffers.
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Device } from "../gpu/device.ts";
import type { MemoryPart } from "../gpu/memory_parts.ts";
import { AttentionScratch } from "./attention.ts";
import { paddedRows, strideOf } from "./padding.ts";
import { OperandPool } from "./products/operand.ts";
import { partialFloats } from "./ops.ts";
import {
  type DecoderSpec,
  embeddingWidth,
  hasFinalNorm,
  hasProjection,
  type Projection,
  PROJECTIONS,
} from "../spec/decoder.ts";
import { createExpertActivations, type ExpertActivations } from "./experts.ts";
import { headWidths } from "./weights.ts";

/** Tokens of one pass: `batch` sequences of `seq` tokens. */
export interface PassShape {
  readonly batch: number;
  readonly seq: number;
}

/** Options of a pass. */
export interface ActivationOptions extends PassShape {
  /** Keeps the input of every layer and of its FFN, and allocates the gradient buffers. */
  readonly backward: boolean;
  /** Whether backward recomputes the rest of a layer instead of keeping it (gradient checkpointing). Default true. */
  readonly recompute?: boolean;
  /**
   * Also keeps the outputs of o_proj and down_proj of every layer, for the gradients of hidden masks and of the norms
   * of these outputs. Default false.
   */
  readonly keepsWrites?: boolean;
  /** Rank of LoRA, 0 for none. */
  readonly rank: number;
  /** Tokens in one chunk of the output head. */
  readonly headRows: number;
}

/** Buffers of a layer's forward pass. */
const FORWARD = ["h1", "h2", "q0", "k0", "v0", "q", "k", "v", "o", "om", "y1", "x1", "gate", "up", "a", "y2"] as const;
/** Buffers of a convolution's forward pass. */
const CONVOLUTION = ["bcx", "c", "cz", "cm"] as const;
type Forward = typeof FORWARD[number];
type Convolved = typeof CONVOLUTION[number];
/** Names of the buffers of the backward pass. */
type Backward = "dx" | "dh" | "dq" | "dk" | "dv" | "dom" | "da";

/** Buffers of the forward pass of one layer. Layers share the buffers that backward does not need. */
export interface LayerActivations {
  /**
   * q0, k0 and v0 hold q, k and v before their norm. Without one they are the same buffers as q, k and v. Without a gate,
   * gate is the same buffer as up; where attention and FFN share their norm, h2 is the same as h1. h1 and h2 hold the
   * input of attention and of the FFN after its norm or, with norms of the residual stream, that stream before its norm.
   */
  readonly forward: Readonly<Record<Forward, DeviceBuffer>>;
  /**
   * Of a convolution: its inputs, its output, the output after the mask of each channel, and after that of the whole. Null in a model without
   * convolutions.
   */
  readonly convolved: Readonly<Record<Convolved, DeviceBuffer>> | null;
  /** 1 / rms (LayerNorm: 1 / standard deviation) of each row [rows], for the norm of attention and that of the FFN. */
  readonly rms: readonly [DeviceBuffer, DeviceBuffer];
  /** Log-sum-exp of attention [heads, rows]. */
  readonly lse: DeviceBuffer;
  /** LoRA: A·x of each projection [rows, rank]. */
  readonly inner: Readonly<Partial<Record<Projection, DeviceBuffer>>> | null;
}

/** Buffers of one pass over `rows` = batch · seq tokens. All are [paddedRows, stride] f32 unless stated otherwise. */
export interface Activations extends Disposable {
  readonly shape: ActivationOptions;
  readonly rows: number;
  /** Token ids [rows] u32. */
  readonly tokens: DeviceBuffer;
  /** Rows in the order in which the output head processes them [rows] u32; see `writeTargets`. */
  readonly order: DeviceBuffer;
  /** Next-token targets in head order [rows] i32; −1 for rows without a target. */
  readonly targets: DeviceBuffer;
  /** Loss of each token in head order [rows]. */
  readonly loss: DeviceBuffer;
  /** Number of rows with a target; they come first in head order. The output head skips chunks beyond them. */
  readonly wanted: { rows: number };
  /** Input of each layer, then the output of the last layer. Without backward, two buffers alternate. */
  readonly x: readonly DeviceBuffer[];
  /** Rows of the embedding, [paddedRows, strideOf(embeddingWidth)]; null if they are `embedded`. */
  readonly looked: DeviceBuffer | null;
  /** Embedding output before its mask. */
  readonly embedded: DeviceBuffer;
  /** Output of a layer before its factor; null without `layerScale`. */
  readonly unscaled: DeviceBuffer | null;
  /** Buffers of each layer. */
  readonly layers: readonly LayerActivations[];
  readonly backward: Readonly<Record<Backward, DeviceBuffer>> | null;
  /** Gradients of cm and bcx of a convolution; null in a model without convolutions. */
  readonly convBackward: { readonly dcm: DeviceBuffer; readonly dbcx: DeviceBuffer } | null;
  /** 1 / rms of each row of the final norm [rows]. */
  readonly rmsFinal: DeviceBuffer;
  /** Row sums of the attention backward pass [heads, rows]. */
  readonly delta: DeviceBuffer;
  /** Output of the final norm where a projection follows it; null otherwise. */
  readonly normed: DeviceBuffer | null;
  /** What the head reads, of the width of the embedding, and its gradient. */
  readonly final: DeviceBuffer;
  readonly dfinal: DeviceBuffer | null;
  /**
   * One chunk of rows of the output head: its input, logits [headRows, strideOf(vocab)], and the gradient of its input.
   */
  readonly chunk: DeviceBuffer;
  readonly logits: DeviceBuffer;
  readonly dchunk: DeviceBuffer | null;
  /** Partial sums of mask gradients. */
  readonly partial: DeviceBuffer;
  /** LoRA: the gradient of one A·x [rows, rank], and an input after dropout. */
  readonly dinner: DeviceBuffer | null;
  readonly dropped: DeviceBuffer | null;
  /** Null for a dense model. */
  readonly experts: ExpertActivations | null;
  readonly operands: OperandPool;
  readonly attention: AttentionScratch;
}

/** Largest widths over all layers, padded as in memory. */
export function widest(
  spec: DecoderSpec,
): { readonly q: number; readonly kv: number; readonly ffn: number; readonly conv: number } {
  return {
    conv: spec.convolution ? spec.hidden : 0,
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
    const { hidden } = spec, inner = embeddingWidth(spec), isProjected = spec.embeddingWidth !== undefined;
    const inputs = shape.backward ? spec.layers.length + 1 : Math.min(2, spec.layers.length + 1);
    const kept = Array.from({ length: inputs }, (_, index) => act(`kept: x${index}`, hidden));
    const x = Array.from(
      { length: spec.layers.length + 1 },
      (_, index) => kept[index % inputs] ?? act("forward: x", hidden),
    );
    const heads = Math.max(1, ...spec.layers.map((layer) => layer.heads));
    const layers = createLayers(spec, shape, { act, floats });
    return {
      shape,
      rows,
      tokens: floats("forward: tokens", rows),
      order: own(device.uploadBuffer("forward: order", Uint32Array.from({ length: rows }, (_, row) => row))),
      targets: floats("forward: targets", rows),
      loss: floats("forward: loss", rows),
      wanted: { rows },
      x,
      looked: isProjected ? act("forward: looked", inner) : null,
      embedded: layers[0]?.forward.h1 ?? act("forward: embedded", hidden),
      unscaled: spec.layerScale ? act("forward: unscaled", hidden) : null,
      layers,
      backward: shape.backward
        ? {
          dx: act("backward: dx", hidden),
          dh: act("backward: dh", hidden),
          dq: act("backward: dq", wide.q),
          dk: act("backward: dk", wide.kv),
          dv: act("backward: dv", wide.kv),
          dom: act("backward: dom", wide.q),
          da: act("backward: da", wide.ffn),
        }
        : null,
      convBackward: shape.backward && spec.convolution
        ? { dcm: act("backward: dcm", hidden), dbcx: act("backward: dbcx", 3 * hidden) }
        : null,
      rmsFinal: floats("forward: rms final", rows),
      delta: floats("backward: delta", heads * rows),
      normed: isProjected && hasFinalNorm(spec) ? act("forward: normed", hidden) : null,
      final: act("forward: final", inner),
      dfinal: shape.backward ? act("backward: dfinal", inner) : null,
      chunk: floats("head: input", paddedRows(shape.headRows) * strideOf(inner)),
      dchunk: shape.backward ? floats("head: gradient", paddedRows(shape.headRows) * strideOf(inner)) : null,
      logits: floats("head: logits", paddedRows(shape.headRows) * strideOf(spec.vocab)),
      partial: floats(
        "backward: partial",
        partialFloats({ rows, width: Math.max(hidden, wide.q, wide.ffn) }),
      ),
      dinner: shape.rank > 0 ? floats("lora: dinner", paddedRows(rows) * shape.rank) : null,
      dropped: shape.rank > 0 ? act("forward: dropped", Math.max(hidden, wide.q, wide.ffn)) : null,
      experts: createExpertActivations(device, spec, { rows, own }),
      operands: own(new OperandPool(device)),
      attention: own(new AttentionScratch(device)),
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Buffers of every layer. A layer has separate buffers for what backward needs and does not recompute. */
function createLayers(
  spec: DecoderSpec,
  shape: ActivationOptions,
  { act, floats }: {
    readonly act: (label: string, width: number) => DeviceBuffer;
    readonly floats: (label: string, count: number) => DeviceBuffer;
  },
): LayerActivations[] {
  const { backward, recompute = true, keepsWrites = false, rank } = shape;
  const rows = shape.batch * shape.seq, { hidden } = spec;
  const heads = Math.max(1, ...spec.layers.map((layer) => layer.heads));
  const widthsFor = ({ q, kv, ffn, conv }: ReturnType<typeof widest>): Record<Forward | Convolved, number> => ({
    h1: hidden,
    h2: hidden,
    y1: hidden,
    x1: hidden,
    y2: hidden,
    q0: q,
    k0: kv,
    v0: kv,
    q,
    k: kv,
    v: kv,
    o: q,
    om: q,
    bcx: 3 * conv,
    c: conv,
    cz: conv,
    cm: conv,
    gate: ffn,
    up: ffn,
    a: ffn,
  });
  const wide = widthsFor(widest(spec));
  const names = [...FORWARD, ...spec.convolution ? CONVOLUTION : []].filter((name) =>
    (spec.qkNorm || (name !== "q0" && name !== "k0")) && (spec.valueNorm || name !== "v0") &&
    (name !== "gate" || !spec.ungated) &&
    (name !== "h2" || spec.parallel !== "shared")
  );
  const sums = spec.normPlaces === "residual" ? ["h1", "h2"] : [], writes = keepsWrites ? ["y1", "y2"] : [];
  const kept: readonly string[] = !backward ? [] : recompute ? ["x1", ...sums, ...writes] : names;
  const keepsAll = kept.length === names.length;
  const inner = (label: string): LayerActivations["inner"] =>
    rank > 0
      ? record(
        PROJECTIONS.filter((name) => hasProjection(spec, name)),
        (name) => floats(`lora: ${name}${label}`, paddedRows(rows) * rank),
      )
      : null;
  const rowSums = (part: MemoryPart, label: string): Pick<LayerActivations, "rms" | "lse"> => ({
    rms: [floats(`${part}: rms1${label}`, rows), floats(`${part}: rms2${label}`, rows)],
    lse: floats(`${part}: lse${label}`, heads * rows),
  });
  const shared = new Map(
    names.filter((name) => !kept.includes(name)).map((name) => [name, act(`forward: ${name}`, wide[name])]),
  );
  const sharedSums = keepsAll ? null : rowSums("forward", "");
  const sharedInner = backward ? null : inner("");
  return spec.layers.map((layer, index) => {
    const label = ` of layer ${index}`,
      conv = layer.conv ? hidden : 0,
      widths = widthsFor({ ...headWidths(spec, layer), ffn: layer.ffn, conv });
    const own = record(names, (name) => shared.get(name) ?? act(`kept: ${name}${label}`, widths[name]));
    return {
      forward: {
        ...own,
        ...spec.qkNorm ? {} : { q0: own.q, k0: own.k },
        ...spec.valueNorm ? {} : { v0: own.v },
        ...spec.ungated ? { gate: own.up } : {},
        ...spec.parallel === "shared" ? { h2: own.h1 } : {},
      },
      convolved: spec.convolution ? own : null,
      ...(sharedSums ?? rowSums("kept", label)),
      inner: backward ? inner(label) : sharedInner,
    };
  });
}

function record<K extends string, V>(keys: readonly K[], valueOf: (key: K) => V): Record<K, V> {
  return Object.fromEntries(keys.map((key) => [key, valueOf(key)])) as Record<K, V>;
}
