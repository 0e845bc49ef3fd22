// The frozen weights of a decoder in GPU memory.
import {
  biasName,
  choiceBiasName,
  convName,
  convShape,
  CURVE_PARTS,
  curveName,
  curveParts,
  type DecoderSpec,
  EMBEDDING,
  embeddingWidth,
  type ExpertCounts,
  type ExpertMatrix,
  expertsName,
  expertsShape,
  FINAL_NORM,
  hasBias,
  hasFfn,
  hasFinalNorm,
  hasSharedGate,
  HEAD,
  HEAD_BIAS,
  headDimOf,
  headNormName,
  headNormWidths,
  layerNorms,
  layerOf,
  layerScaleName,
  type LayerSpec,
  normBiasName,
  normName,
  positionRows,
  POSITIONS,
  presentProjections,
  PROJECT_IN,
  PROJECT_OUT,
  type Projection,
  projectionName,
  PROJECTIONS,
  projectionShape,
  routerName,
  sharedGateName,
  tensorShapes,
} from "../spec/decoder.ts";
import { refuse } from "../core/errors.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Device } from "../gpu/device.ts";
import type { RowRange, WeightSource } from "../spec/source.ts";
import type { NormWeights } from "./norm.ts";
import { headStride, strideOf } from "./padding.ts";
import { isFileDtype } from "../../kernels/mod.ts";
import {
  createMatrix,
  hasWholeBlocks,
  type Matrix,
  type MatrixDtype,
  VALUE_DTYPES,
  writeBlocks,
  writeRows,
} from "./products/matrix.ts";
import { StoredWriter, takesStored } from "./products/matrix_stored.ts";
import type { QuantRows } from "../spec/quant.ts";

/** Storage of frozen weights on the GPU: of one type, or "file": the blocks of a quantised GGUF as they are in it. */
export type BaseDtype = "f32" | "f16" | "q8" | "q4" | "file";
/** All of them: types from the largest to the smallest, then "file". */
export const BASE_DTYPES: readonly BaseDtype[] = [...VALUE_DTYPES, "file"];

/** Weights of one layer. The attention or FFN part is null if the layer lacks it. */
export interface LayerWeights {
  /** Counts of the layer. */
  readonly spec: LayerSpec;
  /**
   * Attention: norm of the input, of the output, and of the residual stream after it (null if the spec's `normPlaces`
   * has no norm at that place), projections and head norms.
   */
  readonly attention: {
    readonly norm: NormWeights | null;
    readonly outputNorm: DeviceBuffer | null;
    readonly streamNorm: NormWeights | null;
    readonly q: Matrix;
    readonly k: Matrix;
    readonly v: Matrix;
    readonly o: Matrix;
    /** Weights of the q and k norms, [headStride] or, but for "head", as wide as q and k; null without `qkNorm`. */
    readonly headNorms: { readonly q: DeviceBuffer; readonly k: DeviceBuffer } | null;
    /** Ones [headStride], the weight of the norm of v; null without `valueNorm`. */
    readonly valueNorm: DeviceBuffer | null;
  } | null;
  /** A short convolution: norm of its input, and its parts; see `CONV_PARTS`. */
  readonly conv: {
    readonly norm: NormWeights;
    readonly in: Matrix;
    readonly out: Matrix;
    /** [length, strideOf(hidden)] f32: the weights of each step back, the token's own last. */
    readonly taps: DeviceBuffer;
  } | null;
  /** FFN: its norms likewise (that of attention's input where they share one), and projections; gate is null without one. */
  readonly ffn: {
    readonly norm: NormWeights | null;
    readonly outputNorm: DeviceBuffer | null;
    readonly streamNorm: NormWeights | null;
    readonly gate: Matrix | null;
    /** Null in a layer whose FFN is its experts alone. */
    readonly up: Matrix | null;
    readonly down: Matrix | null;
    /** The numbers of xIELU, as `recordGated` takes them; null with another activation. */
    readonly curve: DeviceBuffer | null;
    /** Null in a dense layer. */
    readonly experts: ExpertWeights | null;
  } | null;
  /** Biases [stride] of the projections that have one. */
  readonly biases: Readonly<Partial<Record<Projection, DeviceBuffer>>>;
  /** Factor of the residual stream at the end of the layer, [1]; null without `layerScale`. */
  readonly scale: DeviceBuffer | null;
}

/** Experts of a layer. */
export interface ExpertWeights {
  /** [experts, hidden] in f32. */
  readonly router: Matrix;
  /** What is added to the scores for the choice [experts] f32; null without it. */
  readonly choiceBias: DeviceBuffer | null;
  /** Matrices of all experts one after another: gate and up [experts · ffn, hidden], down [experts · hidden, ffn]. */
  readonly gate: Matrix;
  readonly up: Matrix;
  readonly down: Matrix;
  /** Gate of the shared expert, [1, hidden] in f32; null without one. */
  readonly sharedGate: Matrix | null;
}

/** All weights of a model. */
export interface Weights extends Disposable {
  /** Shape of the model. */
  readonly spec: DecoderSpec;
  /** Storage of the matrices: see {@link matrixDtype}. */
  readonly baseDtype: BaseDtype;
  /** Token embedding [vocab, embeddingWidth]. */
  readonly embedding: Matrix;
  /** Layers in order. */
  readonly layers: readonly LayerWeights[];
  /** Learned position embeddings [positions, stride] f32; null without them. */
  readonly positions: DeviceBuffer | null;
  /** Matrix from the embedding to the residual stream; null if the spec has no `embeddingWidth`. */
  readonly projectIn: Matrix | null;
  /** Matrix from the residual stream to the head; null likewise. */
  readonly projectOut: Matrix | null;
  /** Final norm; null with norms of the residual stream. */
  readonly finalNorm: NormWeights | null;
  /** Output head; the embedding itself if tied. */
  readonly head: Matrix;
  /** Bias of the output head [strideOf(vocab)]; null without `headBias`. */
  readonly headBias: DeviceBuffer | null;
}

/** Options of {@link loadWeights}. */
export interface LoadOptions {
  /** Storage of the matrices on the GPU. Norms, biases and learned positions are always f32. */
  readonly baseDtype: BaseDtype;
  /** Called after each tensor with the share of parameters loaded, 0 to 1. */
  readonly onProgress?: ((done: number) => void) | undefined;
  /** Called with each matrix that is not f32 whatever `baseDtype` is. */
  readonly onMatrix?: ((matrix: HeldMatrix) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How a matrix of the file lies on the GPU. */
export interface HeldMatrix {
  readonly name: string;
  /** Its type in the file, as `WeightSource.storedDtype` names it. */
  readonly stored: string;
  readonly dtype: MatrixDtype;
  /** Why it does not keep the blocks of the file; null if it does, or was not to. */
  readonly lost: LostBlocks | null;
}

/**
 * Why a matrix is not the blocks of its file: no product reads their type; its heads are padded on the GPU; its columns
 * were cut; or the values were changed.
 */
export type LostBlocks = "type" | "heads" | "columns" | "values";

/** Types of a file that are no blocks. */
const FLOATS: readonly string[] = ["f32", "f16", "bf16", "f64"];
/** The matrices outside the layers. */
const OUTER: readonly string[] = [EMBEDDING, PROJECT_IN, PROJECT_OUT, HEAD];
/** Number of values read at once: few enough that they stay in a CPU's cache from the file to the GPU. */
const CHUNK_VALUES = 1 << 21;
/** Rows are read in multiples of this, because block formats store this many together; see `writeRows`. */
const CHUNK_ROWS = 64;

/** Widths of the query heads and of the KV heads of a layer in memory. */
export function headWidths(spec: DecoderSpec, layer: LayerSpec): { readonly q: number; readonly kv: number } {
  const width = headStride(headDimOf(spec, layer));
  return { q: layer.heads * width, kv: layer.kvHeads * width };
}

/** Shape [out, in] of a projection in memory, with every head padded to `headStride`. */
export function storedShape(spec: DecoderSpec, layer: LayerSpec, projection: Projection): [number, number] {
  const { localHeadDim: _, ...plain } = spec;
  return projectionShape({ ...plain, headDim: headStride(headDimOf(spec, layer)) }, layer, projection);
}

/**
 * Storage of a matrix. With "file" it is that of its blocks in the file, and f16 for a matrix that the file stores
 * otherwise, in blocks of other types too. For q4 the embedding, the output head and their projections are q8, because 4
 * bits there raise the perplexity of SmolLM2-135M by 7 %.
 */
export function matrixDtype(
  name: string,
  { baseDtype, storedDtype }: { readonly baseDtype: BaseDtype; readonly storedDtype: WeightSource["storedDtype"] },
): MatrixDtype {
  if (baseDtype !== "file") return baseDtype === "q4" && OUTER.includes(name) ? "q8" : baseDtype;
  return dtypeOfBlocks(storedDtype(name)) ?? "f16";
}

/** The dtype that holds these blocks of a file as they are; null if there is none. */
function dtypeOfBlocks(type: string): MatrixDtype | null {
  // The layout of q4 is that of q4_1.
  return type === "q4_1" ? "q4" : isFileDtype(type) ? type : null;
}

/** Whether a file has blocks that "file" keeps. */
export function hasOwnBlocks(source: Pick<WeightSource, "spec" | "storedDtype">): boolean {
  return tensorShapes(source.spec).keys().some((name) => dtypeOfBlocks(source.storedDtype(name)) !== null);
}

/**
 * Uploads a model. A dry device only allocates.
 *
 * @throws CompressoError("numeric") if a tensor contains NaN or infinity.
 */
export async function loadWeights(device: Device, source: WeightSource, options: LoadOptions): Promise<Weights> {
  const { spec } = source;
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  const steps = spec.layers.length + 2;
  using writer = new StoredWriter(device);
  let done = 0;
  const progress = (): void => options.onProgress?.(++done / steps);

  const matrix = async (name: string, shape: readonly [number, number], logical: readonly [number, number]) => {
    const { matrix, lost } = await loadMatrix(device, source, { name, shape, logical, own, options, writer });
    options.onMatrix?.({ name, stored: source.storedDtype(name), dtype: matrix.dtype, lost });
    return matrix;
  };
  const { logits: divisor = 1 } = spec.scales ?? {};
  const vector = async (name: string, width = strideOf(spec.hidden)): Promise<DeviceBuffer> => {
    const padded = new Float32Array(width);
    if (!device.isDry) padded.set(finite(name, await source.read(name)));
    // The logits are linear in the final norm's weight, which carries their divisor.
    if (name === FINAL_NORM && divisor !== 1) padded.forEach((value, i) => padded[i] = value / divisor);
    return own(device.uploadBuffer(name, padded));
  };
  const isResidual = spec.normPlaces === "residual";
  const hasOutputNorms = !isResidual && spec.normPlaces !== undefined;
  /** An RMSNorm of each head has the width of a head, the others that of all heads, each padded. */
  const headNorm = async (index: number, of: "q" | "k"): Promise<DeviceBuffer> => {
    const name = headNormName(index, of), layer = spec.layers[index];
    if (!layer) throw new Error(`no layer ${index}`);
    if (spec.qkNorm === "head") return await vector(name, headStride(headDimOf(spec, layer)));
    const { q, k } = headNormWidths(spec, layer), widths = headWidths(spec, layer);
    const [count, width] = of === "q" ? [q, widths.q] : [k, widths.kv];
    if (device.isDry) return own(device.uploadBuffer(name, new Float32Array(width)));
    const data = finite(name, await source.read(name));
    return own(
      device.uploadBuffer(name, padHeads(headDimOf(spec, layer), data, { shape: [1, width], logical: [1, count] })),
    );
  };
  const norm = async (name: string): Promise<NormWeights> => ({
    weight: await vector(name),
    bias: spec.norm === "layer"
      ? await vector(normBiasName(name))
      : spec.norm
      ? own(device.uploadBuffer(`zeros of ${name}`, new Float32Array(strideOf(spec.hidden))))
      : null,
  });

  /** The router decides between experts whose logits may be close, so it keeps f32. */
  const exact = async (name: string, rows: number): Promise<Matrix> => {
    const shape = [rows, spec.hidden] as const, f32 = { ...options, baseDtype: "f32" } as const;
    return (await loadMatrix(device, source, { name, shape, logical: shape, own, options: f32, writer })).matrix;
  };
  const experts = async (index: number, counts: ExpertCounts): Promise<ExpertWeights> => {
    const { [index]: layer } = spec.layers;
    const stack = async (one: ExpertMatrix): Promise<Matrix> => {
      const shape = expertsShape(spec, counts, one);
      return await matrix(expertsName(index, one), shape, shape);
    };
    return {
      router: await exact(routerName(index), counts.count),
      choiceBias: spec.router?.choiceBias ? await vector(choiceBiasName(index), counts.count) : null,
      gate: await stack("gate"),
      up: await stack("up"),
      down: await stack("down"),
      sharedGate: layer && hasSharedGate(spec, layer) ? await exact(sharedGateName(index), 1) : null,
    };
  };

  const convolution = async (index: number, part: "in" | "out"): Promise<Matrix> => {
    const shape = convShape(spec, part);
    return await matrix(convName(index, part), shape, shape);
  };

  try {
    const { hidden, embeddingWidth: inner } = spec, shape = [spec.vocab, inner ?? hidden] as const;
    const embedding = await matrix(EMBEDDING, shape, shape);
    const projection = async (name: string, rows: number, cols: number): Promise<Matrix> =>
      await matrix(name, [rows, cols], [rows, cols]);
    const projectIn = inner === undefined ? null : await projection(PROJECT_IN, hidden, inner);
    const projectOut = inner === undefined ? null : await projection(PROJECT_OUT, inner, hidden);
    const positions = spec.positions ? own(await loadPositions(device, source)) : null;
    progress();
    const layers: LayerWeights[] = [];
    for (const [index, layer] of spec.layers.entries()) {
      const has = layerNorms(spec, layer);
      const shared = spec.parallel === "shared" && has.includes("attention")
        ? await norm(normName(index, "attention"))
        : null;
      const inputNorm = async (place: "attention" | "ffn"): Promise<NormWeights | null> =>
        shared ?? (!isResidual && has.includes(place) ? await norm(normName(index, place)) : null);
      const part = (projection: Projection): Promise<Matrix> =>
        matrix(
          projectionName(index, projection),
          storedShape(spec, layer, projection),
          projectionShape(spec, layer, projection),
        );
      layers.push({
        spec: layer,
        attention: layer.heads === 0 ? null : {
          norm: await inputNorm("attention"),
          outputNorm: hasOutputNorms ? await vector(normName(index, "attention_output")) : null,
          streamNorm: isResidual ? await norm(normName(index, "attention")) : null,
          q: await part("q"),
          k: await part("k"),
          v: await part("v"),
          o: await part("o"),
          headNorms: spec.qkNorm
            ? {
              q: await headNorm(index, "q"),
              k: await headNorm(index, "k"),
            }
            : null,
          valueNorm: spec.valueNorm
            ? own(device.uploadBuffer("ones", new Float32Array(headStride(headDimOf(spec, layer))).fill(1)))
            : null,
        },
        conv: layer.conv
          ? {
            norm: await norm(normName(index, "attention")),
            in: await convolution(index, "in"),
            out: await convolution(index, "out"),
            taps: own(await loadTaps(device, source, index)),
          }
          : null,
        ffn: !hasFfn(layer) ? null : {
          norm: await inputNorm("ffn"),
          outputNorm: hasOutputNorms ? await vector(normName(index, "ffn_output")) : null,
          streamNorm: isResidual ? await norm(normName(index, "ffn")) : null,
          gate: spec.ungated || layer.ffn === 0 ? null : await part("gate"),
          up: layer.ffn === 0 ? null : await part("up"),
          down: layer.ffn === 0 ? null : await part("down"),
          curve: curveParts(spec, layer).length > 0 ? own(await loadCurve(device, source, index)) : null,
          experts: layer.experts ? await experts(index, layer.experts) : null,
        },
        biases: await loadBiases(device, source, { index, own }),
        scale: spec.layerScale ? await vector(layerScaleName(index), 1) : null,
      });
      progress();
    }
    const finalNorm = hasFinalNorm(spec) ? await norm(FINAL_NORM) : null;
    const head = spec.tied ? embedding : await matrix(HEAD, shape, shape);
    const headBias = spec.headBias ? own(await loadHeadBias(device, source)) : null;
    progress();
    device.check();
    const { baseDtype } = options;
    const outer = { embedding, projectIn, positions, finalNorm, projectOut, head, headBias };
    return { spec, baseDtype, ...outer, layers, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Uploads the curve of a layer. */
async function loadCurve(device: Device, source: WeightSource, layer: number): Promise<DeviceBuffer> {
  const curve = new Float32Array(CURVE_PARTS.length);
  if (!device.isDry) {
    const part = async (name: string): Promise<number> => finite(name, await source.read(name))[0] ?? NaN;
    const [p = NaN, n = NaN, beta = NaN, eps = NaN] = await Promise.all(
      CURVE_PARTS.map((one) => part(curveName(layer, one))),
    );
    curve.set([softplus(p), beta + softplus(n), beta, eps]);
  }
  return device.uploadBuffer(`curve of layer ${layer}`, curve);
}

/** Uploads the weights of a convolution's steps, [hidden, length], as [length, strideOf(hidden)]. */
async function loadTaps(device: Device, source: WeightSource, layer: number): Promise<DeviceBuffer> {
  const [channels, length] = convShape(source.spec, "taps"),
    stride = strideOf(channels),
    name = convName(layer, "taps");
  const taps = new Float32Array(length * stride);
  if (!device.isDry) {
    finite(name, await source.read(name)).forEach((value, at) => {
      taps[at % length * stride + Math.floor(at / length)] = value;
    });
  }
  return device.uploadBuffer(name, taps);
}

/** ln(1 + exp(x)). */
function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/** Uploads a matrix in pieces, and says why it does not keep the blocks of the file. */
async function loadMatrix(device: Device, source: WeightSource, { name, shape, logical, own, options, writer }: {
  readonly name: string;
  /** Shape in memory, and in the source. */
  readonly shape: readonly [number, number];
  readonly logical: readonly [number, number];
  readonly own: <T extends Disposable>(resource: T) => T;
  readonly options: Pick<LoadOptions, "baseDtype" | "signal">;
  readonly writer: StoredWriter;
}): Promise<{ readonly matrix: Matrix; readonly lost: LostBlocks | null }> {
  options.signal?.throwIfAborted();
  const { baseDtype } = options, storedDtype = (of: string): string => source.storedDtype(of);
  const [rows, cols] = shape, isPadded = shape[0] !== logical[0] || shape[1] !== logical[1];
  const dtype = matrixDtype(name, { baseDtype, storedDtype });
  const type = source.storedDtype(name);
  // Heads may be padded in memory, and columns cut: those are no blocks of the file.
  let lost: LostBlocks | null = baseDtype !== "file" || FLOATS.includes(type)
    ? null
    : dtype === "f16"
    ? "type"
    : isPadded
    ? "heads"
    : hasWholeBlocks({ dtype, cols })
    ? null
    : "columns";
  if (baseDtype === "file" && dtype !== "f16" && lost === null) {
    const target = createMatrix(device, name, { rows, cols, dtype });
    let isKept = device.isDry;
    try {
      isKept ||= await writeAsStored(device, source, { name, target, writer });
    } finally {
      if (!isKept) target[Symbol.dispose]();
    }
    if (isKept) return { matrix: own(target), lost };
    lost = "values";
  }
  const target = own(createMatrix(device, name, { rows, cols, dtype: baseDtype === "file" ? "f16" : dtype }));
  if (device.isDry) return { matrix: target, lost };
  if (isPadded) {
    const { spec } = source, headDim = headDimOf(spec, spec.layers[layerOf(name)] ?? {});
    writeRows(device, target, 0, padHeads(headDim, await source.read(name), { shape, logical }));
    await device.settleWrites();
    return { matrix: target, lost };
  }
  for (const range of chunksOf(target)) {
    const stored = takesStored(target, type)
      ? await source.readStored?.(name, range, writer.room(target, type, range.count))
      : null;
    if (!stored || !writer.write(target, range.start, { type, bytes: stored })) {
      const blocks = await blocksOf(source, { name, range, dtype: target.dtype });
      if (blocks) writeBlocks(device, target, range.start, blocks);
      else writeRows(device, target, range.start, await source.read(name, range));
    }
    await device.settleWrites();
  }
  return { matrix: target, lost };
}

/** Ranges of rows that are read at once. */
function* chunksOf({ rows, cols }: Matrix): Generator<RowRange> {
  const chunk = CHUNK_ROWS * Math.max(1, Math.floor(CHUNK_VALUES / cols / CHUNK_ROWS));
  for (let start = 0; start < rows; start += chunk) yield { start, count: Math.min(chunk, rows - start) };
}

/** Writes the blocks of the file. Returns false if the source has none of them, as where values were changed. */
async function writeAsStored(device: Device, source: WeightSource, { name, target, writer }: {
  readonly name: string;
  readonly target: Matrix;
  readonly writer: StoredWriter;
}): Promise<boolean> {
  const type = source.storedDtype(name);
  for (const range of chunksOf(target)) {
    const bytes = await source.readStored?.(name, range, writer.room(target, type, range.count));
    if (!bytes) return false;
    if (!writer.write(target, range.start, { type, bytes })) {
      if (!isFileDtype(target.dtype)) return false;
      refuse("numeric", `cannot use the weights in '${name}'`, {
        rule: "the scales of blocks are finite",
        value: `NaN or infinity in rows ${range.start} to ${range.start + range.count - 1}`,
        fix: "check the weight file",
      });
    }
    await device.settleWrites();
  }
  return true;
}

/**
 * Combines the layers of `weights` with the embedding and head of `source`, which must otherwise be the same model.
 * Disposing the result frees only its embedding and head.
 */
export async function shareLayers(
  device: Device,
  weights: Weights,
  { source, signal }: { readonly source: WeightSource; readonly signal?: AbortSignal | undefined },
): Promise<Weights> {
  const { spec } = source, shape = [spec.vocab, embeddingWidth(spec)] as const, owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  const options = { baseDtype: weights.baseDtype, signal };
  using writer = new StoredWriter(device);
  const load = async (name: string): Promise<Matrix> =>
    (await loadMatrix(device, source, { name, shape, logical: shape, own, options, writer })).matrix;
  try {
    const embedding = await load(EMBEDDING), head = spec.tied ? embedding : await load(HEAD);
    const headBias = spec.headBias ? own(await loadHeadBias(device, source)) : null;
    return { ...weights, spec, embedding, head, headBias, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/**
 * Combines the matrices of `weights` with the biases of `source`, which must otherwise be the same model. Disposing the
 * result frees only its biases; the matrices still belong to `weights`.
 */
export async function shareWeights(device: Device, weights: Weights, source: WeightSource): Promise<Weights> {
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  try {
    const layers: LayerWeights[] = [];
    for (const [index, layer] of weights.layers.entries()) {
      layers.push({ ...layer, biases: await loadBiases(device, source, { index, own }) });
    }
    return { ...weights, spec: source.spec, layers, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Overwrites the biases on the GPU with those of `source`, which must have biases of the same projections. */
export async function writeBiases(device: Device, weights: Weights, source: WeightSource): Promise<void> {
  for (const [index, { biases }] of weights.layers.entries()) {
    for (const projection of PROJECTIONS) {
      const target = biases[projection];
      if (target) device.write(target, await readBias(source, index, projection));
    }
  }
}

async function loadPositions(device: Device, source: WeightSource): Promise<DeviceBuffer> {
  const { spec } = source, rows = positionRows(spec), stride = strideOf(spec.hidden);
  const buffer = device.createBuffer(POSITIONS, 4 * rows * stride);
  if (device.isDry) return buffer;
  const padded = new Float32Array(rows * stride), data = finite(POSITIONS, await source.read(POSITIONS));
  for (let row = 0; row < rows; row++) {
    padded.set(data.subarray(row * spec.hidden, (row + 1) * spec.hidden), row * stride);
  }
  device.write(buffer, padded);
  return buffer;
}

/** The bias of the output head, whose divisor of the logits the final norm carries: it is divided too. */
async function loadHeadBias(device: Device, source: WeightSource): Promise<DeviceBuffer> {
  const { spec } = source, padded = new Float32Array(strideOf(spec.vocab)), { logits: divisor = 1 } = spec.scales ?? {};
  if (!device.isDry) padded.set(finite(HEAD_BIAS, await source.read(HEAD_BIAS)).map((value) => value / divisor));
  return device.uploadBuffer(HEAD_BIAS, padded);
}

async function loadBiases(
  device: Device,
  source: WeightSource,
  { index, own }: { readonly index: number; readonly own: <T extends Disposable>(resource: T) => T },
): Promise<LayerWeights["biases"]> {
  const { spec } = source, layer = spec.layers[index];
  const biases: Partial<Record<Projection, DeviceBuffer>> = {};
  for (const projection of layer ? presentProjections(spec, layer) : []) {
    if (!hasBias(spec, projection) || !layer) continue;
    const [width] = storedShape(spec, layer, projection), name = biasName(index, projection);
    const padded = device.isDry ? new Float32Array(strideOf(width)) : await readBias(source, index, projection);
    biases[projection] = own(device.uploadBuffer(name, padded));
  }
  return biases;
}

/** A bias in memory layout, [strideOf(width)]. */
async function readBias(
  source: WeightSource,
  index: number,
  projection: Projection,
): Promise<Float32Array<ArrayBuffer>> {
  const { spec } = source, layer = spec.layers[index] ?? { heads: 0, kvHeads: 0, ffn: 0 };
  const name = biasName(index, projection), data = finite(name, await source.read(name));
  const [width] = storedShape(spec, layer, projection);
  const padded = new Float32Array(strideOf(width));
  const shapes = { shape: [1, width], logical: [1, data.length] } as const;
  padded.set(width === data.length ? data : padHeads(headDimOf(spec, layer), data, shapes));
  return padded;
}

/** Weight matrix of a projection; null if the layer lacks that part. */
export function projectionMatrix(layer: LayerWeights, projection: Projection): Matrix | null {
  switch (projection) {
    case "q":
    case "k":
    case "v":
    case "o":
      return layer.attention?.[projection] ?? null;
    case "gate":
    case "up":
    case "down":
      return layer.ffn?.[projection] ?? null;
  }
}

/** Pads heads of headDim rows or columns to their width in memory. */
export function padHeads(
  headDim: number,
  data: Float32Array,
  { shape, logical }: { readonly shape: readonly [number, number]; readonly logical: readonly [number, number] },
): Float32Array<ArrayBuffer> {
  const padded = new Float32Array(shape[0] * shape[1]);
  for (let row = 0; row < logical[0]; row++) {
    const targetRow = shape[0] === logical[0] ? row : paddedIndex(headDim, row);
    for (let col = 0; col < logical[1]; col++) {
      const targetCol = shape[1] === logical[1] ? col : paddedIndex(headDim, col);
      padded[targetRow * shape[1] + targetCol] = data[row * logical[1] + col] ?? 0;
    }
  }
  return padded;
}

/** The inverse of {@link padHeads}. */
export function unpadHeads(
  headDim: number,
  padded: Float32Array,
  { shape, logical }: { readonly shape: readonly [number, number]; readonly logical: readonly [number, number] },
): Float32Array<ArrayBuffer> {
  const data = new Float32Array(logical[0] * logical[1]);
  for (let row = 0; row < logical[0]; row++) {
    const sourceRow = shape[0] === logical[0] ? row : paddedIndex(headDim, row);
    for (let col = 0; col < logical[1]; col++) {
      const sourceCol = shape[1] === logical[1] ? col : paddedIndex(headDim, col);
      data[row * logical[1] + col] = padded[sourceRow * shape[1] + sourceCol] ?? 0;
    }
  }
  return data;
}

function paddedIndex(headDim: number, index: number): number {
  const head = Math.floor(index / headDim);
  return head * headStride(headDim) + index - head * headDim;
}

/** Rows as quantised blocks of the file, if it has them and the matrix can store them without requantising. */
async function blocksOf(
  source: WeightSource,
  { name, range, dtype }: { readonly name: string; readonly range: RowRange; readonly dtype: MatrixDtype },
): Promise<QuantRows | null> {
  if (dtype !== "q8" && dtype !== "q4") return null;
  return await source.readBlocks?.(name, { bits: dtype === "q8" ? 8 : 4, rows: range }) ?? null;
}

function finite(name: string, data: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += Math.abs(data[i] ?? 0) * 0;
  if (sum === 0) return data;
  const at = data.findIndex((value) => !Number.isFinite(value));
  refuse("numeric", `cannot use the weights in '${name}'`, {
    rule: "weights must be finite",
    value: `element ${at} is ${data[at]}`,
    fix: "get an intact copy of the model",
  });
}
